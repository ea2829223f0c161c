// Matrix products through nvcuda::wmma: every element type of sm_80, row- and column-major operands,
// shared and global memory. Compiled to wmma.load / wmma.mma / wmma.store.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <mma.h>
using namespace nvcuda;

// c[32 x 32] = a[32 x 48] · b[48 x 32]; a is row-major, b column-major; one warp a 16 x 16 tile.
extern "C" __global__ void wmma_f16(const half *a, const half *b, float *c) {
    __shared__ half tile[4][16 * 16];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row = warp / 2 * 16, column = warp % 2 * 16;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum;
    wmma::fill_fragment(sum, 0.5f);
    for (int k = 0; k < 48; k += 16) {
        for (int i = lane; i < 256; i += 32) tile[warp][i] = a[(row + i / 16) * 48 + k + i % 16];
        __syncwarp();
        wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> x;
        wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> y;
        wmma::load_matrix_sync(x, tile[warp], 16);
        wmma::load_matrix_sync(y, b + column * 48 + k, 48);
        wmma::mma_sync(sum, x, y, sum);
        __syncwarp();
    }
    for (int i = 0; i < sum.num_elements; i++) sum.x[i] *= 2.0f;
    wmma::store_matrix_sync(c + row * 32 + column, sum, 32, wmma::mem_row_major);
}

// m32n8k16 of bf16 with f32 sums kept in memory between steps (wmma.load.c).
extern "C" __global__ void wmma_bf16_m32n8(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c) {
    wmma::fragment<wmma::accumulator, 32, 8, 16, float> sum;
    wmma::fragment<wmma::matrix_a, 32, 8, 16, __nv_bfloat16, wmma::col_major> x;
    wmma::fragment<wmma::matrix_b, 32, 8, 16, __nv_bfloat16, wmma::row_major> y;
    wmma::load_matrix_sync(sum, c, 8, wmma::mem_row_major);
    wmma::load_matrix_sync(x, a, 32);
    wmma::load_matrix_sync(y, b, 8);
    wmma::mma_sync(sum, x, y, sum);
    wmma::store_matrix_sync(c, sum, 8, wmma::mem_row_major);
}

extern "C" __global__ void wmma_tf32(const float *a, const float *b, float *c) {
    wmma::fragment<wmma::accumulator, 16, 16, 8, float> sum;
    wmma::fragment<wmma::matrix_a, 16, 16, 8, wmma::precision::tf32, wmma::row_major> x;
    wmma::fragment<wmma::matrix_b, 16, 16, 8, wmma::precision::tf32, wmma::row_major> y;
    wmma::fill_fragment(sum, 0.0f);
    for (int k = 0; k < 16; k += 8) {
        wmma::load_matrix_sync(x, a + k, 16);
        wmma::load_matrix_sync(y, b + k * 16, 16);
        for (int i = 0; i < x.num_elements; i++) x.x[i] = wmma::__float_to_tf32(x.x[i]);
        for (int i = 0; i < y.num_elements; i++) y.x[i] = wmma::__float_to_tf32(y.x[i]);
        wmma::mma_sync(sum, x, y, sum);
    }
    wmma::store_matrix_sync(c, sum, 16, wmma::mem_col_major);
}

extern "C" __global__ void wmma_s8(const signed char *a, const signed char *b, int *c) {
    wmma::fragment<wmma::accumulator, 8, 32, 16, int> sum;
    wmma::fragment<wmma::matrix_a, 8, 32, 16, signed char, wmma::row_major> x;
    wmma::fragment<wmma::matrix_b, 8, 32, 16, signed char, wmma::col_major> y;
    wmma::fill_fragment(sum, 1);
    wmma::load_matrix_sync(x, a, 16);
    wmma::load_matrix_sync(y, b, 16);
    wmma::mma_sync(sum, x, y, sum);
    wmma::store_matrix_sync(c, sum, 32, wmma::mem_row_major);
}

extern "C" __global__ void wmma_f16_sums(const half *a, const half *b, half *c) {
    wmma::fragment<wmma::accumulator, 16, 16, 16, half> sum;
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> x;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::row_major> y;
    wmma::fill_fragment(sum, __float2half(0.0f));
    wmma::load_matrix_sync(x, a, 16);
    wmma::load_matrix_sync(y, b, 16);
    wmma::mma_sync(sum, x, y, sum);
    wmma::store_matrix_sync(c, sum, 16, wmma::mem_row_major);
}

extern "C" __global__ void wmma_f64(const double *a, const double *b, double *c) {
    wmma::fragment<wmma::accumulator, 8, 8, 4, double> sum;
    wmma::fragment<wmma::matrix_a, 8, 8, 4, double, wmma::row_major> x;
    wmma::fragment<wmma::matrix_b, 8, 8, 4, double, wmma::col_major> y;
    wmma::fill_fragment(sum, 0.25);
    wmma::load_matrix_sync(x, a, 4);
    wmma::load_matrix_sync(y, b, 4);
    wmma::mma_sync(sum, x, y, sum);
    wmma::store_matrix_sync(c, sum, 8, wmma::mem_row_major);
}
