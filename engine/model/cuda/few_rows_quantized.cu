// A few rows times a quantized matrix: y[r][n] = sum over k of x[r][k] * (scale * code[n][k] + bias), with scale and
// bias of column n's group of 64, plus residual[r][n] if there is one.
//
// As few_rows.cu, with codes of BITS bits in place of numbers. Codes are whole numbers below 256, which 16-bit floating
// point holds exactly, so tensor cores multiply the codes themselves; a group's sum is scaled in 32 bits, and its bias
// counts as often as the sum of the group's x, which one more product, with ones, brings. Nothing is rounded before the
// end, as it would be if numbers were made of the codes first. Four lanes read a group of one column between them.
//
// A body for mx.fast.cuda_kernel, which writes the signature: T, BITS (4 or 8) and WARPS are constants. `multiply_add`
// and `pair_of` come from tensor_cores.cuh. Kept to what C and CUDA share: the tests run it on a CPU.

enum {
  MOST_ROWS = 8,
  COLUMNS = 16,
  GROUP = 64,
  PIECE = GROUP / 4,              // codes that a lane reads at once
  WORDS = PIECE * BITS / 32,
  IN_WORD = 32 / BITS,
  AT_ONCE = 2,                    // groups of each lane whose reads are under way together
  STRIDE = WARPS * AT_ONCE * GROUP
};
typedef struct __align__(16) { unsigned at[4]; } Packed;  // eight numbers
typedef struct __align__(WORDS * 4) { unsigned at[WORDS]; } Codes;

__shared__ float shares[WARPS][COLUMNS * MOST_ROWS];

const int lane = threadIdx.x & 31;
const int warp = threadIdx.x >> 5;
const int line = lane >> 2;       // of the matrix's columns, and eight below it; of the rows
const int first = blockIdx.x * COLUMNS;
const int rows = sizes[0];
const int sum_length = sizes[1];
const int column_count = sizes[2];
const int has_residual = sizes[3];
const int groups = sum_length / GROUP;
const int words = sum_length / IN_WORD;

// What lies beyond the last column or row is computed as the last one and dropped.
const int upper = first + line < column_count ? first + line : column_count - 1;
const int lower = first + line + 8 < column_count ? first + line + 8 : column_count - 1;
const unsigned* upper_at = codes + (long)upper * words + (lane & 3) * WORDS;
const unsigned* lower_at = codes + (long)lower * words + (lane & 3) * WORDS;
const T* row_at = x + (long)(line < rows ? line : rows - 1) * sum_length + (lane & 3) * PIECE;
const unsigned ones = pair_of((T*)0, 1, 1);

float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
for (int from = warp * AT_ONCE * GROUP; from < sum_length; from += STRIDE) {
  Codes uppers[AT_ONCE], lowers[AT_ONCE];
  Packed given[AT_ONCE][2];
  float factors[AT_ONCE][4];
#pragma unroll
  for (int u = 0; u < AT_ONCE; ++u) {
    // The last reads of a row that does not fill them all read its beginning again; they are not multiplied.
    const int group = from + u * GROUP < sum_length ? from / GROUP + u : 0;
    uppers[u] = *(const Codes*)(upper_at + group * (GROUP / IN_WORD));
    lowers[u] = *(const Codes*)(lower_at + group * (GROUP / IN_WORD));
    given[u][0] = *(const Packed*)(row_at + group * GROUP);
    given[u][1] = *(const Packed*)(row_at + group * GROUP + PIECE / 2);
    factors[u][0] = (float)scales[(long)upper * groups + group];
    factors[u][1] = (float)biases[(long)upper * groups + group];
    factors[u][2] = (float)scales[(long)lower * groups + group];
    factors[u][3] = (float)biases[(long)lower * groups + group];
  }
#pragma unroll
  for (int u = 0; u < AT_ONCE; ++u) {
    if (from + u * GROUP < sum_length) {
      float of_codes[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      float of_ones[4] = {0.0f, 0.0f, 0.0f, 0.0f};
#pragma unroll
      for (int four = 0; four < PIECE; four += 4) {
        unsigned pairs[4];  // upper, lower, and both of the next two codes
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = four + 2 * (i >> 1);
          const unsigned word = (i & 1 ? lowers[u].at : uppers[u].at)[at / IN_WORD] >> (at % IN_WORD * BITS);
          const unsigned mask = (1u << BITS) - 1;
          pairs[i] = pair_of((T*)0, word & mask, word >> BITS & mask);
        }
        const unsigned* numbers = given[u][four / 8].at + four % 8 / 2;
        multiply_add((T*)0, of_codes, pairs[0], pairs[1], pairs[2], pairs[3], numbers[0], numbers[1]);
        multiply_add((T*)0, of_ones, ones, ones, ones, ones, numbers[0], numbers[1]);
      }
      sums[0] += factors[u][0] * of_codes[0] + factors[u][1] * of_ones[0];
      sums[1] += factors[u][0] * of_codes[1] + factors[u][1] * of_ones[1];
      sums[2] += factors[u][2] * of_codes[2] + factors[u][3] * of_ones[2];
      sums[3] += factors[u][2] * of_codes[3] + factors[u][3] * of_ones[3];
    }
  }
}

// A lane holds two neighboring rows of its column and of the one eight below.
const int row_pair = (lane & 3) * 2;
shares[warp][row_pair * COLUMNS + line] = sums[0];
shares[warp][(row_pair + 1) * COLUMNS + line] = sums[1];
shares[warp][row_pair * COLUMNS + line + 8] = sums[2];
shares[warp][(row_pair + 1) * COLUMNS + line + 8] = sums[3];
__syncthreads();

for (int i = threadIdx.x; i < rows * COLUMNS; i += WARPS * 32) {
  const int column = first + i % COLUMNS;
  if (column < column_count) {
    float total = 0.0f;
    for (int w = 0; w < WARPS; ++w) {
      total += shares[w][i];
    }
    const long at = (long)(i / COLUMNS) * column_count + column;
    if (has_residual) {
      total += (float)residual[at];
    }
    y[at] = (T)total;
  }
}
