// All parameters of a model in one launch.
//
//   table    one Entry a parameter: addresses, length, number of its first chunk
//   chunks   of 32,768 elements, numbered through all parameters; a block finds its parameter by bisection
//
// The table is laid out by `updates/table.rs`.
#pragma once
#include "packs.cuh"

#define THREADS 256
#define CHUNK 32768

struct Entry {
    float *p;
    const float *g;
    void *m; // f32, or u8 codes with a scale every 256
    void *v;
    float *m_absmax; // null with f32 moments
    float *v_absmax;
    u64 n;
    u32 first_chunk;
    float decay;    // 1 − lr · lr_scale · weight_decay
    float lr_scale; // of this parameter
    u32 unused;
};

// What a step decides on the device before the updates run (`updates/control/control.cu`).
struct Control {
    double norm; // L2, of the unscaled gradients
    float grad_scale;
    u32 found_inf;
    float step_size; // AdamW's: lr / (1 − β₁ᵗ)
    float root_correction2;
    u64 step; // updates made, this one included unless skipped
};

// The entry that chunk `chunk` belongs to: the last whose first chunk is not beyond it.
__device__ __forceinline__ const Entry *entry_of(const Entry *table, u32 entries, u32 chunk) {
    u32 low = 0, high = entries;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (table[middle].first_chunk <= chunk) low = middle;
        else high = middle;
    }
    return table + low;
}

__device__ __forceinline__ double block_sum(double x) {
    __shared__ double sums[THREADS / 32];
#pragma unroll 1
    for (int d = 16; d > 0; d >>= 1) x += __shfl_xor_sync(~0u, x, d);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0.0;
#pragma unroll 1
    for (int w = 0; w < THREADS / 32; ++w) sum += sums[w];
    return sum;
}
