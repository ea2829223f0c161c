// Attention backward, bf16 and f16: dk, dv (and dq in a pass of its own), deterministic: every sum has one
// order and one owner, there are no atomics and no scratch beyond delta.
//
// With S = Q.K^T, P = 2^(scale.log2e.S - lse), dP = dO.V^T, dS = P * (dP - delta), delta = rowsum(dO * O):
//   dV = P^T.dO     dK = scale.dS^T.Q     dQ = scale.dS.K
// Both passes are one template: a stationary pair of tiles, whose rows the warps share out, and a streamed
// pair, double buffered.
//
//                     stationary (A1, A2)   streamed (B1, B2)
//   keys (dk, dv)     K, V  64 rows         Q, dO of all heads of the group, in order    computes S^T, dP^T
//   queries (dq)      Q, dO 64 rows         K, V                                          computes S, dP
//
//   B1,B2 --cp.async--> stage[i & 1]           (the next pair arrives while this one is used)
//     A1 --ldmatrix--> S  = A1.B1^T  --exp2--> P  --pack--> acc2 += P .B2   (B read by ldmatrix.trans)
//     A2 --ldmatrix--> dP = A2.B2^T  -------> dS --pack--> acc1 += dS.B1    (queries: acc1 alone)
//
// The transposed scores of the keys' pass come out of the tensor cores as the A operand of dV and dK, so P and
// dS never touch shared memory (FlashAttention-2 writes both there and reads them back transposed). A warp
// skips a streamed tile that its 16 rows do not see: the diagonal wastes 16 x 16, not 64 x 64.
//
// Floor: 10.D FLOPs a visible pair and head (five products) if dq shared S and dP with dk and dv; two passes
// compute seven, 14.D. FlashAttention-2 adds dq with atomics, or, deterministic, into one copy of dq a block.
// Launch: keys: grid (Hkv, tiles of 64 keys), queries: grid (Hq, tiles of 64 queries), 128 threads (the keys'
// pass at D > 128: 256, two warps sharing 16 keys and taking half of the columns each, because dk and dv of
// 256 columns do not fit one warp's registers; they compute S and dP twice). Shared memory 32.5 KB (D <= 64,
// 32 rows streamed), 48.3 KB (<= 128, 16 rows), 96.3 KB (<= 256, 16 rows).
// `work`: queries as in attention_forward.cu; keys {first key row, keys, end of the sequence, its start}.
#include "attention.cuh"

