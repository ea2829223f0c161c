// y = alpha · x·Wᵀ + beta · y (+ bias) for one or two rows of x: decoding.
//
// A warp owns two rows of W and walks along k, eight elements a lane and step:
//
//   W row n    |lane 0: 8|lane 1: 8| … |lane 31: 8|  next 256 …     16-byte loads (f32: two; NF4: 4 bytes of codes)
//   x row m    |lane 0: 8|lane 1: 8| … |lane 31: 8|                 from L1 after the first warp
//   2 x 2 sums a lane, added across the warp by shuffles at the end
//
// Both rows use the x that was loaded once; no shared memory, no barriers. W's rows are read whole and once, so that
// sectors requested = sectors needed. K is a multiple of eight and rows are 16-byte aligned; others go to the GEMM.
//
// Floor: the bytes of W (N·K·2, or N·K/2 and scales); 2·M·N·K operations are far below what FMA units do for M <= 2.
// Launch: 128 threads = 4 warps = 8 rows of W a block.
//
// Tensor cores would idle: with one row of x 15/16 of an mma is padding, and its time is not what bounds this.
#include "element.cuh"
#include "nf4.cuh"

constexpr int GEMV_ROWS = 2;  // of W a warp
constexpr int GEMV_BATCH = 2; // rows of x at most

/// Eight elements from k on of a row of `end` (a multiple of eight) elements; zeros past the end.
template <class E> DEVICE void load_row(float (&v)[8], const typename E::Type *row, u32 k, u32 end) {
  unroll<8>([&](auto e) { v[AT(e)] = 0.0f; });
  if (k < end) E::load8(v, row + k);
}

template <class E, class W>
DEVICE void gemv(const typename E::Type *x, typename E::Type *y, const float *bias, u32 m, u32 n, u32 k, u32 ldx,
                 u32 ldy, float alpha, float beta, W weights) {
  u32 lane = threadIdx.x & 31, first = (blockIdx.x * (blockDim.x >> 5) + (threadIdx.x >> 5)) * GEMV_ROWS;
  if (first >= n) return;
  float sum[GEMV_ROWS][GEMV_BATCH] = {};
#pragma unroll 1
  for (u32 k0 = 0; k0 < k; k0 += 256) {
    u32 at = k0 + lane * 8;
    float w[GEMV_ROWS][8];
    unroll<GEMV_ROWS>([&](auto r) { weights(w[AT(r)], min(first + AT(r), n - 1), at); });
    unroll<GEMV_BATCH>([&](auto b) {
      if (m > AT(b)) {
        float v[8];
        load_row<E>(v, x + (u64)AT(b) * ldx, at, k);
        unroll<GEMV_ROWS>([&](auto r) {
          unroll<8>([&](auto e) { sum[AT(r)][AT(b)] = fmaf(w[AT(r)][AT(e)], v[AT(e)], sum[AT(r)][AT(b)]); });
        });
      }
    });
  }
  // Four sums over 32 lanes: each exchange halves the number of sums a lane keeps. Lane l ends with sum l / 8, which is
  // row l / 16 of W and row l / 8 % 2 of x.
  float *v = sum[0];
  unroll<2>([&](auto step) {
    constexpr int KEPT = 2 >> AT(step), MASK = 16 >> AT(step);
    bool upper = (lane & MASK) != 0;
    unroll<KEPT>([&](auto i) {
      float keep = upper ? v[AT(i) + KEPT] : v[AT(i)], send = upper ? v[AT(i)] : v[AT(i) + KEPT];
      v[AT(i)] = keep + shuffle_xor(send, MASK);
    });
  });
  unroll<3>([&](auto step) { v[0] += shuffle_xor(v[0], 4 >> AT(step)); });
  u32 row = first + (lane >> 4), b = (lane >> 3) & 1;
  if ((lane & 7) == 0 && row < n && b < m) {
    typename E::Type *to = y + (u64)b * ldy + row;
    float total = alpha * v[0];
    if (bias) total += bias[row];
    if (beta != 0.0f) total += beta * E::load(to);
    E::store(to, total);
  }
}

#define GEMV_PARAMETERS(E)                                                                                    \
  const E::Type *x, E::Type *y, const float *bias, u32 m, u32 n, u32 k, u32 ldx, u32 ldy, float alpha, float beta
#define GEMV(suffix, T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(128)                                                           \
      gemv_##suffix(GEMV_PARAMETERS(Element<T>), const Element<T>::Type *w, u32 ldw) {                        \
    gemv<Element<T>>(x, y, bias, m, n, k, ldx, ldy, alpha, beta, [&](float(&v)[8], u32 row, u32 at) { \
      load_row<Element<T>>(v, w + (u64)row * ldw, at, k);                                          \
    });                                                                                                       \
  }                                                                                                           \
  /* K is a multiple of 64: a lane's eight codes are one word and share a scale. */                           \
  extern "C" __global__ void __launch_bounds__(128)                                                           \
      gemv_nf4_##suffix(GEMV_PARAMETERS(Element<T>), const u8 *codes, NF4_SCALE_PARAMETERS) {                 \
    float lane = nf4_lane();                                                                                  \
    Nf4Scales scales = NF4_SCALES;                                                                            \
    gemv<Element<T>>(x, y, bias, m, n, k, ldx, ldy, alpha, beta, [&](float(&v)[8], u32 row, u32 at) { \
      u64 e = (u64)row * k + at;                                                                              \
      u32 word = at < k ? *(const u32 *)(codes + e / 2) : 0;                                                  \
      float scale = at < k ? scales.get(e / 64) : 0.0f;                                                       \
      unroll<8>([&](auto i) {                                                                                 \
        v[AT(i)] = nf4_value(lane, word >> (AT(i) / 2 * 8 + (AT(i) & 1 ? 0 : 4))) * scale;                    \
      });                                                                                                     \
    });                                                                                                       \
  }
GEMV(f32, Single)
GEMV(bf16, Bf16)
GEMV(f16, F16)
