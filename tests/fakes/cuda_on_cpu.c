// Enough of CUDA for one kernel's body on a CPU: each of a block's threads is a context of its own, and they take turns
// whenever one waits for others. Compiled with -D for the body's constants, -DBODY for its file, -DPARAMETERS and
// -DARGUMENTS for what it is given (the latter from the array `given`) and -include for its macros.
#define _GNU_SOURCE
#include <math.h>
#include <string.h>
#include <ucontext.h>

#define THREADS (WARPS * 32)
#define STACK_BYTES (64 * 1024)
#define __shared__ static
#define __align__(bytes)  /* what a CPU allocates is aligned to less */

typedef struct {
  int x, y, z;
} Place;

typedef struct {
  int arrived, turns;
} Barrier;

static Place threadIdx, blockIdx;
static ucontext_t scheduler, contexts[THREADS];
static int is_over[THREADS];
static Barrier of_block, of_warp[WARPS];
static float shown[WARPS][32];
static void** arguments;

static void wait_for(Barrier* barrier, int count) {
  const int turn = barrier->turns;
  if (++barrier->arrived == count) {
    barrier->arrived = 0;
    ++barrier->turns;
  }
  while (barrier->turns == turn) {
    swapcontext(&contexts[threadIdx.x], &scheduler);
  }
}

static inline float __shfl_xor_sync(unsigned mask, float value, int apart) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  (void)mask;
  shown[warp][lane] = value;
  wait_for(&of_warp[warp], 32);
  const float other = shown[warp][lane ^ apart];
  wait_for(&of_warp[warp], 32);
  return other;
}

// As tensor_cores.cuh has it: whose pairs stand where is what is tried here.
static inline void multiply_add(const T* type, float* sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                                unsigned b0, unsigned b1) {
  static unsigned a_of[WARPS][32][4], b_of[WARPS][32][2];
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const unsigned a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
  (void)type;
  memcpy(a_of[warp][lane], a, sizeof a);
  memcpy(b_of[warp][lane], b, sizeof b);
  wait_for(&of_warp[warp], 32);
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 16; ++k) {
      T left[4 / sizeof(T)], right[4 / sizeof(T)];
      memcpy(left, &a_of[warp][row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)], sizeof left);
      memcpy(right, &b_of[warp][column * 4 + k % 8 / 2][k / 8], sizeof right);
      sums[i] += (float)left[k % (4 / sizeof(T))] * (float)right[k % (4 / sizeof(T))];
    }
  }
  wait_for(&of_warp[warp], 32);
}

static inline unsigned pair_of(const T* type, unsigned low, unsigned high) {
  const T both[2] = {(T)low, (T)high};
  unsigned packed = 0;
  (void)type;
  memcpy(&packed, both, sizeof packed);
  return packed;
}

static void __syncthreads(void) { wait_for(&of_block, THREADS); }

static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }

static void kernel(PARAMETERS) {
#include BODY
}

static void run_thread(void) {
  void** given = arguments;
  kernel(ARGUMENTS);
  is_over[threadIdx.x] = 1;
}

// given: the kernel's arguments in their order.
void run(void** given, int columns_of_blocks, int rows_of_blocks) {
  static char stacks[THREADS][STACK_BYTES];
  arguments = given;
  for (int block = 0; block < columns_of_blocks * rows_of_blocks; ++block) {
    blockIdx = (Place){block % columns_of_blocks, block / columns_of_blocks, 0};
    for (int thread = 0; thread < THREADS; ++thread) {
      is_over[thread] = 0;
      getcontext(&contexts[thread]);
      contexts[thread].uc_stack.ss_sp = stacks[thread];
      contexts[thread].uc_stack.ss_size = STACK_BYTES;
      contexts[thread].uc_link = &scheduler;
      makecontext(&contexts[thread], run_thread, 0);
    }
    for (int left = THREADS; left;) {
      left = 0;
      for (int thread = 0; thread < THREADS; ++thread) {
        if (!is_over[thread]) {
          ++left;
          threadIdx = (Place){thread, 0, 0};
          swapcontext(&scheduler, &contexts[thread]);
        }
      }
    }
  }
}
