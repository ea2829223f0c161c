// Row work beside the attention kernels: delta = rowsum(do * o) for the backward pass, and copies of rows
// to where the kernels can read them (heads padded to a multiple of 8, rows at multiples of 16 bytes) and back.
//
// delta: 8 lanes a row of [T, H, D], 16 bytes a lane and turn; four tokens of one head in a warp, so that the
// four results of [H, T] leave as 16 bytes. Floor: bytes, 4.D + 4 a row. Launch: grid ceil(T.H / 32), 256
// threads.
// copy: one warp a row, grid ceil(rows / 8). Floor: bytes, 4 an element; it runs where a head's size is no
// multiple of 8 (tiny test models) or a view begins between 16-byte boundaries.
#include "attention.cuh"

template <class T>
__device__ __forceinline__ void delta(const T* d_out, const T* o, float* out, u32 tokens, u32 heads, u32 d) {
  const u32 lane = threadIdx.x & 7, row = blockIdx.x * 32 + threadIdx.x / 8;
  const u32 head = row / tokens, token = row % tokens;
  float sum = 0.0f;
  if (head < heads) {
    const u64 at = ((u64)token * heads + head) * d;
#pragma unroll 1
    for (u32 column = lane * 8; column < d; column += 64) {
      const uint4 a = *(const uint4*)(d_out + at + column), b = *(const uint4*)(o + at + column);
      const u32 x[4] = {a.x, a.y, a.z, a.w}, y[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const float2 s = unpack<T>(x[i]), t = unpack<T>(y[i]);
        sum = fmaf(s.x, t.x, sum);
        sum = fmaf(s.y, t.y, sum);
      }
    }
  }
#pragma unroll
  for (int i = 1; i < 8; i *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  if (lane == 0 && head < heads) out[row] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    attention_bwd_delta_bf16(const bf16* d_out, const bf16* o, float* out, u32 tokens, u32 heads, u32 d) {
  delta(d_out, o, out, tokens, heads, d);
}
extern "C" __global__ void __launch_bounds__(256)
    attention_bwd_delta_f16(const f16* d_out, const f16* o, float* out, u32 tokens, u32 heads, u32 d) {
  delta(d_out, o, out, tokens, heads, d);
}
extern "C" __global__ void __launch_bounds__(256)
    attention_bwd_delta_f32(const float* d_out, const float* o, float* out, u32 tokens, u32 heads, u32 d) {
  const u32 lane = threadIdx.x & 7, row = blockIdx.x * 32 + threadIdx.x / 8;
  const u32 head = row / tokens, token = row % tokens;
  float sum = 0.0f;
  if (head < heads) {
    const u64 at = ((u64)token * heads + head) * d;
#pragma unroll 1
    for (u32 column = lane; column < d; column += 8) sum = fmaf(d_out[at + column], o[at + column], sum);
  }
#pragma unroll
  for (int i = 1; i < 8; i *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, i);
  if (lane == 0 && head < heads) out[row] = sum;
}

/// `to[t, h, 0..to_d] = from[t, h, 0..from_d]`, zeros where `from` has no column. `to` is contiguous, `from`
/// steps `token` and `head` elements from token to token and head to head; one warp a row.
template <class E>
__device__ __forceinline__ void copy(E* to, const E* from, u32 rows, u32 heads, u32 to_d, u32 from_d, u32 token,
                                     u32 head) {
  const u32 row = blockIdx.x * 8 + threadIdx.x / 32;
  if (row >= rows) return;
  from += (u64)(row / heads) * token + row % heads * head;
  to += (u64)row * to_d;
#pragma unroll 1
  for (u32 column = threadIdx.x % 32; column < to_d; column += 32) to[column] = column < from_d ? from[column] : (E)0;
}

#define COPY(E, BITS)                                                                                              \
  extern "C" __global__ void __launch_bounds__(256) attention_fwd_copy_b##BITS(                                    \
      E* to, const E* from, u32 rows, u32 heads, u32 to_d, u32 from_d, u32 token, u32 head) {                      \
    copy(to, from, rows, heads, to_d, from_d, token, head);                                                        \
  }
COPY(u16, 16)
