// y = x · mask / (1 − p), the CPU's mask bit for bit; backward is the same kernel on dy.
//
//     a thread: the elements of one 16-byte vector, whose masks are one (f32) or two (bf16, f16) Philox
//     blocks; the last vector may be short, and without `aligned` every vector goes element by element
//
// Floor: 2 elements' bytes; ten rounds a block of four elements, about 25 integer instructions an element.
// Launch: 256 threads.
#include "philox.cuh"

template <class T>
__device__ __forceinline__ void dropout(T* y, const T* x, u64 n, u32 aligned, float p, float scale, u64 seed,
                                        u64 stream) {
    constexpr u32 V = VECTOR<T>, W = Words<T>::N;
    const u64 first = thread_index() * V;
    if (first >= n) return;
    const u32 whole = aligned && n - first >= V;
    uint4 v = make_uint4(0, 0, 0, 0);
    if (whole) v = load_vector(x + first);
#pragma unroll 1
    for (u32 b = 0; b < W; ++b) {
        uint4 random = philox(first / 4 + b, stream, seed);
        if (hidden(whole)) {
            const u32 r[4] = {random.x, random.y, random.z, random.w};
#pragma unroll
            for (u32 w = 0; w < 4; w += W) {
                float e[W];
                Words<T>::unpack(v.x, e);
#pragma unroll
                for (u32 i = 0; i < W; ++i) e[i] = dropped(e[i], r[w + i], p, scale);
                shift_in(v, Words<T>::pack(e));
            }
        } else {
            const u64 end = min(first + 4 * b + 4, n);
#pragma unroll 1
            for (u64 i = first + 4 * b; i < end; ++i) {
                store_f32(y + i, dropped(load_f32(x + i), random.x, p, scale));
                shift_in(random, 0);
            }
        }
    }
    if (whole) store_vector(y + first, v);
}

#define DROPOUT(T, dtype)                                                                              \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        dropout_fwd_##dtype(T* y, const T* x, u64 n, u32 aligned, float p, float scale, u64 seed,      \
                            u64 stream) {                                                              \
        dropout<T>(y, x, n, aligned, p, scale, seed, stream);                                          \
    }
FOR_EACH_DTYPE(DROPOUT)
