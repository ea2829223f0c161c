// Row gather, and its transpose: rows summed by target.
//
// forward    out[t, :] = table[ids[t], :]               one block a token, 4 columns a thread
// backward   out[row[g], :] = s · Σ dy[token[k], :]     k from first[g] to first[g+1], ascending
//
// The backward pass is deterministic without atomics: the host has sorted the tokens by the row they
// go to, a group a row, and one thread sums a group's column in the order of the tokens, as the CPU does.
// Rows that no token names are zeroed by the launcher's memset. A word that is very frequent makes one
// long group; its blocks run beside those of the other groups and of the other columns.
//
// Floor: memory. Forward: the row read and written once, plus 4 bytes a token. Backward: each output
// gradient read once, each touched row written once, 4·V·H bytes of zeros (f32 gradient of the table).
// Launch: forward grid (T), backward grid (groups, ⌈H / 1024⌉), 256 threads.
#include "packs.cuh"

// 16 bytes of f32 or 8 of a 16-bit dtype a thread, lane after lane: no sector is touched twice.
#define COLUMNS 4

// dtype codes of the table, whose dtype is free of the output's.
#define F32 0
#define BF16 1
#define F16 2

template <class Out>
__device__ __forceinline__ void gather(Out *out, const void *table, u32 dtype, const u32 *ids, u32 h,
                                       u64 row_stride, u64 column_stride, u32 vector) {
    const u64 start = ids[blockIdx.x] * row_stride;
    Out *to = out + (u64)blockIdx.x * h;
    if (vector) {
#pragma unroll 1
        for (u32 c = threadIdx.x * COLUMNS; c < h; c += blockDim.x * COLUMNS) {
            float x[COLUMNS];
            if (dtype == F32) load<float, COLUMNS>((const float *)table + start + c, x);
            else if (dtype == BF16) load<bf16, COLUMNS>((const bf16 *)table + start + c, x);
            else load<f16, COLUMNS>((const f16 *)table + start + c, x);
            store<Out, COLUMNS>(to + c, x);
        }
    } else {
#pragma unroll 1
        for (u32 c = threadIdx.x; c < h; c += blockDim.x) {
            const u64 e = start + c * column_stride;
            float x;
            if (dtype == F32) x = ((const float *)table)[e];
            else if (dtype == BF16) x = load_f32((const bf16 *)table + e);
            else x = load_f32((const f16 *)table + e);
            store_f32(to + c, x);
        }
    }
}

#define FORWARD(out, Out)                                                                                      \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        embedding_fwd_##out(Out *y, const void *table, u32 dtype, const u32 *ids, u32 h, u64 row_stride,       \
                            u64 column_stride, u32 vector) {                                                   \
        gather<Out>(y, table, dtype, ids, h, row_stride, column_stride, vector);                               \
    }
FORWARD(f32, float)
FORWARD(bf16, bf16)
FORWARD(f16, f16)

__device__ const float NF4_CODE[16] = {
    -1.0f,        -0.6961928f,  -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f,   0.1609302f,   0.2461123f,   0.33791524f, 0.44070983f,  0.562617f,    0.72295684f,   1.0f};

// Rows of an NF4 matrix. Blocks of 64 run across rows, so an element's block is that of its flat index;
// `nested` is null when the block scales are plain f32 (`scales`), else they are
// map[nested[b]]·scales[b / 256] + offset.
extern "C" __global__ void __launch_bounds__(256)
    embedding_fwd_nf4_f32(float *out, const unsigned char *codes, const unsigned char *nested, const float *map,
                          const float *scales, float offset, const u32 *ids, u32 h, u64 first) {
    const u64 start = first + (u64)ids[blockIdx.x] * h;
    float *to = out + (u64)blockIdx.x * h;
#pragma unroll 1
    for (u32 c = threadIdx.x; c < h; c += blockDim.x) {
        const u64 e = start + c, block = e >> 6;
        const u32 nibble = (codes[e >> 1] >> ((e & 1) ? 0 : 4)) & 15;
        const float scale =
            nested ? __fadd_rn(__fmul_rn(map[nested[block]], scales[block >> 8]), offset) : scales[block];
        to[c] = NF4_CODE[nibble] * scale;
    }
}

// Rows summed by one thread: N columns, or one.
template <int N, class In>
__device__ __forceinline__ void sum_rows(void *out, u32 wide, u64 at, const In *dy, const u32 *token, u32 from, u32 to,
                                         u32 h, u32 c, float scale) {
    float sum[N] = {};
#pragma unroll 1
    for (u32 k = from; k < to; ++k) {
        const In *line = dy + (u64)token[k] * h + c;
        float x[N];
        if constexpr (N == 1) x[0] = load_f32(line);
        else load<In, N>(line, x);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += x[i];
    }
#pragma unroll
    for (int i = 0; i < N; ++i) sum[i] *= scale;
    float *wide_out = (float *)out + at + c;
    In *narrow_out = (In *)out + at + c;
    if constexpr (N == 1) {
        if (wide) *wide_out = sum[0];
        else store_f32(narrow_out, sum[0]);
    } else {
        if (wide) store<float, N>(wide_out, sum);
        else store<In, N>(narrow_out, sum);
    }
}

// `out` is f32 where `wide`, else of dy's dtype. `upstream` may be null; else the sums are multiplied by
// *upstream / expected.
template <class In>
__device__ __forceinline__ void scatter(void *out, u32 wide, const In *dy, const u32 *row, const u32 *first,
                                        const u32 *token, u32 h, u32 vector, const float *upstream, float expected) {
    const u32 g = blockIdx.x, from = first[g], to = first[g + 1];
    const float scale = upstream ? *upstream / expected : 1.0f;
    const u64 at = (u64)row[g] * h;
    const u32 begin = blockIdx.y * blockDim.x * COLUMNS;
    if (vector) {
        const u32 c = begin + threadIdx.x * COLUMNS;
        if (c < h) sum_rows<COLUMNS, In>(out, wide, at, dy, token, from, to, h, c, scale);
    } else {
#pragma unroll 1
        for (u32 i = 0; i < COLUMNS; ++i) {
            const u32 c = begin + i * blockDim.x + threadIdx.x;
            if (c < h) sum_rows<1, In>(out, wide, at, dy, token, from, to, h, c, scale);
        }
    }
}

#define BACKWARD(in, In)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        embedding_bwd_##in(void *out, u32 wide, const In *dy, const u32 *row, const u32 *first,                \
                           const u32 *token, u32 h, u32 vector, const float *upstream, float expected) {       \
        scatter<In>(out, wide, dy, row, first, token, h, vector, upstream, expected);                          \
    }
BACKWARD(f32, float)
BACKWARD(bf16, bf16)
BACKWARD(f16, f16)
