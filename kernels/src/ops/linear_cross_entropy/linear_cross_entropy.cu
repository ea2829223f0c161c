// Softmax, cross-entropy and its gradient over a chunk of rows of logits, in place.
//
// One block a row. The first sweep keeps a running maximum and a sum of exponentials rescaled to it
// (online softmax), each thread its own, merged across the block in f64 in a fixed order. The second
// writes the gradient w·(softmax − onehot) over the logits. Sums over the vocabulary are f32 within a
// thread (V / 512 terms) and f64 across threads.
//
//   logits row   | l0 l1 l2 … lV-1 | pad |      f32 (or 16 bit), rows `pitch` elements apart, 16-byte aligned
//   gradient row | d0 d1 … dV-1 |  (old)  |      the compute dtype, at the row's start: half the bytes of f32
//
// A 16-bit gradient written over f32 logits overtakes no reader: tile k is written, after a barrier,
// to bytes that held tiles ≤ k/2, and those are read.
//
// Floor: memory, V·(2·sizeof(logit) + sizeof(gradient)) bytes a row. A row of 256k f32 logits is 1 MB,
// so the second read misses L2 partly; it is the price of not computing the product twice.
// Launch: grid (rows of the chunk), 512 threads.
#include "packs.cuh"

#define THREADS 512
#define LOWEST -3.402823466e+38f

// e^x by ex2.approx (2 ulp). Rounding x·log2(e) costs |x|·2^-24 of relative error more: 1e-6 where the
// result still counts beside 1 (x > -16), and the three instructions keep the sweep bound by memory.
__device__ __forceinline__ float exponential(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x * 1.4426950408889634f));
    return y;
}

// The block's sum of one f64 a thread, in a fixed order, in every thread.
__device__ __forceinline__ double block_sum(double x, double *shared) {
#pragma unroll 1
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0.0;
#pragma unroll 1
    for (int w = 0; w < THREADS / 32; ++w) sum += shared[w];
    return sum;
}

__device__ __forceinline__ float block_max(float x, float *shared) {
#pragma unroll 1
    for (int d = 16; d > 0; d >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    float max = shared[0];
#pragma unroll 1
    for (int w = 1; w < THREADS / 32; ++w) max = fmaxf(max, shared[w]);
    return max;
}

// Four logits at column c, or one: f32 where `wide`, else of the gradient's dtype.
template <class G> __device__ __forceinline__ void load4(const void *row, u32 wide, u32 c, float (&x)[4]) {
    if (wide) {
        load<float, 4>((const float *)row + c, x);
    } else {
        load<G, 4>((const G *)row + c, x);
    }
}

template <class G> __device__ __forceinline__ float load1(const void *row, u32 wide, u32 c) {
    return wide ? ((const float *)row)[c] : load_f32((const G *)row + c);
}

template <class G>
__device__ __forceinline__ void row(char *logits, u32 wide, u64 pitch, u32 vocab, const u32 *targets,
                                    const float *weights, float expected, float *nll) {
    constexpr u32 N = 4, TILE = THREADS * N;
    __shared__ double sums[THREADS / 32];
    __shared__ float maxima[THREADS / 32];
    char *from = logits + blockIdx.x * pitch;
    G *to = reinterpret_cast<G *>(from);
    const u32 target = targets[blockIdx.x];
    // The last V mod 4 columns, one for each of the first threads, are held in registers.
    const u32 whole = vocab / N * N, last = whole + threadIdx.x;
    const bool has_last = last < vocab;
    const float tail = has_last ? load1<G>(from, wide, last) : LOWEST;
    const float at_target = load1<G>(from, wide, target);

    float max = fmaxf(LOWEST, tail), sum = has_last ? exponential(tail - max) : 0.0f;
#pragma unroll 1
    for (u32 c = threadIdx.x * N; c < whole; c += TILE) {
        float x[N], higher = max;
        load4<G>(from, wide, c, x);
#pragma unroll
        for (u32 i = 0; i < N; ++i) higher = fmaxf(higher, x[i]);
        sum *= exponential(max - higher);
#pragma unroll
        for (u32 i = 0; i < N; ++i) sum += exponential(x[i] - higher);
        max = higher;
    }
    const float top = block_max(max, maxima);
    const double total = block_sum((double)sum * (double)exponential(max - top), sums);
    if (threadIdx.x == 0) nll[blockIdx.x] = logf((float)total) + (top - at_target);
    // Nothing trains: only the loss is wanted.
    if (expected == 0.0f) return;

    const float weight = weights[blockIdx.x] * expected;
    const float scale = (float)((double)weight / total);
#pragma unroll 1
    for (u32 start = 0; start < whole; start += TILE) {
        const u32 c = start + threadIdx.x * N;
        float x[N] = {};
        if (c < whole) load4<G>(from, wide, c, x);
#pragma unroll
        for (u32 i = 0; i < N; ++i) x[i] = exponential(x[i] - top) * scale - (c + i == target ? weight : 0.0f);
        __syncthreads();
        if (c < whole) store<G, N>(to + c, x);
    }
    __syncthreads();
    if (has_last) store_f32(to + last, exponential(tail - top) * scale - (last == target ? weight : 0.0f));
}

// `pitch` is in bytes; `expected` is the upstream gradient the rows are formed for, 0 when only nll is wanted.
#define ROWS(g, G)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                      \
        linear_cross_entropy_fwd_##g(char *logits, u32 wide, u64 pitch, u32 vocab, const u32 *targets,         \
                                     const float *weights, float expected, float *nll) {                       \
        row<G>(logits, sizeof(G) == 4 || wide, pitch, vocab, targets, weights, expected, nll);                                   \
    }
ROWS(f32, float)
ROWS(bf16, bf16)
ROWS(f16, f16)

// loss = Σ weights[j]·nll[j], in f64 in a fixed order. One block.
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_cross_entropy_fwd_loss_f32(float *loss, const float *nll, const float *weights, u32 rows) {
    __shared__ double sums[THREADS / 32];
    double sum = 0.0;
#pragma unroll 1
    for (u32 j = threadIdx.x; j < rows; j += THREADS) sum += (double)weights[j] * (double)nll[j];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) *loss = (float)sum;
}

// d ← d·(*upstream / expected); returns at once when that is 1, so the usual step reads nothing.
extern "C" __global__ void __launch_bounds__(THREADS)
    linear_cross_entropy_bwd_f32(float *d, u64 n, const float *upstream, float expected) {
    const float scale = *upstream / expected;
    if (scale == 1.0f) return;
    const u64 stride = (u64)gridDim.x * THREADS * 4;
#pragma unroll 1
    for (u64 i = ((u64)blockIdx.x * THREADS + threadIdx.x) * 4; i < n; i += stride) {
        if (i + 4 <= n) {
            float x[4];
            load<float, 4>(d + i, x);
#pragma unroll
            for (int k = 0; k < 4; ++k) x[k] *= scale;
            store<float, 4>(d + i, x);
        } else {
#pragma unroll 1
            for (u64 k = i; k < n; ++k) d[k] *= scale;
        }
    }
}
