// sums (16 x 8) += a (16 x 16) times b (16 x 8) by one warp, 16-bit factors and 32-bit sums, spread over its lanes as
// NVIDIA's PTX manual says for mma.m16n8k16: lane l holds, with g = l / 4 and t = 2 * (l % 4), of a the pairs of columns
// (t, t + 1) of rows g and g + 8 and (t + 8, t + 9) of both; of b the pairs of rows (t, t + 1) and (t + 8, t + 9) of
// column g; of the sums (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1). The first argument only names the type.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define SCRIBEWIRE_MULTIPLY_ADD(TYPE, NAME)                                                                         \
  __device__ __forceinline__ void multiply_add(                                                                     \
      const TYPE*, float* sums, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {     \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 "                                     \
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                  \
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                       \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                           \
  }

SCRIBEWIRE_MULTIPLY_ADD(__nv_bfloat16, "bf16")
SCRIBEWIRE_MULTIPLY_ADD(__half, "f16")

// Two whole numbers from 0 to 255 as 16-bit ones side by side, the first in the low half. Exact; by way of numbers whose
// low bits are the whole number, because converting proper is slow on these devices.
__device__ __forceinline__ unsigned pair_of(const __nv_bfloat16*, unsigned low, unsigned high) {
  const float a = __uint_as_float(0x4b000000u | low) - 8388608.0f;
  const float b = __uint_as_float(0x4b000000u | high) - 8388608.0f;
  return __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x7632);
}

__device__ __forceinline__ unsigned pair_of(const __half*, unsigned low, unsigned high) {
  const unsigned shifted = 0x64006400u | low | high << 16;
  const __half2 pair = __hsub2(*(const __half2*)&shifted, __float2half2_rn(1024.0f));
  return *(const unsigned*)&pair;
}
