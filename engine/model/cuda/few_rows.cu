// A few rows times a matrix: y[r][n] = sum over k of x[r][k] * matrix[n][k], plus residual[r][n] if there is one.
//
// A block computes COLUMNS columns of all rows. Its warps share the sum out among them and multiply on tensor cores: 16
// columns of the matrix by 8 rows (fewer are filled up with repetitions, whose results are dropped). Which k stands at
// which place of such a product does not matter as long as both sides agree, so every lane reads 16 bytes in a row:
// the matrix is read once, and as it lies. Sums are kept in 32 bits and rounded once.
//
// A body for mx.fast.cuda_kernel, which writes the signature: T and WARPS are constants. Sizes are not, so that a model
// needs one kernel for all its matrices. `multiply_add` comes from tensor_cores.cuh. Kept to what C and CUDA share: the
// tests run it on a CPU.

enum {
  MOST_ROWS = 8,
  COLUMNS = 16,
  PIECE = 8,                    // elements that a lane reads at once, 16 bits each
  SPAN = 4 * PIECE,             // and that four lanes read of a row
  AT_ONCE = 4,                  // reads of each lane that are under way together
  STRIDE = WARPS * AT_ONCE * SPAN
};
typedef struct __align__(16) { unsigned at[4]; } Packed;  // two elements each

__shared__ float shares[WARPS][COLUMNS * MOST_ROWS];

const int lane = threadIdx.x & 31;
const int warp = threadIdx.x >> 5;
const int line = lane >> 2;     // of the matrix's columns, and eight below it; of the rows
const int piece = (lane & 3) * PIECE;
const int first = blockIdx.x * COLUMNS;
const int rows = sizes[0];
const int sum_length = sizes[1];
const int column_count = sizes[2];
const int has_residual = sizes[3];

// What lies beyond the last column or row is computed as the last one and dropped.
const int upper = first + line < column_count ? first + line : column_count - 1;
const int lower = first + line + 8 < column_count ? first + line + 8 : column_count - 1;
const T* upper_at = matrix + (long)upper * sum_length + piece;
const T* lower_at = matrix + (long)lower * sum_length + piece;
const T* row_at = x + (long)(line < rows ? line : rows - 1) * sum_length + piece;

float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
for (int from = warp * AT_ONCE * SPAN; from < sum_length; from += STRIDE) {
  Packed uppers[AT_ONCE], lowers[AT_ONCE], given[AT_ONCE];
#pragma unroll
  for (int u = 0; u < AT_ONCE; ++u) {
    // The last reads of a row that does not fill them all read its beginning again; they are not multiplied.
    const int k = from + u * SPAN < sum_length ? from + u * SPAN : 0;
    uppers[u] = *(const Packed*)(upper_at + k);
    lowers[u] = *(const Packed*)(lower_at + k);
    given[u] = *(const Packed*)(row_at + k);
  }
#pragma unroll
  for (int u = 0; u < AT_ONCE; ++u) {
    if (from + u * SPAN < sum_length) {
      multiply_add((T*)0, sums, uppers[u].at[0], lowers[u].at[0], uppers[u].at[1], lowers[u].at[1], given[u].at[0],
                   given[u].at[1]);
      multiply_add((T*)0, sums, uppers[u].at[2], lowers[u].at[2], uppers[u].at[3], lowers[u].at[3], given[u].at[2],
                   given[u].at[3]);
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
