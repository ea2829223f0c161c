// Loads and stores of eight consecutive elements, widened to f32 registers: 16 bytes of bf16 or f16 in one
// access, f32 in two. `Vector<T>::load(p)` needs p 16-byte aligned (f32: 16 as well); `load_n` and `store_n`
// take the ragged ends element by element.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(f16 x) { return __half2float(x); }

template <typename T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ float narrow<float>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 narrow<f16>(float x) { return __float2half_rn(x); }

// Eight values of T, kept in f32.
template <typename T> struct Vector {
    float v[8];

    __device__ __forceinline__ void load(const T* __restrict__ p)
    {
        const uint4 raw = *reinterpret_cast<const uint4*>(p);
        T x[8];
        memcpy(x, &raw, 16);
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = widen(x[i]);
    }

    __device__ __forceinline__ void store(T* __restrict__ p) const
    {
        T x[8];
#pragma unroll
        for (int i = 0; i < 8; i++) x[i] = narrow<T>(v[i]);
        uint4 raw;
        memcpy(&raw, x, 16);
        *reinterpret_cast<uint4*>(p) = raw;
    }

    // The first n (may be more than 8 or negative) of eight elements; the others become 0.
    __device__ __forceinline__ void load_n(const T* __restrict__ p, int n)
    {
#pragma unroll
        for (int i = 0; i < 8; i++) v[i] = i < n ? widen(p[i]) : 0.0f;
    }

    __device__ __forceinline__ void store_n(T* __restrict__ p, int n) const
    {
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < n) p[i] = narrow<T>(v[i]);
    }
};

template <> __device__ __forceinline__ void Vector<float>::load(const float* __restrict__ p)
{
    const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
}

template <> __device__ __forceinline__ void Vector<float>::store(float* __restrict__ p) const
{
    reinterpret_cast<float4*>(p)[0] = make_float4(v[0], v[1], v[2], v[3]);
    reinterpret_cast<float4*>(p)[1] = make_float4(v[4], v[5], v[6], v[7]);
}

// True when eight elements at p can be moved with 16-byte accesses.
template <typename T> __device__ __forceinline__ bool aligned(const T* p)
{
    return (reinterpret_cast<unsigned long long>(p) & 15) == 0;
}
