// Attention forward, bf16 and f16: o = softmax(scale . q.k^T + mask) . v, packed sequences, grouped queries,
// sliding window; keeps the base-2 log-sum-exp of a row for the backward pass.
//
//   block = 64 queries of one head (128 at D > 128), a warp owns 16 of them; loop over tiles of 64 keys (32):
//
//     global --cp.async--> sK --ldmatrix------> S = Q.K^T   (registers, f32)    while V of this tile arrives
//                          sQ --ldmatrix--^         | scale, mask, online softmax
//     global --cp.async--> sV --ldmatrix.trans> O += P.V    (P: S's registers,  while K of the next arrives
//                                               packed; O: registers, f32)
//     O / l --> sQ (own rows) --16 bytes a lane--> global
//
// Two tiles are in flight by turns, one of K and one of V: each product hides the copy the other needs, and
// the block fits twice on a multiprocessor (48 KB). A tile is masked only where the diagonal or the window's
// edge crosses it; tiles wholly outside are not visited, and a warp whose rows see nothing of a tile skips it.
//
// Floor: 4.D FLOPs a visible (query, key) pair and head; bytes 2.(q + o) + the group's k + v once a tile of
// queries out of L2. Compute-bound from about 64 keys on.
// Launch: grid (Hq, tiles), 128 threads (256 at D > 128); `work[tile]` = {first query row, queries, first
// key row of the sequence, position of the first query}, longest first. Shared memory 24 KB (D <= 64),
// 48 KB (<= 128), 96 KB (<= 256). Heads of other sizes run in the next template, columns in steps of 32.
//
// Beside FlashAttention-2 (sm_86, D = 128, causal): the same 64 x 64 tile, four warps and K/V alternation,
// rows of Q split over warps and none of K; it iterates keys downwards and peels the masked tiles, here one
// loop tests a warp-uniform condition; it holds one template a head size and mask, here both are arguments,
// which costs one branch a tile. Its m16 x 2 a warp on sm_80 halves ldmatrix traffic; not done here: on GA102
// and AD102 the tensor cores take 64 cycles where ldmatrix takes 20.
#include "attention.cuh"

