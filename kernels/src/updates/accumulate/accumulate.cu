// acc ← acc + g, in f32 registers.
//
// Both are f32 (gradients of weights) or of one 16-bit dtype (activation gradients that meet at a fan-in).
// Floor: memory, three times the dtype's bytes an element. Launch: ⌈n / 1024⌉ blocks of 256 threads, four
// elements a thread: 16 bytes of f32 or 8 of a 16-bit dtype, lane after lane, so that no sector is touched twice.
#include "packs.cuh"

template <class T> __device__ __forceinline__ void add(T *acc, const T *g, u64 n) {
    const u64 i = ((u64)blockIdx.x * 256 + threadIdx.x) * 4;
    // A gradient may be a view that begins inside a 16-byte word.
    const bool aligned = (((u64)acc | (u64)g) & 15) == 0;
    if (aligned && i + 4 <= n) {
        float a[4], x[4];
        load<T, 4>(acc + i, a);
        load<T, 4>(g + i, x);
#pragma unroll
        for (int k = 0; k < 4; ++k) a[k] += x[k];
        store<T, 4>(acc + i, a);
    } else {
#pragma unroll 1
        for (u64 k = i; k < n && k < i + 4; ++k) store_f32(acc + k, load_f32(acc + k) + load_f32(g + k));
    }
}

#define ADD(T, t)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) accumulate_##t(T *acc, const T *grad, u64 n) {           \
        add<T>(acc, grad, n);                                                                                  \
    }
FOR_EACH_DTYPE(ADD)
