// Casts between f32, bf16 and f16, round to nearest even.
//
// Idea: eight consecutive elements a thread, so that the narrow side moves in one 16-byte access and the wide
// side in two. The ragged end, and views that are not 16-byte aligned, go element by element.
//
// Floor: memory-bound, 6 bytes an element f32 <-> 16 bits, 4 between bf16 and f16.
// Launch: 256 threads a block, 2,048 elements a block, no loop.
#include "vector.cuh"

template <typename From, typename To>
__device__ __forceinline__ void cast(const From* __restrict__ from, To* __restrict__ to, unsigned long long n)
{
    unsigned long long i = (blockIdx.x * 256ull + threadIdx.x) * 8;
    if (i + 8 <= n && aligned(from, to)) {
        Vector x;
        x.load<8>(from + i);
        x.store<8>(to + i);
    } else {
        const unsigned long long end = min(n, i + 8);
#pragma unroll 1
        for (; i < end; i++) store_f32(to + i, load_f32(from + i));
    }
}

#define CAST(FROM, TO, FROM_TYPE, TO_TYPE)                                                                    \
    extern "C" __global__ void __launch_bounds__(256) cast_##FROM##_##TO(                                     \
        const FROM_TYPE* __restrict__ from, TO_TYPE* __restrict__ to, unsigned long long n)                   \
    {                                                                                                         \
        cast(from, to, n);                                                                                    \
    }

CAST(f32, bf16, float, bf16)
CAST(f32, f16, float, f16)
CAST(bf16, f32, bf16, float)
CAST(bf16, f16, bf16, f16)
CAST(f16, f32, f16, float)
CAST(f16, bf16, f16, bf16)
