// The f32 GEMM on the FMA units: C = alpha · A·B + beta · C (+ bias), any strides, batched.
//
//   global A, B ──registers (next tile, while this one is used)──► shared [16 k][64 + 4] ──► 4 x 4 a thread ──► C
//
// A block of 256 threads owns 64 x 64 of C. Loads run along whichever stride is 1, so that all of NN, NT, TN and TT
// are coalesced; the tile in shared memory always has rows contiguous, so that each k feeds 16 FMA from two 16-byte loads.
//
// Floor: 2·M·N·K operations at the FMA rate (16 FMA to 2 shared loads: about 60 % of it at best). f32 activations are
// for checking and small models; training runs on the tensor-core kernels.
// Launch: grid (tiles, 1, batch · splits), 256 threads, 8.7 KB static shared memory.
//
// CUTLASS' SIMT default is 128 x 128 x 8 with 8 x 8 a thread; half of that each way keeps the code small.
#include "dense.cuh"

constexpr int F32_TILE = 64, F32_DEPTH = 16;

extern "C" __global__ void __launch_bounds__(256)
    gemm_f32(const float *a, const float *b, float *c, const float *bias, const u64 *offsets, u32 m, u32 n, u32 k,
             u64 a_row, u64 a_k, u64 b_row, u64 b_k, u32 ldc, u64 c_stride, u32 splits, u32 tiles_per_split,
             float alpha, float beta) {
  __shared__ __align__(16) float as[F32_DEPTH][F32_TILE + 4], bs[F32_DEPTH][F32_TILE + 4];
  u32 row, column, tid = threadIdx.x;
  tile_of_block((m + F32_TILE - 1) / F32_TILE, (n + F32_TILE - 1) / F32_TILE, row, column);
  row *= F32_TILE, column *= F32_TILE;
  u32 z = blockIdx.z, batch = z / splits, split = z % splits;
  if (offsets) a += offsets[2 * batch], b += offsets[2 * batch + 1];
  c += z * c_stride;
  // Element i of this thread: along k (16 k's of a row for 16 threads), or along rows (64 rows of a k).
  bool along_a = a_k == 1, along_b = b_k == 1;
  u32 ra = along_a ? tid >> 4 : tid & 63, ka = along_a ? tid & 15 : tid >> 6;
  u32 rb = along_b ? tid >> 4 : tid & 63, kb = along_b ? tid & 15 : tid >> 6;
  u32 dra = along_a ? 16 : 0, dka = along_a ? 0 : 4, drb = along_b ? 16 : 0, dkb = along_b ? 0 : 4;
  float va[4], vb[4];
  u32 tile = split * tiles_per_split, last = min(tile + tiles_per_split, (k + F32_DEPTH - 1) / F32_DEPTH);
  auto fetch = [&](u32 at) {
    unroll<4>([&](auto i) {
      u32 r = row + ra + AT(i) * dra, kk = at * F32_DEPTH + ka + AT(i) * dka;
      va[AT(i)] = at < last && r < m && kk < k ? a[r * a_row + kk * a_k] : 0.0f;
      r = column + rb + AT(i) * drb, kk = at * F32_DEPTH + kb + AT(i) * dkb;
      vb[AT(i)] = at < last && r < n && kk < k ? b[r * b_row + kk * b_k] : 0.0f;
    });
  };
  float acc[4][4] = {};
  u32 ty = tid >> 4, tx = tid & 15;
  fetch(tile);
#pragma unroll 1
  for (; tile < last; tile++) {
    unroll<4>([&](auto i) {
      as[ka + AT(i) * dka][ra + AT(i) * dra] = va[AT(i)];
      bs[kb + AT(i) * dkb][rb + AT(i) * drb] = vb[AT(i)];
    });
    __syncthreads();
    fetch(tile + 1);
#pragma unroll 4
    for (int kk = 0; kk < F32_DEPTH; kk++) {
      float4 x = load4(&as[kk][ty * 4]), y = load4(&bs[kk][tx * 4]);
      float xs[4] = {x.x, x.y, x.z, x.w}, ys[4] = {y.x, y.y, y.z, y.w};
      unroll<4>([&](auto i) {
        unroll<4>([&](auto j) { acc[AT(i)][AT(j)] = fmaf(xs[AT(i)], ys[AT(j)], acc[AT(i)][AT(j)]); });
      });
    }
    __syncthreads();
  }
  unroll<4>([&](auto i) {
    unroll<4>([&](auto j) {
      u32 r = row + ty * 4 + AT(i), col = column + tx * 4 + AT(j);
      if (r < m && col < n) {
        float *to = c + (u64)r * ldc + col;
        float v = alpha * acc[AT(i)][AT(j)] + (bias ? bias[col] : 0.0f);
        *to = beta != 0.0f ? v + beta * *to : v;
      }
    });
  });
}
