// Attention of a few new queries over a cache, bf16 and f16: flash-decoding (split keys, then combine).
//
//   block = one key-value head, 16 of its (query, head of the group) pairs, one part of the keys:
//     row r of the tile is query r / group, head r % group: the group shares every key it reads
//
//   warp w      keys 16w..16w+15 of every 64, its own two stages in shared memory:
//     K, V --cp.async--> stage[i & 1] --ldmatrix--> S --online softmax--> P --> O += P.V     no block barrier
//   end         O, m, l of the warps --> shared --> summed in warp order --> one partial row (f32) and its
//               log-sum-exp, or, when there is one part, the result itself
//   combine     o = sum of parts * 2^(lse_part - max) / sum of weights, in part order: the same bits every run
//
// Floor: bytes, 4.D a key and key-value head (K and V read once); the tensor cores have 15 of 16 rows to spare.
// Launch: grid (Hkv . ceil(rows / 16), parts, sequences), 128 threads, shared memory 68 KB. D <= 128; longer
// heads decode with attention_forward.cu.
// `sequences[z]` names a cache by address: sequences of a batch lie where they lie.
// FlashAttention-2's splitkv kernel gives each warp 16 rows of the tile and all keys: with one query and a
// group of 4, three of its four warps multiply padding; here all four read keys.
#include "attention.cuh"

struct Sequence {
  u64 k, v;
  u32 q_row, queries, keys, pad;
};

