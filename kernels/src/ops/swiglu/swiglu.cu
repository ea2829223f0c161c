// silu(gate) · up, and its two gradients in one pass over (dy, gate, up), the sigmoid computed again.
// Engine and launch shape: cuda/pointwise.cuh. Floor: 3 elements' bytes forward, 5 backward.
#include "activation.cuh"
#include "pointwise.cuh"

struct Forward {
    template <int W>
    __device__ __forceinline__ void operator()(const float (&v)[2][W], float (&r)[1][W]) const {
#pragma unroll
        for (int i = 0; i < W; ++i) r[0][i] = silu(v[0][i]).value * v[1][i];
    }
};

struct Backward {
    template <int W>
    __device__ __forceinline__ void operator()(const float (&v)[3][W], float (&r)[2][W]) const {
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const Both gate = silu(v[1][i]);
            r[0][i] = v[0][i] * v[2][i] * gate.slope;
            r[1][i] = v[0][i] * gate.value;
        }
    }
};

#define SWIGLU(T, dtype)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        swiglu_fwd_##dtype(T* y, const T* gate, const T* up, const u64* layout, u32 rank, u64 vectors, \
                           u64 n) {                                                                    \
        pointwise<T, 2, 1>({gate, up}, {y}, {layout, rank, vectors, n}, Forward{});                       \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        swiglu_bwd_##dtype(T* dgate, T* dup, const T* dy, const T* gate, const T* up,                  \
                           const u64* layout, u32 rank, u64 vectors, u64 n) {                             \
        pointwise<T, 3, 2>({dy, gate, up}, {dgate, dup}, {layout, rank, vectors, n}, Backward{});         \
    }
FOR_EACH_DTYPE(SWIGLU)
