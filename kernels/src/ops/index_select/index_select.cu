// Rows gathered by index, and the transpose: rows added up at their index, each destination by one
// thread a column in the order of the tokens, so without atomics and to the same bits every time.
//
//     the host sorts the indices (stable):   rows    [U]      destinations that occur
//                                            starts  [U + 1]  where each one's tokens begin in `order`
//                                            order   [T]      tokens
//
// Forward: any dtype, 256 threads, a unit (16 bytes where aligned) of the result a thread. Floor: 2
// elements' bytes. Backward: dx is zeroed first; 128 threads, a vector of 16 bytes (or one element) of a
// destination row a thread, f32 sums. Floor: dy read, dx written twice at the rows that occur.
#include "copy.cuh"

extern "C" __global__ void __launch_bounds__(256)
    index_select_fwd_any(char* y, const char* x, const u32* indices, u64 n, u64 row_units, u32 unit) {
    const u64 i = thread_index();
    if (i >= n) return;
    const u64 t = i / row_units;
    const u64 from = (u64)indices[t] * row_units + (i - t * row_units);
    copy_unit(y + (i << unit), x + (from << unit), unit);
}

template <class T>
__device__ __forceinline__ void add_rows(T* dx, const T* dy, const u32* rows, const u32* starts,
                                         const u32* order, u64 distinct, u64 h, u32 vectors) {
    constexpr u32 V = VECTOR<T>, W = Words<T>::N;
    const u64 columns = vectors ? h / V : h, index = thread_index();
    if (index >= distinct * columns) return;
    const u64 r = index / columns, column = (index - r * columns) * (vectors ? V : 1);
    float sum[4][W] = {};
#pragma unroll 1
    for (u32 i = starts[r]; i < starts[r + 1]; ++i) {
        const T* from = dy + order[i] * h + column;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (hidden(vectors)) {
            v = load_vector(from);
        } else {
            v.x = Words<T>::load_one(from);
        }
        const u32 w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            float e[W];
            Words<T>::unpack(w[j], e);
#pragma unroll
            for (u32 k = 0; k < W; ++k) sum[j][k] += e[k];
        }
    }
    T* to = dx + rows[r] * h + column;
    if (vectors) {
        store_vector(to, make_uint4(Words<T>::pack(sum[0]), Words<T>::pack(sum[1]), Words<T>::pack(sum[2]),
                                    Words<T>::pack(sum[3])));
    } else {
        Words<T>::store_one(to, Words<T>::pack(sum[0]));
    }
}

#define INDEX_SELECT(T, dtype)                                                                         \
    extern "C" __global__ void __launch_bounds__(128)                                                  \
        index_select_bwd_##dtype(T* dx, const T* dy, const u32* rows, const u32* starts,               \
                                 const u32* order, u64 distinct, u64 h, u32 vectors) {                 \
        add_rows<T>(dx, dy, rows, starts, order, distinct, h, vectors);                                \
    }
FOR_EACH_DTYPE(INDEX_SELECT)
