// y = x + size·(2u − 1), u uniform in [0, 1): NEFTune's noise, the CPU's bit for bit in f32.
//
//     a sequence's rows follow one another, so it is one array of n numbers; a thread has four of them, whose
//     u are the four words of one Philox block; a block has 1,024 and finds its sequence by bisection
//
// Floor: 2 elements' bytes. Launch: grid (Σ ⌈n / 1024⌉), 256 threads.
#include "packs.cuh"
#include "philox.cuh"

// Laid out by `ops/neftune/cuda.rs`.
struct Sequence {
    u64 start; // in elements
    u64 n;
    float size;
    u32 first_block;
};

__device__ __forceinline__ float noisy(float x, u32 word, float size) {
    const float unit = __fmul_rn(__uint2float_rn(word >> 8), 1.0f / 16777216.0f);
    return __fadd_rn(x, __fmul_rn(size, __fadd_rn(__fmul_rn(2.0f, unit), -1.0f)));
}

template <class T>
__device__ __forceinline__ void neftune(T *y, const T *x, const Sequence *table, u32 sequences, u32 aligned, u64 seed,
                                        u64 stream) {
    u32 low = 0, high = sequences;
    while (high - low > 1) {
        const u32 middle = (low + high) / 2;
        if (table[middle].first_block <= blockIdx.x) low = middle;
        else high = middle;
    }
    const Sequence s = table[low];
    const u64 i = ((u64)(blockIdx.x - s.first_block) * blockDim.x + threadIdx.x) * 4;
    if (i >= s.n) return;
    uint4 random = philox(i / 4, stream + low, seed);
    const T *from = x + s.start + i;
    T *to = y + s.start + i;
    if (aligned && s.start % 4 == 0 && i + 4 <= s.n) {
        float v[4];
        load<T, 4>(from, v);
        v[0] = noisy(v[0], random.x, s.size), v[1] = noisy(v[1], random.y, s.size);
        v[2] = noisy(v[2], random.z, s.size), v[3] = noisy(v[3], random.w, s.size);
        store<T, 4>(to, v);
    } else {
#pragma unroll 1
        for (u64 k = 0; k < 4 && i + k < s.n; ++k) {
            store_f32(to + k, noisy(load_f32(from + k), random.x, s.size));
            shift_in(random, 0);
        }
    }
}

#define NEFTUNE(T, dtype)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                      \
        neftune_fwd_##dtype(T *y, const T *x, const Sequence *table, u32 sequences, u32 aligned, u64 seed, \
                            u64 stream) {                                                                  \
        neftune<T>(y, x, table, sequences, aligned, seed, stream);                                         \
    }
FOR_EACH_DTYPE(NEFTUNE)
