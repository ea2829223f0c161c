// DoRA's magnitudes: y = z ∘ g (+ bias) by columns, the gradient of the magnitudes, and the row norms of W + s·B·A.
//
//     scale      a block takes one tile of one row, a thread W = 8 columns (1 where rows are ragged)
//     dm         a thread a column: dm = (Σ_rows dy·z) / norm, in slabs of rows whose partial sums a second
//                kernel adds in order: the same bits every time, without atomics
//     norm       a thread a row n of W:  √( ‖W_n‖² + Σ_i B[n, i] · (2s·AWᵀ[i, n] + s²·AAᵀBᵀ[i, n]) )
//
// Floor: memory-bound: scale 2 elements' bytes, dm 2 elements' bytes, norm 3·r f32 a row.
// Launch: scale: grid (rows · tiles), block (N / W rounded up to warps, at most 256).
//         dm: grid (N / 256, slabs), block 256. sum, norm: grid (N / 256), block 256.
#include "vector.cuh"

template <int W, typename T>
__device__ __forceinline__ void scale_some(
    T* __restrict__ y, const T* __restrict__ z, const float* __restrict__ factor, const float* __restrict__ bias,
    u32 column)
{
    Vector v, g;
    v.load<W>(z + column);
    g.load<W>(factor + column);
#pragma unroll
    for (int k = 0; k < W; k++) v.v[k] *= g.v[k];
    if (bias != nullptr) {
        g.load<W>(bias + column);
#pragma unroll
        for (int k = 0; k < W; k++) v.v[k] += g.v[k];
    }
    v.store<W>(y + column);
}

template <typename T>
__device__ __forceinline__ void scale(
    T* __restrict__ y, const T* __restrict__ z, const float* __restrict__ factor, const float* __restrict__ bias,
    u32 n, u32 tiles, u32 vectors)
{
    const u32 row = blockIdx.x / tiles, tile = blockIdx.x % tiles;
    const u32 column = (tile * blockDim.x + threadIdx.x) * (vectors ? 8 : 1);
    if (column >= n) return;
    const size_t at = static_cast<size_t>(row) * n;
    if (vectors) scale_some<8>(y + at, z + at, factor, bias, column);
    else scale_some<1>(y + at, z + at, factor, bias, column);
}

template <typename T>
__device__ __forceinline__ void magnitude(
    float* __restrict__ partial, const T* __restrict__ dy, const T* __restrict__ z, u32 rows, u32 n, u32 slab)
{
    const u32 column = blockIdx.x * 256 + threadIdx.x;
    if (column >= n) return;
    const u32 first = blockIdx.y * slab, end = min(rows, first + slab);
    float sum = 0.0f;
#pragma unroll 4
    for (u32 r = first; r < end; r++) {
        const size_t at = static_cast<size_t>(r) * n + column;
        sum = fmaf(load_f32(dy + at), load_f32(z + at), sum);
    }
    partial[static_cast<size_t>(blockIdx.y) * n + column] = sum;
}

extern "C" __global__ void __launch_bounds__(256) dora_bwd_sum_f32(
    float* __restrict__ dm, const float* __restrict__ partial, const float* __restrict__ norm, u32 slabs, u32 n)
{
    const u32 column = blockIdx.x * 256 + threadIdx.x;
    if (column >= n) return;
    float sum = 0.0f;
#pragma unroll 1
    for (u32 s = 0; s < slabs; s++) sum += partial[static_cast<size_t>(s) * n + column];
    dm[column] = sum / norm[column];
}

extern "C" __global__ void __launch_bounds__(256) dora_norm_f32(
    float* __restrict__ norm, const float* __restrict__ squares, const float* __restrict__ b,
    const float* __restrict__ aw, const float* __restrict__ aab, u32 n, u32 rank, float s)
{
    const u32 row = blockIdx.x * 256 + threadIdx.x;
    if (row >= n) return;
    float sum = 0.0f;
#pragma unroll 1
    for (u32 i = 0; i < rank; i++) {
        const size_t at = static_cast<size_t>(i) * n + row;
        sum = fmaf(b[static_cast<size_t>(row) * rank + i], fmaf(s, aab[at], 2.0f * aw[at]), sum);
    }
    norm[row] = sqrtf(fmaxf(fmaf(s, sum, squares[row]), 0.0f));
}

#define DORA(T, DTYPE)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) dora_fwd_##DTYPE(                                       \
        T* __restrict__ y, const T* __restrict__ z, const float* __restrict__ factor,                         \
        const float* __restrict__ bias, u32 n, u32 tiles, u32 vectors)                                        \
    {                                                                                                         \
        scale<T>(y, z, factor, bias, n, tiles, vectors);                                                      \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) dora_bwd_dm_##DTYPE(                                    \
        float* __restrict__ partial, const T* __restrict__ dy, const T* __restrict__ z, u32 rows, u32 n,      \
        u32 slab)                                                                                             \
    {                                                                                                         \
        magnitude<T>(partial, dy, z, rows, n, slab);                                                          \
    }
FOR_EACH_DTYPE(DORA)
