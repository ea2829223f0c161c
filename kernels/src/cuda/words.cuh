// 32-bit words of packed elements: the unit that kernels of every compute dtype load, convert and
// store. An f32 word holds one element, a bf16 or f16 word two; four words make a 16-byte access.
#pragma once

typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Storage of the 16-bit dtypes; arithmetic happens in f32.
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};

template <class T>
struct Words;

template <>
struct Words<float> {
    static constexpr u32 N = 1;  // elements of a word
    static __device__ __forceinline__ void unpack(u32 w, float (&v)[1]) { v[0] = __uint_as_float(w); }
    static __device__ __forceinline__ u32 pack(const float (&v)[1]) { return __float_as_uint(v[0]); }
    static __device__ __forceinline__ u32 load_one(const float* p) { return *reinterpret_cast<const u32*>(p); }
    static __device__ __forceinline__ void store_one(float* p, u32 w) { *reinterpret_cast<u32*>(p) = w; }
    static __device__ __forceinline__ u32 splat(u32 w) { return w; }
};

template <>
struct Words<bf16> {
    static constexpr u32 N = 2;
    static __device__ __forceinline__ void unpack(u32 w, float (&v)[2]) {
        v[0] = __uint_as_float(w << 16);
        v[1] = __uint_as_float(w & 0xffff0000u);
    }
    static __device__ __forceinline__ u32 pack(const float (&v)[2]) {
        u32 w;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(v[1]), "f"(v[0]));
        return w;
    }
    static __device__ __forceinline__ u32 load_one(const bf16* p) { return p->bits; }
    static __device__ __forceinline__ void store_one(bf16* p, u32 w) { p->bits = (u16)w; }
    static __device__ __forceinline__ u32 splat(u32 w) { return w | w << 16; }
};

template <>
struct Words<f16> {
    static constexpr u32 N = 2;
    static __device__ __forceinline__ void unpack(u32 w, float (&v)[2]) {
        asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
            : "=f"(v[0]), "=f"(v[1])
            : "r"(w));
    }
    static __device__ __forceinline__ u32 pack(const float (&v)[2]) {
        u32 w;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(v[1]), "f"(v[0]));
        return w;
    }
    static __device__ __forceinline__ u32 load_one(const f16* p) { return p->bits; }
    static __device__ __forceinline__ void store_one(f16* p, u32 w) { p->bits = (u16)w; }
    static __device__ __forceinline__ u32 splat(u32 w) { return w | w << 16; }
};

// Elements of a 16-byte access.
template <class T>
constexpr u32 VECTOR = 4 * Words<T>::N;

template <class T>
__device__ __forceinline__ float load_f32(const T* p) {
    float v[Words<T>::N];
    Words<T>::unpack(Words<T>::load_one(p), v);
    return v[0];
}

template <class T>
__device__ __forceinline__ void store_f32(T* p, float x) {
    float v[Words<T>::N] = {x};
    Words<T>::store_one(p, Words<T>::pack(v));
}

template <class T>
__device__ __forceinline__ uint4 load_vector(const T* p) {
    return *reinterpret_cast<const uint4*>(p);
}

template <class T>
__device__ __forceinline__ void store_vector(T* p, uint4 v) {
    *reinterpret_cast<uint4*>(p) = v;
}

// A loop over a vector's words runs rolled, so that a long function body appears once in the code: it
// takes word x, and shifts its result in at w. Four steps leave four results in order, one leaves one at w.
__device__ __forceinline__ void shift_in(uint4& v, u32 w) { v = make_uint4(v.y, v.z, v.w, w); }

// Index of this thread in a one-dimensional grid. Kernels take one unit of work a thread rather than
// loop over the grid: the compiler would copy the loop's body for each flag the grid shares.
__device__ __forceinline__ u64 thread_index() { return (u64)blockIdx.x * blockDim.x + threadIdx.x; }

// Hides x from the compiler where it would otherwise copy a loop for the values x can have.
template <typename T> __device__ __forceinline__ T hidden(T x)
{
    static_assert(sizeof(T) == 4, "a 32-bit register");
    asm volatile("" : "+r"(x));
    return x;
}

// Instantiates BODY(T, dtype) for the three compute dtypes.
#define FOR_EACH_DTYPE(BODY) \
    BODY(float, f32)         \
    BODY(bf16, bf16)         \
    BODY(f16, f16)
