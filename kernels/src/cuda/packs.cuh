// N consecutive elements of any compute dtype to and from f32 registers, in one access of 8 or 16 bytes (N is
// 4 for f32, 4 or 8 for 16 bits); more would touch each sector twice. The pointer is aligned to the access.
#pragma once
#include "words.cuh"

template <class T, int N> __device__ __forceinline__ void load(const T *from, float (&x)[N]) {
    constexpr int W = N / Words<T>::N; // 32-bit words
    static_assert(W == 2 || W == 4, "8 or 16 bytes");
    u32 words[W];
    if (W == 2) {
        const uint2 v = *reinterpret_cast<const uint2 *>(from);
        words[0] = v.x, words[1] = v.y;
    } else {
        const uint4 v = *reinterpret_cast<const uint4 *>(from);
        words[0] = v.x, words[1] = v.y, words[W - 2] = v.z, words[W - 1] = v.w;
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
        *reinterpret_cast<uint4 *>(to) = make_uint4(words[0], words[1], words[W - 2], words[W - 1]);
    }
}
