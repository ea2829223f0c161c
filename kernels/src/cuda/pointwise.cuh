// The engine of element-by-element kernels: N strided or broadcast operands in, M row-major results out.
//
//     results, flat    |vector|vector|…|·|·|·|    a thread takes a vector of 16 bytes or, past the last of
//                                                 `vectors` vectors, one element
//     operand k        element i of the results lies at  Σ_d index_d(i) · stride_k[d]
//
// The launcher (`cuda/pointwise.rs`) drops and merges dimensions first. It asks for vectors where all
// operands are walked by 1 and every row starts on 16 bytes: no vector then crosses a row's end.
//
// Floor: one read of each operand's bytes, one write of each result's; sectors requested = needed. Launch:
// 256 threads a block; 2³¹ − 1 blocks reach further than any memory.
#pragma once
#include "words.cuh"

// The dimensions from the innermost on, `1 + N` u64 each: extent, stride of each operand. Rank 0 stands
// for operands that all lie as the results do.
struct Walk {
    const u64* layout;
    u32 rank;
    u64 vectors;
    u64 n;
};

template <int N>
__device__ __forceinline__ void locate(const Walk& walk, u64 index, u64 (&at)[N]) {
    const u64* dim = walk.layout;
#pragma unroll
    for (int k = 0; k < N; ++k) at[k] = walk.rank == 0 ? index : 0;
#pragma unroll 1
    for (u32 d = 0; d < walk.rank; ++d, dim += 1 + N) {
        const u64 next = index / dim[0], i = index - next * dim[0];
        index = next;
#pragma unroll
        for (int k = 0; k < N; ++k) at[k] += i * dim[1 + k];
    }
}

// Runs `f(e, o)`, one element of each operand to one of each result, over the elements of a word through
// one copy of its code: for long functions.
template <class F>
struct Rolled {
    F f;
    template <int N, int M, int W>
    __device__ __forceinline__ void operator()(const float (&v)[N][W], float (&r)[M][W]) const {
        float e[N], o[M];
#pragma unroll
        for (int k = 0; k < N; ++k) e[k] = v[k][0];
#pragma unroll 1
        for (int i = 0; i < W; ++i) {
#pragma unroll
            for (int m = 0; m < M; ++m) r[m][0] = o[m];
            f(e, o);
#pragma unroll
            for (int k = 0; k < N; ++k) e[k] = v[k][W - 1];
        }
#pragma unroll
        for (int m = 0; m < M; ++m) r[m][W - 1] = o[m];
    }
};

// `f(v, r)`: the elements of one word of each operand to those of each result. A null result is computed
// and not stored.
template <class T, int N, int M, class F>
__device__ __forceinline__ void pointwise(const T* const (&in)[N], T* const (&out)[M], Walk walk, F f) {
    constexpr u32 V = VECTOR<T>, W = Words<T>::N;
    const u64 unit = thread_index(), more = walk.vectors * (V - 1);
    if (unit >= walk.n - more) return;
    const bool vector = unit < walk.vectors;
    const u64 first = vector ? unit * V : unit + more;
    u64 at[N];
    locate<N>(walk, first, at);
    uint4 x[N], y[M];
#pragma unroll
    for (int k = 0; k < N; ++k) {
        if (vector) {
            x[k] = load_vector(in[k] + at[k]);
        } else {
            x[k].x = Words<T>::load_one(in[k] + at[k]);
        }
    }
    u32 words = vector ? 4 : 1;
#pragma unroll 1
    do {
        float v[N][W], r[M][W];
#pragma unroll
        for (int k = 0; k < N; ++k) {
            Words<T>::unpack(x[k].x, v[k]);
            shift_in(x[k], x[k].w);
        }
        f(v, r);
#pragma unroll
        for (int m = 0; m < M; ++m) shift_in(y[m], Words<T>::pack(r[m]));
    } while (--words > 0);
#pragma unroll
    for (int m = 0; m < M; ++m) {
        if (M > 1 && out[m] == nullptr) continue;
        if (vector) {
            store_vector(out[m] + first, y[m]);
        } else {
            Words<T>::store_one(out[m] + first, y[m].w);
        }
    }
}
