// Sum or maximum over the middle of [outer, mid, inner], blockwise like the CPU: chunks of the middle are
// folded by one group of threads each into f32 partial results, then the partial results the same way. The
// tree depends on the shape alone: the same bits every time, without atomics.
//
//     row   inner = 1: `lanes` threads (a power of two up to a warp, or the block) take one chunk,
//           8 elements an access where rows are aligned
//     col   inner > 1: a block takes 256 (or 32, unaligned) columns of one chunk; its 8 warps walk the
//           rows, a lane 8 columns, and meet in shared memory, laid out so that no access conflicts:
//           column 8·l + j lies at (j / 4)·144 + 4·l + j % 4
//
// The result, times `scale` in the last stage, has the dtype `out` says (0 f32, 1 bf16, 2 f16). NaN is a
// maximum. Floor: x read once. Launch: 256 threads, a group a chunk (row) or a block a chunk and tile.
// Backward of a maximum, rows of `mid`: dx = dy / (number of equals) where x = y. Floor: x read twice
// (the second time from cache), dx written.
#include "reduce.cuh"
#include "vector.cuh"

__device__ __forceinline__ float combine(u32 max, float a, float b)
{
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(a), "f"(b));
    return max ? larger : a + b;
}

__device__ __forceinline__ void store_as(void* y, u64 at, float v, u32 out)
{
    if (out == 0) {
        store_f32(static_cast<float*>(y) + at, v);
    } else if (out == 1) {
        store_f32(static_cast<bf16*>(y) + at, v);
    } else {
        store_f32(static_cast<f16*>(y) + at, v);
    }
}

// One value of `lanes` neighbouring threads, in their first one; the block's when `lanes` is 256.
__device__ __forceinline__ float gather(u32 max, float x, u32 lanes)
{
    __shared__ float scratch[8];
#pragma unroll 1
    for (u32 offset = min(lanes, 32u) / 2; offset > 0; offset /= 2)
        x = combine(max, x, __shfl_xor_sync(0xffffffffu, x, offset));
    if (lanes <= 32) return x;
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = scratch[0];
#pragma unroll 1
    for (u32 w = 1; w < 8; w++) x = combine(max, x, scratch[w]);
    return x;
}

template <typename T>
__device__ __forceinline__ void row(
    void* y, const T* x, u64 rows, u64 mid, u32 chunk, u32 lanes, u32 vectors, u32 max, float scale, u32 out)
{
    const u64 task = thread_index() / lanes, chunks = (mid + chunk - 1) / chunk;
    const u32 lane = threadIdx.x % lanes;
    const bool valid = task < rows * chunks;
    const float start = max ? __uint_as_float(0xff800000u) : 0.0f;
    Vector sum;
#pragma unroll
    for (int i = 0; i < 8; i++) sum.v[i] = start;
    if (valid) {
        const u64 r = task / chunks, from = (task - r * chunks) * chunk;
        const u32 n = static_cast<u32>(mid - from < chunk ? mid - from : chunk);
        x += r * mid + from;
        const u32 width = vectors ? 8 : 1;
#pragma unroll 1
        for (u32 i = lane * width; i < n; i += lanes * width) {
            Vector v;
            load_some(v, x + i, vectors, start);
#pragma unroll
            for (int j = 0; j < 8; j++) sum.v[j] = combine(max, sum.v[j], v.v[j]);
        }
    }
#pragma unroll
    for (int step = 4; step > 0; step /= 2)
#pragma unroll
        for (int i = 0; i < step; i++) sum.v[i] = combine(max, sum.v[i], sum.v[i + step]);
    const float total = gather(max, sum.v[0], lanes);
    if (valid && lane == 0) store_as(y, task, total * scale, out);
}

