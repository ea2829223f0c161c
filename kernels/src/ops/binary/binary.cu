// a ∘ b with broadcasting, and both gradients of a product or a quotient in one pass over (dy, a, b).
// Engine and launch shape: cuda/pointwise.cuh. Floor, nothing broadcast: 3 elements' bytes forward,
// 5 backward.
#include "pointwise.cuh"

// `BinaryKind` in mod.rs.
enum Kind : u32 { ADD, SUB, MUL, DIV };

struct Forward {
    u32 kind;
    template <int W>
    __device__ __forceinline__ void operator()(const float (&v)[2][W], float (&r)[1][W]) const {
        const u32 kind = hidden(this->kind);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float a = v[0][i], b = v[1][i];
            r[0][i] = kind == ADD ? a + b : kind == SUB ? a - b : kind == MUL ? a * b : a / b;
        }
    }
};

struct Backward {
    u32 kind;
    template <int W>
    __device__ __forceinline__ void operator()(const float (&v)[3][W], float (&r)[2][W]) const {
        const u32 kind = hidden(this->kind);
#pragma unroll
        for (int i = 0; i < W; ++i) {
            const float dy = v[0][i], a = v[1][i], b = v[2][i];
            r[0][i] = kind == MUL ? dy * b : dy / b;
            r[1][i] = kind == MUL ? dy * a : -dy * a / (b * b);
        }
    }
};

#define BINARY(T, dtype)                                                                               \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        binary_fwd_##dtype(T* y, const T* a, const T* b, const u64* layout, u32 rank, u64 vectors, u64 n, \
                           u32 kind) {                                                                 \
        pointwise<T, 2, 1>({a, b}, {y}, {layout, rank, vectors, n}, Forward{kind});                       \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        binary_bwd_##dtype(T* da, T* db, const T* dy, const T* a, const T* b, const u64* layout,       \
                           u32 rank, u64 vectors, u64 n, u32 kind) {                                      \
        pointwise<T, 3, 2>({dy, a, b}, {da, db}, {layout, rank, vectors, n}, Backward{kind});             \
    }
FOR_EACH_DTYPE(BINARY)
