// Softmax over rows, and its gradient y·(dy − Σ y·dy).
//
//     a row: `lanes` threads (a power of two up to a warp, or the block of 256)
//     forward    pass 0 maximum · pass 1 Σ e^(x − max) · pass 2 write
//     backward   pass 0 Σ y·dy · pass 1 write
//
// With `pitch` > 0 a row's elements are kept in shared memory by the thread that read them (pitch in
// elements, a multiple of 8), so global memory is read once; longer rows are read again in each pass. NaN
// is ignored by the maximum and reaches the sum through e^(NaN − max). Floor: 2 elements' bytes forward, 3
// backward. Launch: 256 threads, 256 / lanes rows a block.
#include "reduce.cuh"
#include "vector.cuh"

__device__ __forceinline__ float larger(float a, float b) { return b > a ? b : a; }

// The sum or maximum over `lanes` neighbouring threads, in each of them.
template <bool MAX> __device__ __forceinline__ float all(float x, u32 lanes)
{
    __shared__ float scratch[8];
#pragma unroll 1
    for (u32 offset = min(lanes, 32u) / 2; offset > 0; offset /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, x, offset);
        x = MAX ? larger(x, other) : x + other;
    }
    if (lanes <= 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch[0];
#pragma unroll 1
    for (u32 w = 1; w < 8; w++) x = MAX ? larger(x, scratch[w]) : x + scratch[w];
    return x;
}

extern __shared__ uint4 kept[];

template <typename T>
__device__ __forceinline__ void forward(T* y, const T* x, u64 rows, u64 n, u32 lanes, u32 vectors, u32 pitch)
{
    const float nothing = __uint_as_float(0xff800000u);
    const u64 r = thread_index() / lanes;
    const u32 width = vectors ? 8 : 1, first = threadIdx.x % lanes * width, step = lanes * width;
    T* own = reinterpret_cast<T*>(kept) + threadIdx.x / lanes * pitch;
    x += r * n, y += r * n;
    if (r >= rows) n = 0;
    float max = nothing, sum = 0.0f;
    Vector v;
#pragma unroll 1
    for (u64 i = first; i < n; i += step) {
        load_some(v, x + i, vectors, nothing);
        if (pitch) store_some(v, own + i, vectors);
#pragma unroll
        for (int j = 0; j < 8; j++) max = larger(max, v.v[j]);
    }
    max = all<true>(max, lanes);
    const T* again = pitch ? own : x;
#pragma unroll 1
    for (u64 i = first; i < n; i += step) {
        load_some(v, again + i, vectors, nothing);
#pragma unroll
        for (int j = 0; j < 8; j++) sum += j == 0 || vectors ? __expf(v.v[j] - max) : 0.0f;
    }
    const float scale = 1.0f / all<false>(sum, lanes);
#pragma unroll 1
    for (u64 i = first; i < n; i += step) {
        load_some(v, again + i, vectors, nothing);
#pragma unroll
        for (int j = 0; j < 8; j++) v.v[j] = __expf(v.v[j] - max) * scale;
        store_some(v, y + i, vectors);
    }
}

template <typename T>
__device__ __forceinline__ void backward(
    T* dx, const T* y, const T* dy, u64 rows, u64 n, u32 lanes, u32 vectors, u32 pitch)
{
    const u64 r = thread_index() / lanes;
    const u32 width = vectors ? 8 : 1, first = threadIdx.x % lanes * width, step = lanes * width;
    T* own = reinterpret_cast<T*>(kept) + threadIdx.x / lanes * 2 * pitch;
    y += r * n, dy += r * n, dx += r * n;
    if (r >= rows) n = 0;
    float dot = 0.0f;
    Vector a, b;
#pragma unroll 1
    for (u64 i = first; i < n; i += step) {
        load_some(a, y + i, vectors, 0.0f);
        load_some(b, dy + i, vectors, 0.0f);
        if (pitch) {
            store_some(a, own + i, vectors);
            store_some(b, own + pitch + i, vectors);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) dot += a.v[j] * b.v[j];
    }
    dot = all<false>(dot, lanes);
    const T *first_again = pitch ? own : y, *second_again = pitch ? own + pitch : dy;
#pragma unroll 1
    for (u64 i = first; i < n; i += step) {
        load_some(a, first_again + i, vectors, 0.0f);
        load_some(b, second_again + i, vectors, 0.0f);
#pragma unroll
        for (int j = 0; j < 8; j++) a.v[j] *= b.v[j] - dot;
        store_some(a, dx + i, vectors);
    }
}

#define SOFTMAX(T, dtype)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) softmax_fwd_##dtype(                                    \
        T* y, const T* x, u64 rows, u64 n, u32 lanes, u32 vectors, u32 pitch)                                 \
    {                                                                                                         \
        forward<T>(y, x, rows, n, lanes, vectors, pitch);                                                     \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) softmax_bwd_##dtype(                                    \
        T* dx, const T* y, const T* dy, u64 rows, u64 n, u32 lanes, u32 vectors, u32 pitch)                   \
    {                                                                                                         \
        backward<T>(dx, y, dy, rows, n, lanes, vectors, pitch);                                               \
    }
FOR_EACH_DTYPE(SOFTMAX)