template <class T, int DT, int WARPS, int BK>
__device__ __forceinline__ void forward(const T* q, const T* k, const T* v, T* o, float* lse, const uint4* work,
                                        u32 q_token, u32 q_head, u32 k_token, u32 k_head, u32 v_token, u32 v_head,
                                        u32 tokens, u32 group, u32 d, u32 window, float scale) {
  constexpr int BQ = WARPS * 16, THREADS = WARPS * 32, ROW = DT * 2;
  extern __shared__ __align__(128) char shared[];
  const u32 sq = shared_address(shared), sk = sq + BQ * ROW, sv = sk + BK * ROW;
  const u32 thread = threadIdx.x, lane = thread & 31, row0 = (thread >> 5) * 16;
  const uint4 w = work[blockIdx.y];
  const int rows = w.y, position = w.w, head = blockIdx.x;
  const u32 steps = (d + 31) / 32;

  const int end = position + rows;
  const int first = max(0, position - (int)min(window, (u32)position + 1) + 1) / BK * BK;
  k += (u64)w.z * k_token + head / group * k_head;
  v += (u64)w.z * v_token + head / group * v_head;
  load_stationary<T, DT, BQ, THREADS>(sq, q + (u64)w.x * q_token + head * q_head, q_token, rows, d, thread);

  const u32 r7 = lane & 7;
  const u32 a_rows = sq + (row0 + (lane & 15)) * ROW, a_lane = ((lane >> 4) ^ r7) << 4;
  const u32 b_rows = sk + (r7 + ((lane >> 4) << 3)) * ROW, b_lane = (((lane >> 3) & 1) ^ r7) << 4;
  const u32 t_rows = sv + (lane & 15) * ROW, t_lane = a_lane;

  float acc[DT / 8][4] = {};
  float m[2] = {-kInfinity, -kInfinity}, l[2] = {0.0f, 0.0f};
  // The span of keys that any, and that every, row of the warp sees.
  const int low = position + (int)row0, high = low + 15;
  const int reach = (int)min(window, 0x40000000u);

  // The first turn has no tile: it fetches K of the second.
  for (int key = first - BK; key < end; key += BK) {
    if (key >= first) {
      copies_wait();
      __syncthreads();
      load_tile<T, DT, BK, THREADS>(sv, v + (u64)key * v_token, v_token, end - key, d, thread);
      copies_commit();
    }
    const bool seen = key >= first && (int)row0 < rows && key <= high && key + BK > low - reach + 1;
    float s[BK / 8][4];
    if (seen) {
#pragma unroll
      for (int n = 0; n < BK / 8; n++) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0.0f;
#pragma unroll 1
      for (u32 step = 0; step < steps; step++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
          u32 a[4];
          ldmatrix<0>(a, a_rows + (a_lane ^ (step * 64 + h * 32)));
          multiply_rows<T, DT>(s, a, b_rows + (b_lane ^ (step * 64 + h * 32)));
        }
    }
    copies_wait();
    __syncthreads();
    if (key + BK < end) load_tile<T, DT, BK, THREADS>(sk, k + (u64)(key + BK) * k_token, k_token, end - key - BK, d, thread);
    copies_commit();
    if (!seen) continue;

    if (key + BK - 1 > low || key <= high - reach) {
      const int edge = low + (int)(lane >> 2) - key - 2 * (int)(lane & 3);
#pragma unroll
      for (int n = 0; n < BK / 8; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          // Distance from the key to its query.
          const int distance = edge + (e >> 1) * 8 - n * 8 - (e & 1);
          if (distance < 0 || distance >= reach) s[n][e] = -kInfinity;
        }
    }
    u32 p[BK / 16][4];
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float top = m[h];
#pragma unroll
      for (int n = 0; n < BK / 8; n++) top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
      top = row_max(top);
      // A row may see nothing of its first tiles.
      const float shift = top == -kInfinity ? 0.0f : top * scale;
      const float decay = exp2_approx(fmaf(m[h], scale, -shift));
      m[h] = top;
      float sum = 0.0f;
#pragma unroll
      for (int n = 0; n < BK / 8; n++) {
        s[n][2 * h] = exp2_approx(fmaf(s[n][2 * h], scale, -shift));
        s[n][2 * h + 1] = exp2_approx(fmaf(s[n][2 * h + 1], scale, -shift));
        sum += s[n][2 * h] + s[n][2 * h + 1];
      }
      l[h] = fmaf(l[h], decay, sum);
#pragma unroll
      for (int n = 0; n < DT / 8; n++) {
        acc[n][2 * h] *= decay;
        acc[n][2 * h + 1] *= decay;
      }
    }
    pack_operand<T>(p, s);
    accumulate<T, DT, DT, kSmallest<DT>>(acc, p, t_rows, t_lane, 0, d);
  }

  float inverse[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    l[h] = row_sum(l[h]);
    inverse[h] = 1.0f / l[h];
    const int row = row0 + (lane >> 2) + 8 * h;
    if ((lane & 3) == 0 && row < rows) lse[(u64)head * tokens + w.x + row] = m[h] * scale + log2_approx(l[h]);
  }
  const u64 stride = (u64)gridDim.x * d;
  store_rows<T, DT, DT>(sq, row0, 0, acc, inverse[0], inverse[1], o + (u64)(w.x + row0) * stride + head * d, stride,
                        rows - (int)row0, d, lane);
}

#define FORWARD(T, DT, WARPS, BK, BLOCKS)                                                                          \
  extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)                                                 \
      attention_fwd_d##DT##_##T(const T* q, const T* k, const T* v, T* o, float* lse, const uint4* work,           \
                                u32 q_token, u32 q_head, u32 k_token, u32 k_head, u32 v_token, u32 v_head,         \
                                u32 tokens, u32 group, u32 d, u32 window, float scale) {                           \
    forward<T, DT, WARPS, BK>(q, k, v, o, lse, work, q_token, q_head, k_token, k_head, v_token, v_head, tokens,    \
                              group, d, window, scale);                                                            \
  }
FORWARD(bf16, 64, 4, 64, 4)
FORWARD(bf16, 128, 4, 64, 2)
FORWARD(bf16, 256, 8, 32, 1)