template <class T, int DT, int WARPS>
__device__ __forceinline__ void decode(const T* q, T* o, float* part_o, float* part_lse, const Sequence* sequences,
                                       u32 q_token, u32 q_head, u32 kv_token, u32 kv_head, u32 hq, u32 group,
                                       u32 row_tiles, u32 total_rows, u32 part_keys, u32 d, u32 window, float scale) {
  constexpr int ROW = DT * 2, TILE = 16 * ROW, PITCH = DT + 8;
  extern __shared__ __align__(128) char shared[];
  const u32 thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const u32 sq = shared_address(shared), own = sq + TILE + warp * 4 * TILE;
  const Sequence w = sequences[blockIdx.z];
  const int head = blockIdx.x / row_tiles, row0 = blockIdx.x % row_tiles * 16;
  const int rows = min((int)(w.queries * group) - row0, 16);
  if (rows <= 0) return;
  const u32 steps = (d + 31) / 32;
  const int position = w.keys - w.queries, reach = (int)min(window, 0x40000000u);
  const int from = max(0, position - reach + 1) / 16 * 16 + (int)(blockIdx.y * part_keys);
  const int end = min((int)w.keys, from + (int)part_keys);

  // Rows of the tile are no equal distance apart, so they are gathered one by one.
#pragma unroll 1
  for (u32 i = thread; i < 16 * (DT / 8); i += WARPS * 32) {
    const u32 row = i / (DT / 8), chunk = i % (DT / 8), r = row0 + row;
    if (chunk * 8 < ((d + 31) & ~31u)) {
      const bool there = (int)row < rows && chunk * 8 < d;
      const T* p = q + (there ? (u64)(w.q_row + r / group) * q_token + (head * group + r % group) * q_head + chunk * 8 : 0);
      copy16<0>(sq + swizzled<DT>(row, chunk), p, there ? 16 : 0);
    }
  }
  copies_commit();
  const T* k = (const T*)w.k + head * kv_head;
  const T* v = (const T*)w.v + head * kv_head;
  // One warp fills 16 rows, its lanes taking whole rows of chunks.
  auto fetch = [&](int key, u32 to) {
    constexpr int CHUNKS = DT / 8;
#pragma unroll 2
    for (u32 i = lane; i < 16 * CHUNKS; i += 32) {
      const u32 row = i / CHUNKS, chunk = i % CHUNKS;
      const bool there = key + (int)row < end && chunk * 8 < d;
      const u64 at = there ? (u64)(key + row) * kv_token + chunk * 8 : 0;
      if (chunk * 8 < ((d + 31) & ~31u)) {
        copy16<0>(to + swizzled<DT>(row, chunk), k + at, there ? 16 : 0);
        copy16<TILE>(to + swizzled<DT>(row, chunk), v + at, there ? 16 : 0);
      }
    }
  };
  int key = from + (int)warp * 16;
  if (key < end) fetch(key, own);
  copies_commit();
  copies_wait();
  __syncthreads();

  const u32 r7 = lane & 7;
  const u32 a_rows = sq + (lane & 15) * ROW, a_lane = ((lane >> 4) ^ r7) << 4;
  const u32 b_row = (r7 + ((lane >> 4) << 3)) * ROW, b_lane = (((lane >> 3) & 1) ^ r7) << 4;
  const u32 t_row = TILE + (lane & 15) * ROW;
  // Positions of the two rows of this lane.
  const int seen[2] = {position + (row0 + (int)(lane >> 2)) / (int)group,
                       position + (row0 + (int)(lane >> 2) + 8) / (int)group};

  float acc[DT / 8][4] = {};
  float m[2] = {-kInfinity, -kInfinity}, l[2] = {0.0f, 0.0f};
  for (u32 stage = 0; key < end; key += WARPS * 16, stage ^= 1) {
    copies_wait();
    __syncwarp();
    if (key + WARPS * 16 < end) fetch(key + WARPS * 16, own + (stage ^ 1) * 2 * TILE);
    copies_commit();
    const u32 tile = own + stage * 2 * TILE;
    float s[2][4] = {};
#pragma unroll 1
    for (u32 step = 0; step < steps; step++)
#pragma unroll
      for (u32 h = 0; h < 2; h++) {
        u32 a[4];
        ldmatrix<0>(a, a_rows + (a_lane ^ (step * 64 + h * 32)));
        multiply_rows<T, DT>(s, a, tile + b_row + (b_lane ^ (step * 64 + h * 32)));
      }
    float decay[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float top = m[h];
#pragma unroll
      for (int n = 0; n < 4; n++) {
        float& x = s[n >> 1][2 * h + (n & 1)];
        const int at = key + (n >> 1) * 8 + 2 * (int)(lane & 3) + (n & 1), distance = seen[h] - at;
        if (distance < 0 || distance >= reach || at >= end) x = -kInfinity;
        top = fmaxf(top, x);
      }
      top = row_max(top);
      const float shift = top == -kInfinity ? 0.0f : top * scale;
      decay[h] = exp2_approx(fmaf(m[h], scale, -shift));
      m[h] = top;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < 4; n++) {
        float& x = s[n >> 1][2 * h + (n & 1)];
        x = exp2_approx(fmaf(x, scale, -shift));
        sum += x;
      }
      l[h] = fmaf(l[h], decay[h], sum);
    }
#pragma unroll
    for (int n = 0; n < DT / 8; n++) {
      acc[n][0] *= decay[0];
      acc[n][1] *= decay[0];
      acc[n][2] *= decay[1];
      acc[n][3] *= decay[1];
    }
    u32 p[1][4];
    pack_operand<T>(p, s);
    accumulate<T, DT, DT, 1>(acc, p, tile + t_row, a_lane, 0, d);
  }

  // All stages are free: each warp leaves its O in its own, m and l before them.
  float* own_o = (float*)(shared + TILE + warp * 4 * TILE);
  float* all_m = (float*)shared;
  float* all_l = all_m + WARPS * 16;
  __syncthreads();
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const u32 row = (lane >> 2) + 8 * h;
    l[h] = row_sum(l[h]);
    if ((lane & 3) == 0) {
      all_m[warp * 16 + row] = m[h] * scale;
      all_l[warp * 16 + row] = l[h];
    }
#pragma unroll
    for (int n = 0; n < DT / 8; n++)
      *(float2*)(own_o + row * PITCH + n * 8 + 2 * (lane & 3)) = make_float2(acc[n][2 * h], acc[n][2 * h + 1]);
  }
  __syncthreads();
