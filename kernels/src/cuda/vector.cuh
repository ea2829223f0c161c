// Up to eight consecutive elements, widened to f32 registers: W = 8 in 16-byte accesses (f32: two of them), or
// W = 1.
//
// Kernels are written once for any W and branch on alignment: W = 8 where every pointer and row is 16-byte
// aligned, W = 1 for ragged shapes and odd views.
#pragma once
#include "words.cuh"

// x as T holds it.
template <typename T> __device__ __forceinline__ float rounded(float x)
{
    if constexpr (sizeof(T) == 4) {
        return x;
    } else {
        float pair[2] = {x, 0.0f};
        Words<T>::unpack(Words<T>::pack(pair), pair);
        return pair[0];
    }
}

struct Vector {
    float v[8];

    template <int W, typename T> __device__ __forceinline__ void load(const T* __restrict__ p)
    {
        constexpr int N = Words<T>::N;
        float some[N];
        if constexpr (W == 1) {
            v[0] = load_f32(p);
        } else {
#pragma unroll
            for (int i = 0; i < W / N / 4; i++) {
                const uint4 raw = reinterpret_cast<const uint4*>(p)[i];
                const u32 words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    Words<T>::unpack(words[j], some);
#pragma unroll
                    for (int k = 0; k < N; k++) v[(i * 4 + j) * N + k] = some[k];
                }
            }
        }
    }

    template <int W, typename T> __device__ __forceinline__ void store(T* __restrict__ p) const
    {
        constexpr int N = Words<T>::N;
        float some[N] = {};
        if constexpr (W == 1) {
            store_f32(p, v[0]);
        } else {
#pragma unroll
            for (int i = 0; i < W / N / 4; i++) {
                u32 words[4];
#pragma unroll
                for (int j = 0; j < 4; j++) {
#pragma unroll
                    for (int k = 0; k < N; k++) some[k] = v[(i * 4 + j) * N + k];
                    words[j] = Words<T>::pack(some);
                }
                reinterpret_cast<uint4*>(p)[i] = make_uint4(words[0], words[1], words[2], words[3]);
            }
        }
    }
};

// Eight elements at p, or one and seven times `rest`: one copy of the code that follows serves both.
template <typename T> __device__ __forceinline__ void load_some(Vector& to, const T* p, u32 eight, float rest)
{
    if (hidden(eight)) {
        to.load<8>(p);
    } else {
#pragma unroll
        for (int i = 1; i < 8; i++) to.v[i] = rest;
        to.load<1>(p);
    }
}
template <typename T> __device__ __forceinline__ void store_some(const Vector& from, T* p, u32 eight)
{
    if (hidden(eight)) {
        from.store<8>(p);
    } else {
        from.store<1>(p);
    }
}

// True when all pointers are 16-byte aligned (a null pointer is).
template <typename... P> __device__ __forceinline__ bool aligned(const P*... p)
{
    return ((reinterpret_cast<unsigned long long>(p) | ...) & 15) == 0;
}
