// The kernels around a GEMM, all bound by memory, an element a thread, neighbours in neighbouring threads.
//
// gemm_reduce_*   C = alpha · Σ partials (+ bias) + beta · C: the splits of K in their order, so that results do not
//                 depend on scheduling. Floor: 4 bytes a partial read + C. Also writes C whose rows the GEMM's
//                 16-byte stores cannot.
// gemm_pad        a strided 16-bit matrix to rows of a multiple of 8 elements, which cp.async's 16-byte chunks need.
//                 Floor: 4 bytes an element.
// column_sums_*   Σ over rows of dy [rows, n], in f32: the gradient of a bias. 32 columns a block, 8 rows at a time
//                 in a fixed order. Floor: one read of dy.
// Launch: 256 threads; no dynamic shared memory.
#include "element.cuh"

template <class E>
DEVICE void reduce(const float *parts, typename E::Type *c, const float *bias, u32 m, u32 n, u32 ld_parts, u32 ldc,
                   u64 c_stride, u32 splits, float alpha, float beta) {
  u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (u64)m * n) return;
  u32 row = i / n, col = i % n;
  u64 size = (u64)m * ld_parts;
  const float *p = parts + blockIdx.z * splits * size + (u64)row * ld_parts + col;
  float sum = 0.0f;
#pragma unroll 1
  for (u32 s = 0; s < splits; s++) sum += p[s * size];
  sum = alpha * sum + (bias ? bias[col] : 0.0f);
  typename E::Type *to = c + blockIdx.z * c_stride + (u64)row * ldc + col;
  if (beta != 0.0f) sum += beta * E::load(to);
  E::store(to, sum);
}

extern "C" __global__ void __launch_bounds__(256) gemm_pad(const u16 *from, u16 *to, u32 rows, u32 cols, u64 row_stride,
                                                           u64 col_stride, u32 ld) {
  u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= (u64)rows * ld) return;
  u32 row = i / ld, col = i % ld;
  to[i] = col < cols ? from[row * row_stride + col * col_stride] : (u16)0;
}

template <class E> DEVICE void sum_columns(const typename E::Type *dy, float *sums, u32 rows, u32 n) {
  __shared__ float partial[8][33];
  u32 x = threadIdx.x & 31, y = threadIdx.x >> 5, col = blockIdx.x * 32 + x;
  float sum = 0.0f;
  if (col < n) {
#pragma unroll 4
    for (u32 r = y; r < rows; r += 8) sum += E::load(dy + (u64)r * n + col);
  }
  partial[y][x] = sum;
  __syncthreads();
  if (y == 0 && col < n) {
    for (int i = 1; i < 8; i++) sum += partial[i][x];
    sums[col] = sum;
  }
}

#define PARTS(suffix, T)                                                                                      \
  extern "C" __global__ void __launch_bounds__(256)                                                           \
      gemm_reduce_##suffix(const float *parts, Element<T>::Type *c, const float *bias, u32 m, u32 n, u32 ld_parts, \
                           u32 ldc, u64 c_stride, u32 splits, float alpha, float beta) {                      \
    reduce<Element<T>>(parts, c, bias, m, n, ld_parts, ldc, c_stride, splits, alpha, beta);                   \
  }                                                                                                           \
  extern "C" __global__ void __launch_bounds__(256)                                                           \
      column_sums_##suffix(const Element<T>::Type *dy, float *sums, u32 rows, u32 n) {                        \
    sum_columns<Element<T>>(dy, sums, rows, n);                                                               \
  }
PARTS(f32, Single)
PARTS(bf16, Bf16)
PARTS(f16, F16)
