// acc ← acc + g, in f32 registers.
//
// `acc` is f32 (gradients of weights) or g's own dtype (activation gradients that meet at a fan-in).
// Floor: memory, (2·sizeof(acc) + sizeof(g)) bytes an element. Launch: ⌈n / 2048⌉ blocks of 256 threads,
// eight elements a thread.
#include "packs.cuh"

template <class A, class G> __device__ __forceinline__ void add(A *acc, const G *g, u64 n) {
    const u64 i = ((u64)blockIdx.x * 256 + threadIdx.x) * 8;
    // A gradient may be a view that begins inside a 16-byte word.
    const bool aligned = (((u64)acc | (u64)g) & 15) == 0;
    if (aligned && i + 8 <= n) {
        float a[8], x[8];
        load<A, 8>(acc + i, a);
        load<G, 8>(g + i, x);
#pragma unroll
        for (int k = 0; k < 8; ++k) a[k] += x[k];
        store<A, 8>(acc + i, a);
    } else {
#pragma unroll 1
        for (u64 k = i; k < n && k < i + 8; ++k) store_f32(acc + k, load_f32(acc + k) + load_f32(g + k));
    }
}

#define ADD(a, A, g, G)                                                                                        \
    extern "C" __global__ void __launch_bounds__(256) accumulate_##a##_##g(A *acc, const G *grad, u64 n) {     \
        add<A, G>(acc, grad, n);                                                                               \
    }
ADD(f32, float, f32, float)
ADD(f32, float, bf16, bf16)
ADD(f32, float, f16, f16)
ADD(bf16, bf16, bf16, bf16)
ADD(f16, f16, f16, f16)
