// N consecutive elements of any compute dtype to and from f32 registers, in as few accesses as 16 bytes
// each allow. The pointer is aligned to min(16, N·sizeof(T)) bytes.
#pragma once
#include "words.cuh"

template <class T, int N> __device__ __forceinline__ void load(const T *from, float (&x)[N]) {
    constexpr int W = N / Words<T>::N; // 32-bit words: 2, or a multiple of 4
    u32 words[W];
    if (W == 2) {
        const uint2 v = *reinterpret_cast<const uint2 *>(from);
        words[0] = v.x, words[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < W / 4; ++i) {
            const uint4 v = reinterpret_cast<const uint4 *>(from)[i];
            words[4 * i] = v.x, words[4 * i + 1] = v.y, words[4 * i + 2] = v.z, words[4 * i + 3] = v.w;
        }
    }
#pragma unroll
    for (int i = 0; i < W; ++i) {
        float v[Words<T>::N];
        Words<T>::unpack(words[i], v);
#pragma unroll
        for (int k = 0; k < Words<T>::N; ++k) x[i * Words<T>::N + k] = v[k];
    }
}

template <class T, int N> __device__ __forceinline__ void store(T *to, const float (&x)[N]) {
    constexpr int W = N / Words<T>::N;
    u32 words[W];
#pragma unroll
    for (int i = 0; i < W; ++i) {
        float v[Words<T>::N];
#pragma unroll
        for (int k = 0; k < Words<T>::N; ++k) v[k] = x[i * Words<T>::N + k];
        words[i] = Words<T>::pack(v);
    }
    if (W == 2) {
        *reinterpret_cast<uint2 *>(to) = make_uint2(words[0], words[1]);
    } else {
#pragma unroll
        for (int i = 0; i < W / 4; ++i)
            reinterpret_cast<uint4 *>(to)[i] =
                make_uint4(words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3]);
    }
}
