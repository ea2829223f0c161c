// Rotary position embedding; `sign` −1 rotates back, which is the gradient.
//
//     a thread: one unit of features of one token, over `per` heads one after another, so that its cosines
//     and sines are read once for all of them
//     half split    unit u < half/V: the vectors at u·V and half + u·V      V elements = 16 bytes
//     interleaved   unit u < rot/V:  the vector at u·V, V/2 pairs
//     pass through  the remaining units: one vector each
//
// Without `vectors` (odd sizes, other alignments) a unit is one pair or one passed element. x may be
// strided by token and head. Floor: x read, y written, 2·half·4 bytes of table a token. Launch: 128
// threads; a thread a (token, group of heads, unit).
#include "words.cuh"

template <u32 L>
__device__ __forceinline__ void load_table(const float* p, float (&v)[L]) {
    if constexpr (L % 4 == 0) {
#pragma unroll
        for (u32 i = 0; i < L; i += 4) {
            const float4 a = *reinterpret_cast<const float4*>(p + i);
            v[i] = a.x, v[i + 1] = a.y, v[i + 2] = a.z, v[i + 3] = a.w;
        }
    } else {
        const float2 a = *reinterpret_cast<const float2*>(p);
        v[0] = a.x, v[1] = a.y;
    }
}

struct Pair {
    float a, b;
};
__device__ __forceinline__ Pair rotate(float a, float b, float c, float s) {
    return {a * c - b * s, b * c + a * s};
}

template <class T>
__device__ __forceinline__ void unpack_vector(uint4 x, float (&v)[VECTOR<T>]) {
    const u32 w[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        float e[Words<T>::N];
        Words<T>::unpack(w[i], e);
#pragma unroll
        for (u32 j = 0; j < Words<T>::N; ++j) v[i * Words<T>::N + j] = e[j];
    }
}
template <class T>
__device__ __forceinline__ uint4 pack_vector(const float (&v)[VECTOR<T>]) {
    u32 w[4];
#pragma unroll
    for (u32 i = 0; i < 4; ++i) {
        float e[Words<T>::N];
#pragma unroll
        for (u32 j = 0; j < Words<T>::N; ++j) e[j] = v[i * Words<T>::N + j];
        w[i] = Words<T>::pack(e);
    }
    return make_uint4(w[0], w[1], w[2], w[3]);
}

template <class T>
__device__ __forceinline__ void rope(T* y, const T* x, const float* table, const u32* positions, u64 tokens,
                                     u32 heads, u32 d, u32 half, u32 max_position, u64 token_stride,
                                     u64 head_stride, u32 per, u32 interleaved, u32 vectors, float sign) {
    constexpr u32 V = VECTOR<T>;
    const u32 width = vectors ? V : 1, rot = 2 * half;
    const u32 turning = interleaved ? (vectors ? rot / V : half) : half / width;
    const u32 units = turning + (d - rot) / width, groups = (heads + per - 1) / per;
    const u64 index = thread_index();
    if (index >= tokens * groups * units) return;
    const u64 row = index / units, token = row / groups;
    const u32 unit = (u32)(index - row * units), first = (u32)(row - token * groups) * per;
    const u32 last = min(first + per, heads);
    x += token * token_stride + first * head_stride;
    y += (token * heads + first) * d;
    if (unit >= turning) {
        const u32 at = rot + (unit - turning) * width;
#pragma unroll 1
        for (u32 h = first; h < last; ++h, x += head_stride, y += d) {
            if (vectors) {
                store_vector(y + at, load_vector(x + at));
            } else {
                Words<T>::store_one(y + at, Words<T>::load_one(x + at));
            }
        }
        return;
    }
    const float* cosines = table + (u64)positions[token] * half;
    const float* sines = cosines + (u64)max_position * half;
    if (!vectors) {
        const u32 a = interleaved ? 2 * unit : unit, b = interleaved ? a + 1 : unit + half;
        const float c = cosines[unit], s = sines[unit] * sign;
#pragma unroll 1
        for (u32 h = first; h < last; ++h, x += head_stride, y += d) {
            const Pair p = rotate(load_f32(x + a), load_f32(x + b), c, s);
            store_f32(y + a, p.a);
            store_f32(y + b, p.b);
        }
    } else if (interleaved) {
        float c[V / 2], s[V / 2], v[V];
        load_table<V / 2>(cosines + unit * (V / 2), c);
        load_table<V / 2>(sines + unit * (V / 2), s);
#pragma unroll 1
        for (u32 h = first; h < last; ++h, x += head_stride, y += d) {
            unpack_vector<T>(load_vector(x + unit * V), v);
#pragma unroll
            for (u32 i = 0; i < V / 2; ++i) {
                const Pair p = rotate(v[2 * i], v[2 * i + 1], c[i], s[i] * sign);
                v[2 * i] = p.a, v[2 * i + 1] = p.b;
            }
            store_vector(y + unit * V, pack_vector<T>(v));
        }
    } else {
        float c[V], s[V], v[V], w[V];
        load_table<V>(cosines + unit * V, c);
        load_table<V>(sines + unit * V, s);
#pragma unroll 1
        for (u32 h = first; h < last; ++h, x += head_stride, y += d) {
            unpack_vector<T>(load_vector(x + unit * V), v);
            unpack_vector<T>(load_vector(x + half + unit * V), w);
#pragma unroll
            for (u32 i = 0; i < V; ++i) {
                const Pair p = rotate(v[i], w[i], c[i], s[i] * sign);
                v[i] = p.a, w[i] = p.b;
            }
            store_vector(y + unit * V, pack_vector<T>(v));
            store_vector(y + half + unit * V, pack_vector<T>(w));
        }
    }
}

#define ROPE(T, dtype)                                                                                 \
    extern "C" __global__ void __launch_bounds__(128)                                                  \
        rope_fwd_##dtype(T* y, const T* x, const float* table, const u32* positions, u64 tokens,       \
                         u32 heads, u32 d, u32 half, u32 max_position, u64 token_stride,               \
                         u64 head_stride, u32 per, u32 interleaved, u32 vectors, float sign) {         \
        rope<T>(y, x, table, positions, tokens, heads, d, half, max_position, token_stride,            \
                head_stride, per, interleaved, vectors, sign);                                         \
    }
FOR_EACH_DTYPE(ROPE)