template <class T, int DT, int WARPS, int SPLIT, int SB, bool KEYS>
__device__ __forceinline__ void backward(const T* q, const T* k, const T* v, const T* d_out, const float* lse,
                                         const float* delta, T* out1, T* out2, const uint4* work, u32 q_token,
                                         u32 q_head, u32 k_token, u32 k_head, u32 v_token, u32 v_head, u32 tokens,
                                         u32 group, u32 d, u32 window, float scale, float scale_log2) {
  constexpr int BS = WARPS / SPLIT * 16, THREADS = WARPS * 32, ROW = DT * 2, W = DT / SPLIT;
  constexpr int SURE = SPLIT == 1 ? kSmallest<DT> : 0;
  constexpr int A = BS * ROW, B = SB * ROW, STAGE = 2 * B;
  extern __shared__ __align__(128) char shared[];
  const u32 sa = shared_address(shared), sb = sa + 2 * A, sl = sb + 2 * STAGE;
  const u32 thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
  const u32 row0 = warp / SPLIT * 16, half = warp % SPLIT * W;
  const uint4 w = work[blockIdx.y];
  const int rows = w.y, reach = (int)min(window, 0x40000000u);
  const u32 steps = (d + 31) / 32, heads = KEYS ? gridDim.x * group : gridDim.x;
  const u32 o_token = heads * d;

  // Positions within the sequence: of the first stationary row, of the first and past the last streamed one.
  const int position = KEYS ? w.x - w.w : w.w;
  const int first = (KEYS ? position : max(0, position - reach + 1)) / SB * SB;
  const int end = KEYS ? min((int)(w.z - w.w), position + rows + reach - 1) : position + rows;
  const u32 base = KEYS ? w.w : w.z;
  u32 head = KEYS ? blockIdx.x * group : blockIdx.x;
  const u32 last_head = KEYS ? head + group : head + 1;

  if (KEYS) {
    load_stationary<T, DT, BS, THREADS>(sa, k + (u64)w.x * k_token + blockIdx.x * k_head, k_token, rows, d, thread);
    load_stationary<T, DT, BS, THREADS>(sa + A, v + (u64)w.x * v_token + blockIdx.x * v_head, v_token, rows, d, thread);
  } else {
    load_stationary<T, DT, BS, THREADS>(sa, q + (u64)w.x * q_token + head * q_head, q_token, rows, d, thread);
    load_stationary<T, DT, BS, THREADS>(sa + A, d_out + (u64)w.x * o_token + head * d, o_token, rows, d, thread);
    k += head / group * k_head;
    v += head / group * v_head;
  }
  float row_lse[2], row_delta[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int row = row0 + (lane >> 2) + 8 * h;
    const bool there = !KEYS && row < rows;
    row_lse[h] = there ? lse[(u64)head * tokens + w.x + row] : 0.0f;
    row_delta[h] = there ? delta[(u64)head * tokens + w.x + row] : 0.0f;
  }

  const u32 r7 = lane & 7;
  const u32 a_rows = sa + (row0 + (lane & 15)) * ROW, a_lane = ((lane >> 4) ^ r7) << 4;
  const u32 b_row = (r7 + ((lane >> 4) << 3)) * ROW, b_lane = (((lane >> 3) & 1) ^ r7) << 4;
  const u32 t_row = (lane & 15) * ROW;
  const int low = position + (int)row0, high = low + 15;

  float acc1[W / 8][4] = {}, acc2[KEYS ? W / 8 : 1][4] = {};
  auto fetch = [&](u32 head, int at, u32 tile, u32 columns) {
    if (KEYS) {
      load_tile<T, DT, SB, THREADS>(tile, q + (u64)(base + at) * q_token + head * q_head, q_token, end - at, d, thread);
      load_tile<T, DT, SB, THREADS>(tile + B, d_out + (u64)(base + at) * o_token + head * d, o_token, end - at, d, thread);
      // Missing queries get lse 0: P is 1 there, but their rows of dO are zero.
      if (thread < 2 * SB) {
        const int i = thread % SB;
        const float* from = (thread < SB ? lse : delta) + ((u64)head * tokens + base + at + i);
        copy4(columns + thread * 4, from, at + i < end ? 4 : 0);
      }
    } else {
      load_tile<T, DT, SB, THREADS>(tile, k + (u64)(base + at) * k_token, k_token, end - at, d, thread);
      load_tile<T, DT, SB, THREADS>(tile + B, v + (u64)(base + at) * v_token, v_token, end - at, d, thread);
    }
  };
  // The first turn has no tile: it fetches that of the second.
  bool fetched = false;
  for (int at = first, stage = 1;; stage ^= 1) {
    copies_wait();
    __syncthreads();
    int next = at;
    if (fetched) {
      const bool wrap = at + SB >= end;
      next = wrap ? first : at + SB;
      head += wrap;
    }
    if (head < last_head) fetch(head, next, sb + (stage ^ 1) * STAGE, sl + (stage ^ 1) * (SB * 8));
    copies_commit();

    const int last = at + SB - 1;
    const bool seen = KEYS ? last >= low && at - high < reach : at <= high && low - last < reach;
    if (fetched && seen && (int)row0 < rows) {
      const u32 tile = sb + stage * STAGE;
      float s[SB / 8][4] = {}, ds[SB / 8][4] = {};
#pragma unroll 1
      for (u32 step = 0; step < steps; step++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
          const u32 a_at = a_rows + (a_lane ^ (step * 64 + h * 32)), b_at = tile + b_row + (b_lane ^ (step * 64 + h * 32));
          u32 a[4];
          ldmatrix<0>(a, a_at);
          multiply_rows<T, DT>(s, a, b_at);
          ldmatrix<A>(a, a_at);
          multiply_rows<T, DT>(ds, a, b_at + B);
        }

      const bool whole = KEYS ? at >= high && last - low < reach : last <= low && high - at < reach;
      if (!whole) {
        const int edge = (low + (int)(lane >> 2)) - (at + 2 * (int)(lane & 3));
#pragma unroll
        for (int n = 0; n < SB / 8; n++)
#pragma unroll
          for (int e = 0; e < 4; e++) {
            const int difference = edge + (e >> 1) * 8 - n * 8 - (e & 1);
            // Distance from the key to its query.
            const int distance = KEYS ? -difference : difference;
            if (distance < 0 || distance >= reach) s[n][e] = -kInfinity;
          }
      }
      const float* columns = (const float*)(shared + 2 * A + 2 * STAGE + stage * (SB * 8)) + 2 * (lane & 3);
#pragma unroll
      for (int n = 0; n < SB / 8; n++) {
        const float2 column_lse = KEYS ? *(const float2*)(columns + n * 8) : make_float2(0.0f, 0.0f);
        const float2 column_delta = KEYS ? *(const float2*)(columns + SB + n * 8) : make_float2(0.0f, 0.0f);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const float l = !KEYS ? row_lse[e >> 1] : e & 1 ? column_lse.y : column_lse.x;
          const float r = !KEYS ? row_delta[e >> 1] : e & 1 ? column_delta.y : column_delta.x;
          s[n][e] = exp2_approx(fmaf(s[n][e], scale_log2, -l));
          ds[n][e] = s[n][e] * (ds[n][e] - r);
        }
      }
      u32 operand[SB / 16][4];
      if constexpr (KEYS) {
        pack_operand<T>(operand, s);
        accumulate<T, DT, W, SURE>(acc2, operand, tile + B + t_row, a_lane, half, d);
      }
      pack_operand<T>(operand, ds);
      accumulate<T, DT, W, SURE>(acc1, operand, tile + t_row, a_lane, half, d);
    }
    if (head == last_head) break;
    at = next;
    fetched = true;
  }

  // The results leave through the stationary tiles, which other warps may still be reading.
  __syncthreads();
  const u64 stride = (u64)gridDim.x * d, to = (w.x + row0) * stride + blockIdx.x * d;
  store_rows<T, DT, W>(sa, row0, half, acc1, scale, scale, out1 + to, stride, rows - (int)row0, d, lane);
  if constexpr (KEYS)
    store_rows<T, DT, W>(sa + A, row0, half, acc2, 1.0f, 1.0f, out2 + to, stride, rows - (int)row0, d, lane);
}