template <typename T>
__device__ __forceinline__ void col(
    void* y, const T* x, u64 mid, u64 inner, u32 chunk, u32 chunks, u32 tiles, u32 vectors, u32 max, float scale,
    u32 out)
{
    __shared__ float4 meet[8][72];
    const u32 lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const u32 group = blockIdx.x / tiles, tile = blockIdx.x - group * tiles;
    const u32 o = group / chunks, c = group - o * chunks;
    const u32 width = vectors ? 256 : 32;
    const u64 first = static_cast<u64>(tile) * width, column = first + lane * (width / 32);
    const u64 from = static_cast<u64>(c) * chunk;
    const u32 n = static_cast<u32>(mid - from < chunk ? mid - from : chunk);
    const float start = max ? __uint_as_float(0xff800000u) : 0.0f;
    Vector sum, v;
#pragma unroll
    for (int i = 0; i < 8; i++) sum.v[i] = start;
    if (column < inner) {
        x += (o * mid + from + warp) * inner + column;
#pragma unroll 1
        for (u32 r = warp; r < n; r += 8, x += 8 * inner) {
            load_some(v, x, vectors, start);
#pragma unroll
            for (int j = 0; j < 8; j++) sum.v[j] = combine(max, sum.v[j], v.v[j]);
        }
    }
    meet[warp][lane] = make_float4(sum.v[0], sum.v[1], sum.v[2], sum.v[3]);
    meet[warp][36 + lane] = make_float4(sum.v[4], sum.v[5], sum.v[6], sum.v[7]);
    __syncthreads();
    const u32 t = threadIdx.x;
    if (t >= width || first + t >= inner) return;
    const u32 at = vectors ? t / 4 % 2 * 144 + t / 8 * 4 + t % 4 : t * 4;
    float total = start;
#pragma unroll 1
    for (u32 w = 0; w < 8; w++) total = combine(max, total, reinterpret_cast<const float*>(meet[w])[at]);
    store_as(y, static_cast<u64>(group) * inner + first + t, total * scale, out);
}

template <typename T>
__device__ __forceinline__ void maximum_gradient(
    T* dx, const T* x, const T* y, const T* dy, u64 rows, u64 mid, u32 lanes, u32 vectors)
{
    const u64 r = thread_index() / lanes;
    const u32 width = vectors ? 8 : 1, first = threadIdx.x % lanes * width, step = lanes * width;
    x += r * mid, dx += r * mid;
    if (r >= rows) mid = 0;
    const float top = r < rows ? load_f32(y + r) : 0.0f;
    const float nan = __uint_as_float(0x7fc00000u);  // equals nothing
    float count = 0.0f;
    Vector v;
#pragma unroll 1
    for (u64 i = first; i < mid; i += step) {
        load_some(v, x + i, vectors, nan);
#pragma unroll
        for (int j = 0; j < 8; j++) count += v.v[j] == top ? 1.0f : 0.0f;
    }
    count = gather(0, count, lanes);
    if (r >= rows) return;
    const float each = load_f32(dy + r) / count;
#pragma unroll 1
    for (u64 i = first; i < mid; i += step) {
        load_some(v, x + i, vectors, nan);
#pragma unroll
        for (int j = 0; j < 8; j++) v.v[j] = v.v[j] == top ? each : 0.0f;
        store_some(v, dx + i, vectors);
    }
}

#define REDUCE(T, dtype)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256) reduce_fwd_row_##dtype(                                 \
        void* y, const T* x, u64 rows, u64 mid, u32 chunk, u32 lanes, u32 vectors, u32 max, float scale,      \
        u32 out)                                                                                              \
    {                                                                                                         \
        row<T>(y, x, rows, mid, chunk, lanes, vectors, max, scale, out);                                      \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) reduce_fwd_col_##dtype(                                 \
        void* y, const T* x, u64 mid, u64 inner, u32 chunk, u32 chunks, u32 tiles, u32 vectors, u32 max,      \
        float scale, u32 out)                                                                                 \
    {                                                                                                         \
        col<T>(y, x, mid, inner, chunk, chunks, tiles, vectors, max, scale, out);                             \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) reduce_bwd_max_##dtype(                                 \
        T* dx, const T* x, const T* y, const T* dy, u64 rows, u64 mid, u32 lanes, u32 vectors)                \
    {                                                                                                         \
        maximum_gradient<T>(dx, x, y, dy, rows, mid, lanes, vectors);                                         \
    }
FOR_EACH_DTYPE(REDUCE)
