// y = mul · x + add. Engine, floor (2 elements' bytes) and launch shape: cuda/pointwise.cuh.
#include "pointwise.cuh"

struct Affine {
    float mul, add;
    template <int W>
    __device__ __forceinline__ void operator()(const float (&v)[1][W], float (&r)[1][W]) const {
#pragma unroll
        for (int i = 0; i < W; ++i) r[0][i] = mul * v[0][i] + add;
    }
};

#define AFFINE(T, dtype)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        affine_fwd_##dtype(T* y, const T* x, const u64* layout, u32 rank, u64 vectors, u64 n, float mul,  \
                           float add) {                                                                \
        pointwise<T, 1, 1>({x}, {y}, {layout, rank, vectors, n}, Affine{mul, add});                       \
    }
FOR_EACH_DTYPE(AFFINE)
