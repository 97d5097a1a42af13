// Everything of one decode step's attention that lies between two products, for one row and one head of keys.
//
// A block normalizes and turns its queries and its new key, writes the new key and value into the cache's buffers in
// place, and attends to the row's columns. Warps take columns in turn, each lane 16 bytes of one, with a running maximum
// and sum (online softmax), so nothing is stored by column. Rounding happens where the separate kernels round: after the
// norm, after its weights, after the rotation.
//
// A body for mx.fast.cuda_kernel, which writes the signature: T, HEADS, KV_HEADS, HEAD_DIM and WARPS are constants,
// EPSILON and SCORE_SCALE (1 / sqrt(HEAD_DIM), times log2 e) macros. Kept to what C and CUDA share: the tests run it on
// a CPU. Columns are attended to by nobody else before this kernel has ended, and no other block touches this one's.

enum {
  GROUP = HEADS / KV_HEADS,
  TOTAL_HEADS = HEADS + 2 * KV_HEADS,
  HALF = HEAD_DIM / 2,
  PAIRS = HALF / 32,               // pairs of a head that a lane turns
  WIDTH = 16 / sizeof(T),          // elements of a column that a lane holds
  LANES = HEAD_DIM / WIDTH,        // lanes that hold a column between them
  COLUMNS = WARPS * 32 / LANES,    // columns that are held at once
  AT_ONCE = 4                      // and columns of each lane whose loads are under way together
};
typedef struct __align__(16) { T at[WIDTH]; } Packed;

__shared__ float queries[GROUP * HEAD_DIM];
__shared__ float new_key[HEAD_DIM];
__shared__ float new_value[HEAD_DIM];
__shared__ float best_of[WARPS][GROUP];
__shared__ float sum_of[WARPS][GROUP];
__shared__ float mixed_of[WARPS][GROUP * HEAD_DIM];

const int lane = threadIdx.x & 31;
const int warp = threadIdx.x >> 5;
const int kv_head = blockIdx.x;
const int row = blockIdx.y;
const int end = layout[0];
const int capacity = layout[1];
const int start = layout[2 + row];
const long buffer = ((long)row * KV_HEADS + kv_head) * capacity * HEAD_DIM;

for (int one = warp; one < GROUP + 2; one += WARPS) {
  const int is_query = one < GROUP;
  const int head = is_query ? kv_head * GROUP + one
                            : HEADS + (one - GROUP) * KV_HEADS + kv_head;
  const T* x = heads + ((long)row * TOTAL_HEADS + head) * HEAD_DIM;
  if (one == GROUP + 1) {
    T* column = (T*)values + buffer + (long)end * HEAD_DIM;
    for (int i = lane; i < HEAD_DIM; i += 32) {
      new_value[i] = (float)x[i];
      column[i] = x[i];
    }
    continue;
  }
  float first[PAIRS], second[PAIRS];
  float square = 0.0f;
  for (int j = 0; j < PAIRS; ++j) {
    first[j] = (float)x[lane + 32 * j];
    second[j] = (float)x[lane + 32 * j + HALF];
    square += first[j] * first[j] + second[j] * second[j];
  }
  for (int apart = 16; apart > 0; apart /= 2) {
    square += __shfl_xor_sync(0xffffffffu, square, apart);
  }
  const float factor = rsqrtf(square / HEAD_DIM + EPSILON);
  const T* weights = scales + (long)head * HEAD_DIM;
  T* column = (T*)keys + buffer + (long)end * HEAD_DIM;
  for (int j = 0; j < PAIRS; ++j) {
    const int i = lane + 32 * j;
    const float a = (float)(T)((float)(T)(first[j] * factor) * (float)weights[i]);
    const float b = (float)(T)((float)(T)(second[j] * factor) * (float)weights[i + HALF]);
    float sine, cosine;
    sincosf((float)(end - start) * frequencies[i], &sine, &cosine);
    const T low = (T)(a * cosine - b * sine);
    const T high = (T)(a * sine + b * cosine);
    if (is_query) {
      queries[one * HEAD_DIM + i] = (float)low * SCORE_SCALE;
      queries[one * HEAD_DIM + i + HALF] = (float)high * SCORE_SCALE;
    } else {
      new_key[i] = (float)low;
      new_key[i + HALF] = (float)high;
      column[i] = low;
      column[i + HALF] = high;
    }
  }
}
__syncthreads();

