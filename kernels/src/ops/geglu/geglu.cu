// gelu(gate) · up by either formula, and its two gradients in one pass over (dy, gate, up).
// Engine and launch shape: cuda/pointwise.cuh. Floor: 3 elements' bytes forward, 5 backward.
#include "activation.cuh"
#include "pointwise.cuh"

__device__ __forceinline__ Both gelu(u32 tanh, float x) { return tanh ? gelu_tanh(x) : gelu_erf(x); }

struct Forward {
    u32 tanh;
    __device__ __forceinline__ void operator()(const float (&v)[2], float (&y)[1]) const {
        y[0] = gelu(tanh, v[0]).value * v[1];
    }
};

struct Backward {
    u32 tanh;
    __device__ __forceinline__ void operator()(const float (&v)[3], float (&d)[2]) const {
        const Both gate = gelu(tanh, v[1]);
        d[0] = v[0] * v[2] * gate.slope;
        d[1] = v[0] * gate.value;
    }
};

#define GEGLU(T, dtype)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        geglu_fwd_##dtype(T* y, const T* gate, const T* up, const u64* layout, u32 rank, u64 vectors, \
                          u64 n, u32 tanh) {                                                           \
        pointwise<T, 2, 1>({gate, up}, {y}, {layout, rank, vectors, n}, Rolled<Forward>{{tanh}});                   \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        geglu_bwd_##dtype(T* dgate, T* dup, const T* dy, const T* gate, const T* up,                   \
                          const u64* layout, u32 rank, u64 vectors, u64 n, u32 tanh) {                    \
        pointwise<T, 3, 2>({dy, gate, up}, {dgate, dup}, {layout, rank, vectors, n}, Rolled<Backward>{{tanh}});     \
    }
FOR_EACH_DTYPE(GEGLU)