#pragma unroll 1
  for (u32 i = thread; i < rows * (d / 2); i += WARPS * 32) {
    const u32 row = i / (d / 2), column = i % (d / 2) * 2;
    float top = -kInfinity;
#pragma unroll
    for (int x = 0; x < WARPS; x++) top = fmaxf(top, all_m[x * 16 + row]);
    float2 sum = make_float2(0.0f, 0.0f);
    float total = 0.0f;
#pragma unroll
    for (int x = 0; x < WARPS; x++) {
      // A warp without keys has m = -infinity, and so has a part without keys: weight 0.
      const float weight = top == -kInfinity ? 0.0f : exp2_approx(all_m[x * 16 + row] - top);
      const float2 value = *(const float2*)(shared + TILE + x * 4 * TILE + (row * PITCH + column) * 4);
      total = fmaf(all_l[x * 16 + row], weight, total);
      sum.x = fmaf(value.x, weight, sum.x);
      sum.y = fmaf(value.y, weight, sum.y);
    }
    const float inverse = total > 0.0f ? 1.0f / total : total == 0.0f ? 0.0f : total;
    const u32 r = row0 + row;
    const u64 to = (u64)(w.q_row + r / group) * hq + head * group + r % group;
    if (gridDim.y == 1) {
      *(u32*)(o + to * d + column) = pack<T>(sum.x * inverse, sum.y * inverse);
    } else {
      const u64 part = (u64)blockIdx.y * total_rows + to;
      *(float2*)(part_o + part * d + column) = make_float2(sum.x * inverse, sum.y * inverse);
      if (column == 0) part_lse[part] = top + log2_approx(total);
    }
  }
}

/// One warp a row: weighs the parts of a row and adds them in order.
template <class T>
__device__ __forceinline__ void combine(T* o, const float* part_o, const float* part_lse, u32 rows, u32 parts, u32 d) {
  const u32 row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32, lane = threadIdx.x & 31;
  if (row >= rows) return;
  float top = -kInfinity;
#pragma unroll 1
  for (u32 i = 0; i < parts; i++) top = fmaxf(top, part_lse[(u64)i * rows + row]);
#pragma unroll 1
  for (u32 column = lane * 2; column < d; column += 64) {
    float2 sum = make_float2(0.0f, 0.0f);
    float total = 0.0f;
#pragma unroll 1
    for (u32 i = 0; i < parts; i++) {
      const float weight = exp2_approx(part_lse[(u64)i * rows + row] - top);
      const float2 value = *(const float2*)(part_o + ((u64)i * rows + row) * d + column);
      total += weight;
      sum.x = fmaf(value.x, weight, sum.x);
      sum.y = fmaf(value.y, weight, sum.y);
    }
    *(u32*)(o + (u64)row * d + column) = pack<T>(sum.x / total, sum.y / total);
  }
}

#define DECODE(T, DT, WARPS)                                                                                       \
  extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                         \
      attention_fwd_decode_d##DT##_##T(const T* q, T* o, float* part_o, float* part_lse, const Sequence* sequences, \
                                       u32 q_token, u32 q_head, u32 kv_token, u32 kv_head, u32 hq, u32 group,      \
                                       u32 row_tiles, u32 total_rows, u32 part_keys, u32 d, u32 window,            \
                                       float scale) {                                                              \
    decode<T, DT, WARPS>(q, o, part_o, part_lse, sequences, q_token, q_head, kv_token, kv_head, hq, group,         \
                         row_tiles, total_rows, part_keys, d, window, scale);                                      \
  }
DECODE(bf16, 128, 4)

extern "C" __global__ void __launch_bounds__(128)
    attention_fwd_combine_bf16(bf16* o, const float* part_o, const float* part_lse, u32 rows, u32 parts, u32 d) {
  combine(o, part_o, part_lse, rows, parts, d);
}