const int group = threadIdx.x / LANES;
const int part = threadIdx.x % LANES * WIDTH;
float query[GROUP][WIDTH], mix[GROUP][WIDTH], best[GROUP], sum[GROUP];
for (int h = 0; h < GROUP; ++h) {
  // What belongs to nobody: the new column counts once, with the block's first lanes.
  float score = 0.0f;
  for (int e = 0; e < WIDTH; ++e) {
    query[h][e] = queries[h * HEAD_DIM + part + e];
    score += query[h][e] * new_key[part + e];
  }
  for (int apart = LANES / 2; apart > 0; apart /= 2) {
    score += __shfl_xor_sync(0xffffffffu, score, apart);
  }
  best[h] = group == 0 ? score : -1e30f;
  sum[h] = group == 0 ? 1.0f : 0.0f;
  for (int e = 0; e < WIDTH; ++e) {
    mix[h][e] = group == 0 ? new_value[part + e] : 0.0f;
  }
}

for (int from = start; from < end; from += COLUMNS * AT_ONCE) {
  Packed key[AT_ONCE], value[AT_ONCE];
  int is_seen[AT_ONCE];
  for (int u = 0; u < AT_ONCE; ++u) {
    const int wanted = from + u * COLUMNS + group;
    is_seen[u] = wanted < end;
    // Leftovers behind the end may be anything, even what is no number; this column's share will be zero.
    const long at = buffer + (long)(is_seen[u] ? wanted : end - 1) * HEAD_DIM + part;
    key[u] = *(const Packed*)(keys + at);
    value[u] = *(const Packed*)(values + at);
  }
  for (int h = 0; h < GROUP; ++h) {
    float score[AT_ONCE];
    float highest = best[h];
    for (int u = 0; u < AT_ONCE; ++u) {
      score[u] = 0.0f;
      for (int e = 0; e < WIDTH; ++e) {
        score[u] += query[h][e] * (float)key[u].at[e];
      }
      for (int apart = LANES / 2; apart > 0; apart /= 2) {
        score[u] += __shfl_xor_sync(0xffffffffu, score[u], apart);
      }
      if (is_seen[u]) {
        highest = fmaxf(highest, score[u]);
      }
    }
    const float shrunk = exp2f(best[h] - highest);
    best[h] = highest;
    sum[h] *= shrunk;
    for (int e = 0; e < WIDTH; ++e) {
      mix[h][e] *= shrunk;
    }
    for (int u = 0; u < AT_ONCE; ++u) {
      const float share = is_seen[u] ? exp2f(score[u] - highest) : 0.0f;
      sum[h] += share;
      for (int e = 0; e < WIDTH; ++e) {
        mix[h][e] += share * (float)value[u].at[e];
      }
    }
  }
}

// First the lanes of a warp that held other columns, then the warps.
for (int h = 0; h < GROUP; ++h) {
  for (int apart = LANES; apart < 32; apart *= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, best[h], apart);
    const float highest = fmaxf(best[h], other);
    const float mine = exp2f(best[h] - highest);
    const float its = exp2f(other - highest);
    sum[h] = sum[h] * mine + __shfl_xor_sync(0xffffffffu, sum[h], apart) * its;
    for (int e = 0; e < WIDTH; ++e) {
      mix[h][e] = mix[h][e] * mine + __shfl_xor_sync(0xffffffffu, mix[h][e], apart) * its;
    }
    best[h] = highest;
  }
  if (lane < LANES) {
    for (int e = 0; e < WIDTH; ++e) {
      mixed_of[warp][h * HEAD_DIM + part + e] = mix[h][e];
    }
    best_of[warp][h] = best[h];
    sum_of[warp][h] = sum[h];
  }
}
__syncthreads();

for (int i = threadIdx.x; i < GROUP * HEAD_DIM; i += WARPS * 32) {
  const int h = i / HEAD_DIM;
  float highest = best_of[0][h];
  for (int w = 1; w < WARPS; ++w) {
    highest = fmaxf(highest, best_of[w][h]);
  }
  float total = 0.0f, weighed = 0.0f;
  for (int w = 0; w < WARPS; ++w) {
    const float share = exp2f(best_of[w][h] - highest);
    total += share * sum_of[w][h];
    weighed += share * mixed_of[w][i];
  }
  mixed[((long)row * HEADS + kv_head * GROUP) * HEAD_DIM + i] = (T)(weighed / total);
}