#define PARAMETERS(T)                                                                                              \
  const T *q, const T *k, const T *v, const T *d_out, const float *lse, const float *delta, T *out1, T *out2,      \
      const uint4 *work, u32 q_token, u32 q_head, u32 k_token, u32 k_head, u32 v_token, u32 v_head, u32 tokens,    \
      u32 group, u32 d, u32 window, float scale, float scale_log2
#define ARGUMENTS                                                                                                  \
  q, k, v, d_out, lse, delta, out1, out2, work, q_token, q_head, k_token, k_head, v_token, v_head, tokens, group,  \
      d, window, scale, scale_log2
#define BACKWARD(T, DT, SB, BLOCKS, KEY_WARPS, SPLIT)                                                              \
  extern "C" __global__ void __launch_bounds__(KEY_WARPS * 32, BLOCKS)                                             \
      attention_bwd_keys_d##DT##_##T(PARAMETERS(T)) {                                                              \
    backward<T, DT, KEY_WARPS, SPLIT, SB, true>(ARGUMENTS);                                                        \
  }                                                                                                                \
  extern "C" __global__ void __launch_bounds__(128, BLOCKS) attention_bwd_queries_d##DT##_##T(PARAMETERS(T)) {     \
    backward<T, DT, 4, 1, SB, false>(ARGUMENTS);                                                                   \
  }
BACKWARD(bf16, 64, 32, 3, 4, 1)
BACKWARD(bf16, 128, 16, 2, 4, 1)
BACKWARD(bf16, 256, 16, 1, 8, 2)
