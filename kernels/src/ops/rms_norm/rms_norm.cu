// RMSNorm, forward and backward, alone and with the residual addition before it.
//
//   forward    r = 1 / sqrt(mean(x²) + eps),  y = x · r · w         (x + delta first, if given)
//   backward   dx = r · (w·dy) − x · r³/H · Σ(w·dy·x)  (+ extra),   dw = Σ_rows dy · x · r
//
// Idea: one block a row, W = 8 elements a thread and step (1 for ragged rows). Up to H = 8192 the row stays in
// registers between the sum and the scaling, so x is read once; wider rows are read again, the sum from the
// end to the start, so that the vectors held last are the ones needed first. The sum goes through shuffles
// and one line of shared memory. dx and dw are separate kernels: LoRA and QLoRA never ask for dw, and dx
// then reads everything once. dw is deterministic: a block sums a slab of rows for 256 columns, a second
// kernel adds the slabs in order.
//
// Floor: memory-bound. Bytes an element at 16 bits: forward 4 (8 with delta), dx 6 (8 with extra), dw 4.
// Eight f32 (weights, f32 rows) are two accesses that share each sector: the second is served by L1.
// Launch: forward and dx: grid (rows), block (H/8 rounded up to warps, at most 1024).
//         dw: grid (H/256, slabs), block 256; slabs of at least 64 rows, at most 256 slabs.
#include "reduce.cuh"
#include "vector.cuh"

constexpr unsigned LINE = 36;

// Σ x² of this thread's elements; keeps the first W of them in `v`. With a delta, x + delta is stored and summed.
template <int W, typename T>
__device__ __forceinline__ float squares(
    Vector& v, const T* __restrict__ x, const T* __restrict__ delta, T* __restrict__ sum, unsigned h)
{
    const unsigned stride = blockDim.x * W, first = threadIdx.x * W;
    const unsigned add = delta != nullptr;
    float square = 0.0f;
#pragma unroll 1
    for (unsigned step = (h + stride - 1) / stride; step-- > 0;) {
        const unsigned i = step * stride + first;
        if (i >= h) continue;
        v.load<W>(x + i);
        if (hidden(add)) {
            Vector d;
            d.load<W>(delta + i);
            // The norm is of what is stored: rounded first.
#pragma unroll
            for (int k = 0; k < W; k++) v.v[k] = rounded<T>(v.v[k] + d.v[k]);
            v.store<W>(sum + i);
        }
#pragma unroll
        for (int k = 0; k < W; k++) square = fmaf(v.v[k], v.v[k], square);
    }
    return square;
}

// y = x · r · w.
template <int W, typename T>
__device__ __forceinline__ void scale(
    Vector& v, const T* x, const float* __restrict__ weight, float r, T* __restrict__ y, unsigned h)
{
    const unsigned first = threadIdx.x * W;
#pragma unroll 1
    for (unsigned i = first; i < h; i += blockDim.x * W) {
        // After an addition a thread reads back only what it wrote itself.
        if (hidden(i) != first) v.load<W>(x + i);
        Vector w;
        w.load<W>(weight + i);
#pragma unroll
        for (int k = 0; k < W; k++) v.v[k] *= r * w.v[k];
        v.store<W>(y + i);
    }
}

template <typename T>
__device__ __forceinline__ void forward(
    const T* __restrict__ x, const T* __restrict__ delta, const float* __restrict__ weight, T* __restrict__ y,
    T* sum, float* __restrict__ inv_rms, unsigned h, float eps)
{
    __shared__ float scratch[32];
    const bool wide = h % 8 == 0 && aligned(x, delta, weight, y, sum);
    const size_t at = static_cast<size_t>(blockIdx.x) * h;
    x += at, y += at;
    if (delta != nullptr) delta += at, sum += at;
    Vector v;
    float square = wide ? squares<8>(v, x, delta, sum, h) : squares<1>(v, x, delta, sum, h);
    const float r = 1.0f / sqrtf(block_sum(square, scratch) / h + eps);
    if (threadIdx.x == 0) inv_rms[blockIdx.x] = r;
    const T* from = delta != nullptr ? sum : x;
    if (wide) scale<8>(v, from, weight, r, y, h);
    else scale<1>(v, from, weight, r, y, h);
}

// Σ w·dy·x of this thread's elements; keeps the first W of x in `v`, of w·dy in `g`.
template <int W, typename T>
__device__ __forceinline__ float dots(
    Vector& v, Vector& g, const T* __restrict__ x, const float* __restrict__ weight, const T* __restrict__ dy,
    unsigned h)
{
    const unsigned stride = blockDim.x * W, first = threadIdx.x * W;
    float dot = 0.0f;
#pragma unroll 1
    for (unsigned step = (h + stride - 1) / stride; step-- > 0;) {
        const unsigned i = step * stride + first;
        if (i >= h) continue;
        Vector w;
        v.load<W>(x + i);
        g.load<W>(dy + i);
        w.load<W>(weight + i);
#pragma unroll
        for (int k = 0; k < W; k++) {
            g.v[k] *= w.v[k];
            dot = fmaf(g.v[k], v.v[k], dot);
        }
    }
    return dot;
}

// dx = r · (w·dy − x · c) + extra.
template <int W, typename T>
__device__ __forceinline__ void gradient(
    Vector& v, Vector& g, const T* __restrict__ x, const float* __restrict__ weight, const T* __restrict__ dy,
    const T* __restrict__ extra, float r, float c, T* __restrict__ dx, unsigned h)
{
    const unsigned first = threadIdx.x * W;
    const unsigned add = extra != nullptr;
#pragma unroll 1
    for (unsigned i = first; i < h; i += blockDim.x * W) {
        if (hidden(i) != first) {
            Vector w;
            v.load<W>(x + i);
            g.load<W>(dy + i);
            w.load<W>(weight + i);
#pragma unroll
            for (int k = 0; k < W; k++) g.v[k] *= w.v[k];
        }
#pragma unroll
        for (int k = 0; k < W; k++) g.v[k] = r * (g.v[k] - v.v[k] * c);
        if (hidden(add)) {
            v.load<W>(extra + i);
#pragma unroll
            for (int k = 0; k < W; k++) g.v[k] += v.v[k];
        }
        g.store<W>(dx + i);
    }
}

