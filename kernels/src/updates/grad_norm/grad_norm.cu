// Σ g² over all gradients at once, in f64.
//
// A block sums one chunk of 32,768 elements (see parameters.cuh), each thread its own in ascending order,
// then a tree over threads: the order is fixed, so the sum is the same every time. One more block adds the
// chunks. Floor: memory, 4 bytes an element; on cards with 1/64 rate f64 the multiply-add and the widening
// come to four fifths of the time the bytes take, so they stay hidden.
// Launch: grid (chunks), then (1), 256 threads.
#include "parameters.cuh"

// The square of a finite f32 is far inside f64's range: the sum is finite exactly when all elements are.
extern "C" __global__ void __launch_bounds__(THREADS)
    grad_norm_f32(const Entry *table, u32 entries, double *partial) {
    const u32 chunk = blockIdx.x;
    const Entry *e = entry_of(table, entries, chunk);
    const u64 begin = (u64)(chunk - e->first_chunk) * CHUNK;
    const u64 end = begin + CHUNK < e->n ? begin + CHUNK : e->n;
    const float *g = e->g;
    const bool aligned = ((u64)g & 15) == 0;
    double sum = 0.0;
#pragma unroll 2
    for (u64 i = begin + threadIdx.x * 4; i < end; i += THREADS * 4) {
        if (aligned && i + 4 <= end) {
            float x[4];
            load<float, 4>(g + i, x);
#pragma unroll
            for (int k = 0; k < 4; ++k) sum = fma((double)x[k], (double)x[k], sum);
        } else {
#pragma unroll 1
            for (u64 k = i; k < end && k < i + 4; ++k) sum = fma((double)g[k], (double)g[k], sum);
        }
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[chunk] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    grad_norm_total_f32(double *total, const double *partial, u32 chunks) {
    double sum = 0.0;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < chunks; i += THREADS) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x == 0) *total = sum;
}
