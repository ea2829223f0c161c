// Copies a strided view to contiguous memory, elements of 1, 2, 4 or 16 bytes.
//
// Idea: the launcher merges dimensions that are contiguous to each other, and where the innermost run is
// contiguous and aligned it counts in elements of 16 bytes. A thread then writes consecutive outputs with
// its neighbours (coalesced), and reads them coalesced too unless the view is transposed.
//
// Floor: memory-bound, one read and one write of the data. Launch: 256 threads a block, one element a
// thread, grid-stride. The index is split with 32-bit divisions, one a dimension.
//
// shape and stride are given from the innermost dimension outwards; unused dimensions have extent 1.

struct __align__(16) Vector {
    unsigned x, y, z, w;
};

template <typename T>
__device__ __forceinline__ void strided_copy(
    const T* __restrict__ source, T* __restrict__ target, unsigned n, const unsigned* shape,
    const unsigned long long* stride)
{
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned rest = i;
        unsigned long long at = 0;
#pragma unroll
        for (int d = 0; d < 8; d++) {
            const unsigned next = shape[d] == 1 ? rest : rest / shape[d];
            at += stride[d] * (rest - next * shape[d]);
            rest = next;
        }
        target[i] = source[at];
    }
}

#define STRIDED_COPY(NAME, TYPE)                                                                              \
    extern "C" __global__ void __launch_bounds__(256) strided_copy_##NAME(                                    \
        const TYPE* __restrict__ source, TYPE* __restrict__ target, unsigned n, unsigned n0, unsigned n1,     \
        unsigned n2, unsigned n3, unsigned n4, unsigned n5, unsigned n6, unsigned n7, unsigned long long s0,  \
        unsigned long long s1, unsigned long long s2, unsigned long long s3, unsigned long long s4,           \
        unsigned long long s5, unsigned long long s6, unsigned long long s7)                                  \
    {                                                                                                         \
        const unsigned shape[8] = {n0, n1, n2, n3, n4, n5, n6, n7};                                           \
        const unsigned long long stride[8] = {s0, s1, s2, s3, s4, s5, s6, s7};                                \
        strided_copy(source, target, n, shape, stride);                                                       \
    }

STRIDED_COPY(1, unsigned char)
STRIDED_COPY(2, unsigned short)
STRIDED_COPY(4, unsigned)
STRIDED_COPY(16, Vector)