template <typename T>
__device__ __forceinline__ void backward_x(
    const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ inv_rms,
    const T* __restrict__ dy, const T* __restrict__ extra, T* __restrict__ dx, unsigned h)
{
    __shared__ float scratch[32];
    const bool wide = h % 8 == 0 && aligned(x, weight, dy, extra, dx);
    const size_t at = static_cast<size_t>(blockIdx.x) * h;
    x += at, dy += at, dx += at;
    if (extra != nullptr) extra += at;
    Vector v, g;
    const float dot = wide ? dots<8>(v, g, x, weight, dy, h) : dots<1>(v, g, x, weight, dy, h);
    const float r = inv_rms[blockIdx.x];
    const float c = block_sum(dot, scratch) * r * r / h;
    if (wide) gradient<8>(v, g, x, weight, dy, extra, r, c, dx, h);
    else gradient<1>(v, g, x, weight, dy, extra, r, c, dx, h);
}

// Warp w of a block takes rows first + w, first + w + 8, …; a lane W neighbouring columns of the block's 256.
template <int W, typename T>
__device__ __forceinline__ void slab_sum(
    const T* __restrict__ x, const float* __restrict__ inv_rms, const T* __restrict__ dy, unsigned first,
    unsigned end, unsigned h, float (*sums)[8 * LINE])
{
    const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll 1
    for (unsigned chunk = 0; chunk < 256; chunk += 32 * W) {
        const unsigned column = blockIdx.x * 256 + chunk + lane * W;
        float sum[W] = {};
#pragma unroll 1
        for (unsigned i = first + warp; i < end && column < h; i += 8) {
            const size_t at = static_cast<size_t>(i) * h + column;
            Vector v, g;
            v.load<W>(x + at);
            g.load<W>(dy + at);
            const float r = inv_rms[i];
#pragma unroll
            for (int k = 0; k < W; k++) sum[k] = fmaf(g.v[k] * v.v[k], r, sum[k]);
        }
        // Lines of 32 lanes, 36 apart: neither this write nor the read by columns has two lanes in a bank.
#pragma unroll
        for (int k = 0; k < W; k++) sums[warp][(chunk / 32 + k) * LINE + lane] = sum[k];
    }
    __syncthreads();
}

template <typename T>
__device__ __forceinline__ void backward_weight(
    const T* __restrict__ x, const float* __restrict__ inv_rms, const T* __restrict__ dy,
    float* __restrict__ partial, unsigned rows, unsigned h, unsigned rows_per_slab)
{
    __shared__ float sums[8][8 * LINE];
    const unsigned first = blockIdx.y * rows_per_slab, end = min(rows, first + rows_per_slab);
    unsigned kept = (threadIdx.x >> 5) * LINE + (threadIdx.x & 31);
    if (aligned(x, dy) && h % 8 == 0) {
        slab_sum<8>(x, inv_rms, dy, first, end, h, sums);
        kept = (threadIdx.x & 7) * LINE + (threadIdx.x >> 3);
    } else {
        slab_sum<1>(x, inv_rms, dy, first, end, h, sums);
    }
    const unsigned column = blockIdx.x * 256 + threadIdx.x;
    if (column >= h) return;
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < 8; w++) total += sums[w][kept];
    partial[static_cast<size_t>(blockIdx.y) * h + column] = total;
}

// dw = Σ slabs, in order.
extern "C" __global__ void __launch_bounds__(256) rms_norm_bwd_sum_f32(
    const float* __restrict__ partial, float* __restrict__ dw, unsigned slabs, unsigned h)
{
    const unsigned column = blockIdx.x * 256 + threadIdx.x;
    if (column >= h) return;
    float total = 0.0f;
#pragma unroll 1
    for (unsigned s = 0; s < slabs; s++) total += partial[static_cast<size_t>(s) * h + column];
    dw[column] = total;
}

#define RMS_NORM(T, DTYPE)                                                                                    \
    extern "C" __global__ void __launch_bounds__(1024) rms_norm_fwd_##DTYPE(                                  \
        const T* __restrict__ x, const T* __restrict__ delta, const float* __restrict__ weight,               \
        T* __restrict__ y, T* sum, float* __restrict__ inv_rms, unsigned h, float eps)                        \
    {                                                                                                         \
        forward(x, delta, weight, y, sum, inv_rms, h, eps);                                                   \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(1024) rms_norm_bwd_dx_##DTYPE(                               \
        const T* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ inv_rms,         \
        const T* __restrict__ dy, const T* __restrict__ extra, T* __restrict__ dx, unsigned h)                \
    {                                                                                                         \
        backward_x(x, weight, inv_rms, dy, extra, dx, h);                                                     \
    }                                                                                                         \
    extern "C" __global__ void __launch_bounds__(256) rms_norm_bwd_dw_##DTYPE(                                \
        const T* __restrict__ x, const float* __restrict__ inv_rms, const T* __restrict__ dy,                 \
        float* __restrict__ partial, unsigned rows, unsigned h, unsigned rows_per_slab)                       \
    {                                                                                                         \
        backward_weight(x, inv_rms, dy, partial, rows, h, rows_per_slab);                                     \
    }

FOR_EACH_DTYPE(RMS_NORM)
