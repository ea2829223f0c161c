// The tensor-core GEMM for 16-bit operands: C = alpha · A·B + beta · C (+ bias), f32 accumulation, and the
// same with a low-rank path beside it.
//
//   global A [M, K] ──cp.async──► shared, 3 stages of ┌───────────────┐ ──ldmatrix──► registers ─┐
//   global B [N, K] ──16 bytes──► (32 k's each)       │ A │ B │ (low) │   4 matrices             ├─ mma.sync ─► f32
//                                                     └───────────────┘   at a time             ─┘  m16n8k16   accumulators
//   accumulators ──► shared, 64 rows of f32 ──► alpha, bias, beta, dtype ──► global C, whole rows
//
// A block owns a BM x BN tile of C, four warps a quarter each:
//
//   128 x 128: ┌────────┬────────┐   a warp 64 x 64: 8 ldmatrix feed 32 mma (k 16), 128 accumulators a thread
//              │ warp 0 │ warp 1 │   64 x 128: a warp 32 x 64: 6 feed 16, 64 accumulators
//              ├────────┼────────┤   one barrier a 32 k's: the copy into the stage read last is started
//              │ warp 2 │ warp 3 │   after the barrier that proves everybody has read it
//              └────────┴────────┘
//
// A second pair of operands continues the contraction (K, then K2): y = x·Wᵀ + (s·h)·Bᵀ of a LoRA layer is one
// product over K + r, without y being read and written again.
//
// LOW_RANK computes h in the same pass over x, so that x is read once: beside its tile of C every block
// accumulates h = x·Lᵀ for its 64 rows (rank up to 64), and when K is done
//
//   h accumulators ──· s, round to T──► shared, two tiles of 64 x 32 ─► as A of the last tiles, with a2/b2's b2
//                    └── block column 0 writes it to global, for the backward pass
//
// Its price is r/128 more operations a block (every block column repeats h), so the launcher takes it where
// traffic or launches decide (few rows), and two steps over K + r elsewhere.
//
// Floor: 2·M·N·K operations; M·K + N·K + M·N elements of traffic. Blocks run down groups of eight row tiles,
// so that a wave shares its B tiles in L2.
// Launch: grid (tiles, 1, batch · splits), 128 threads, shared 48 KB: two blocks fit on sm_86's 100 KB. Splits of
// K write f32 partials that gemm_reduce adds in a fixed order.
//
// Counted (docs/gpu/kernels.md): 128 tiles 64 mma, 16 ldmatrix and 8 cp.async a turn of a warp, tensor cores 86 % of the
// issue slots on sm_80, no bank conflicts, sectors requested = needed, no spills.
//
// CUTLASS' default for sm_80 is 128 x 256 x 32 with 8 warps of 64 x 64 and 3 stages, ldmatrix and the same XOR
// swizzle; the warp tile and pipeline here are the same, the block is half as wide so that smaller matrices
// fill the machine and sm_86's 100 KB hold two.
#pragma once
#include "epilogue.cuh"
#include "tile.cuh"

constexpr int STAGES = 3;
constexpr int RANK = 64; // columns of h a block accumulates; a lower rank reads as zeros

/// What every dense kernel is given; leading dimensions in elements. `offsets` holds, for each batch, the
/// first element of its A and of its B (null: one batch). Batch·split z writes C + z · c_stride elements.
/// `low` [rank, K] as B lies (null: a2, b2 continue the contraction), h [M, rank] = scale · A·low, rank = k2.
#define GEMM_PARAMETERS                                                                                       \
  const char *a, const char *b, char *c, const float *bias, const char *a2, const char *b2,                   \
      const u64 *offsets, u32 m, u32 n, u32 k, u32 k2, u32 lda, u32 ldb, u32 ldc, u32 lda2, u32 ldb2,         \
      u64 c_stride, u32 splits, u32 tiles_per_split, float alpha, float beta, u32 f32_c
#define LOW_PARAMETERS const char *low, u32 ldlow, u16 *h, float scale

/// The low-rank path's arguments.
struct Low {
  const char *low;
  u32 ld;
  u16 *h;
  float scale;
};

/// The tile of C that block x of a 1-D grid owns: down groups of eight row tiles, column by column.
DEVICE void tile_of_block(u32 m_tiles, u32 n_tiles, u32 &row, u32 &column) {
  u32 group = 8 * n_tiles;
  u32 first = blockIdx.x / group * 8;
  u32 height = min(m_tiles - first, 8u);
  u32 within = blockIdx.x % group;
  row = first + within % height;
  column = within / height;
}

/// Two groups of 16 rows of a warp's accumulators, from GROUP, to `staged` from (row, column) on.
template <int BN, int GROUP, int MT, int NT>
DEVICE void stage_accumulators(const float (&acc)[MT][NT][4], u32 staged, int row, int column) {
  int g = (threadIdx.x & 31) >> 2, t = threadIdx.x & 3;
  u32 at = staged + ((row + g) * (BN + 8) + column + 2 * t) * 4;
  unroll<2>([&](auto i) {
    unroll<NT>([&](auto j) {
      constexpr int I = AT(i), J = AT(j);
      constexpr int TO = (I * 16 * (BN + 8) + J * 8) * 4;
      store_shared<TO>(at, acc[GROUP + I][J][0], acc[GROUP + I][J][1]);
      store_shared<TO + 8 * (BN + 8) * 4>(at, acc[GROUP + I][J][2], acc[GROUP + I][J][3]);
    });
  });
}

/// h, staged [64][RANK + 8] in f32, to the two swizzled tiles of 64 x 32 at `tiles` and to global memory.
template <class T> DEVICE void round_h(const float *staged, u32 tiles, const Low &low, bool store, u32 first, u32 m, u32 rank) {
#pragma unroll 1
  for (int i = threadIdx.x; i < 64 * (RANK / 2); i += THREADS) {
    int row = i / (RANK / 2), col = i % (RANK / 2) * 2;
    const float *v = staged + row * (RANK + 8) + col;
    u32 pair = T::pack(v[0] * low.scale, v[1] * low.scale);
    u32 chunk = ((col >> 3) & 3) ^ ((row >> 1) & 3);
    store_shared(tiles + (col >> 5) * tile_bytes(64) + row * 64 + chunk * 16 + (col & 7) * 2, pair);
    if (store && first + row < m) {
      u16 *h = low.h + (u64)(first + row) * rank + col;
      if (rank % 2 == 0) {
        if (col < rank) *(u32 *)h = pair;
      } else {
        if (col < rank) h[0] = (u16)pair;
        if (col + 1 < rank) h[1] = (u16)(pair >> 16);
      }
    }
  }
}

template <class T, bool A_K, bool B_K, int BM, int BN, bool LOW_RANK>
DEVICE void dense_gemm(GEMM_PARAMETERS, const Low &low) {
  constexpr int MT = BM / 32, NT = BN / 16; // 16-row and 8-column fragments of a warp: half the block each way
  constexpr int B_AT = tile_bytes(BM), LOW_AT = B_AT + tile_bytes(BN);
  constexpr int STAGE = LOW_AT + (LOW_RANK ? tile_bytes(RANK) : 0);
  extern __shared__ __align__(1024) char memory[];
  u32 shared = shared_address(memory);
  keep(shared);

  u32 row, column;
  tile_of_block((m + BM - 1) / BM, (n + BN - 1) / BN, row, column);
  row *= BM, column *= BN;
  u32 z = blockIdx.z, batch = z / splits, split = z % splits;
  Operand oa = {a, lda, m}, oa2 = {a2, lda2, m}, ob = {b, ldb, n}, ob2 = {b2, ldb2, n};
  if (offsets) {
    oa.base += offsets[2 * batch] * 2;
    ob.base += offsets[2 * batch + 1] * 2;
  }
  bool fused = LOW_RANK && low.low;

  // Tiles [tile, last) of the k's of both pairs of operands, those of the second from `second`.
  u32 second = (k + BK - 1) / BK;
  u32 tile = split * tiles_per_split, last = min(tile + tiles_per_split, second + (k2 + BK - 1) / BK);
  u32 copied = fused ? second : last; // tiles that the pipeline copies
  Loader<BM, A_K> load_a;
  Loader<BN, B_K> load_b;
  Loader<RANK, B_K> load_low = {};
  u32 next = tile;
  int left = 0; // k's of the current pair from tile `next` on; the loaders are started where none is
  auto load_next = [&](u32 stage) {
    if (next < copied) {
      if (left <= 0) {
        u32 from = next < second ? next * BK : (next - second) * BK;
        load_a.start(next < second ? oa : oa2, row, from);
        load_b.start(next < second ? ob : ob2, column, from);
        if (fused) load_low.start(Operand{low.low, low.ld, k2}, 0, from);
        left = (next < second ? k : k2) - from;
      }
      load_a.load(stage, left);
      load_b.load(stage + B_AT, left);
      if (fused) load_low.load(stage + LOW_AT, left);
      left -= BK;
      next++;
    }
    cp_async_commit();
  };

  int warp = threadIdx.x >> 5, wm = warp >> 1, wn = warp & 1;
  Fragments<BM, A_K, true> read_a;
  Fragments<BN, B_K, false> read_b;
  Fragments<RANK, B_K, false> read_low = {};
  read_a.start(wm * (BM / 2));
  read_b.start(wn * (BN / 2));
  if (LOW_RANK) read_low.start(wn * 16);
  float acc[MT][NT][4] = {};
  float h[2][MT][2][4] = {}; // columns 32·half + 16·wn ..

  // The first STAGES - 1 turns only start copies: one copy of the loading code serves them and the rest.
  u32 reading = shared, filling = shared, reading_b = shared + B_AT;
#pragma unroll 1
  for (int turn = 1 - STAGES; tile < last; turn++) {
    bool pipeline = !fused || tile < second;
    if (pipeline) {
      if (turn >= 0) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();
      }
      load_next(filling);
      filling = filling == shared + (STAGES - 1) * STAGE ? shared : filling + STAGE;
      if (turn < 0) continue;
    } else if (LOW_RANK && tile == second) {
      // h is complete: it becomes the A of one or two last tiles, b2 their B.
      cp_async_wait<0>();
      __syncthreads();
      constexpr int TILES = 64 * (RANK + 8) * 4;
      unroll<2>([&](auto half) {
        stage_accumulators<RANK, 0>(h[AT(half)], shared, wm * 32, AT(half) * 32 + wn * 16);
      });
      __syncthreads();
      round_h<T>((const float *)memory, shared + TILES, low, column == 0, row, m, k2);
      reading = shared + TILES, reading_b = shared + TILES + 2 * tile_bytes(64);
      load_b.start(ob2, column, 0);
      load_b.load(reading_b, k2);
      load_b.load(reading_b + tile_bytes(BN), k2 - BK);
      cp_async_commit();
      cp_async_wait<0>();
      __syncthreads();
    }
    if constexpr (LOW_RANK) {
      // Bound by memory where it is used: rolled, which halves the code.
#pragma unroll 1
      for (int kk = 0; kk < 2; kk++) {
        u32 fa[MT][4], fb[NT / 2][4];
        auto from_a = read_a.at(kk);
        auto from_b = read_b.at(kk);
        unroll<MT>([&](auto i) { from_a.template load<AT(i), 0>(fa[AT(i)], reading); });
        unroll<NT / 2>([&](auto j) { from_b.template load<AT(j), 0>(fb[AT(j)], reading_b); });
        unroll<MT>([&](auto i) {
          unroll<NT>([&](auto j) {
            constexpr int I = AT(i), J = AT(j);
            T::mma(acc[I][J], fa[I], fb[J / 2][J % 2 * 2], fb[J / 2][J % 2 * 2 + 1]);
          });
        });
        if (fused && pipeline) {
          auto from_low = read_low.at(kk);
          unroll<2>([&](auto half) {
            if (k2 > AT(half) * 32) {
              u32 fl[4];
              from_low.template load<AT(half) * 2, 0>(fl, reading + LOW_AT);
              unroll<MT>([&](auto i) {
                unroll<2>([&](auto j) { T::mma(h[AT(half)][AT(i)][AT(j)], fa[AT(i)], fl[AT(j) * 2], fl[AT(j) * 2 + 1]); });
              });
            }
          });
        }
      }
    } else {
      u32 fa[2][MT][4], fb[2][NT / 2][4];
      unroll<2>([&](auto kk) {
        unroll<MT>([&](auto i) { read_a.template load<AT(i), AT(kk)>(fa[AT(kk)][AT(i)], reading); });
        unroll<NT / 2>([&](auto j) { read_b.template load<AT(j), AT(kk)>(fb[AT(kk)][AT(j)], reading_b); });
      });
      unroll<2>([&](auto kk) {
        unroll<MT>([&](auto i) {
          unroll<NT>([&](auto j) {
            constexpr int I = AT(i), J = AT(j), KK = AT(kk);
            T::mma(acc[I][J], fa[KK][I], fb[KK][J / 2][J % 2 * 2], fb[KK][J / 2][J % 2 * 2 + 1]);
          });
        });
      });
    }
    tile++;
    if (pipeline) {
      reading = reading == shared + (STAGES - 1) * STAGE ? shared : reading + STAGE;
      reading_b = reading + B_AT;
    } else {
      reading += tile_bytes(BM);
      reading_b += tile_bytes(BN);
    }
  }
  cp_async_wait<0>();

  Output out = {c + z * c_stride * (f32_c ? 4 : 2), bias, m, n, ldc, alpha, beta, f32_c != 0};
#pragma unroll 1
  for (int pass = 0; pass < MT / 2; pass++) {
    __syncthreads();
    if (pass == 0) {
      stage_accumulators<BN, 0>(acc, shared, wm * 32, wn * (BN / 2));
    } else {
      stage_accumulators<BN, MT - 2>(acc, shared, wm * 32, wn * (BN / 2));
    }
    __syncthreads();
    write_rows<T, BN>(out, (const float *)memory, 64, column,
                      [&](int r) { return row + (r >> 5) * (BM / 2) + pass * 32 + (r & 31); });
  }
}

#define GEMM_ARGUMENTS                                                                                        \
  a, b, c, bias, a2, b2, offsets, m, n, k, k2, lda, ldb, ldc, lda2, ldb2, c_stride, splits, tiles_per_split,  \
      alpha, beta, f32_c
#define DENSE_128(layout, a_k, b_k, suffix, T)                                                                \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_##layout##_128_##suffix(GEMM_PARAMETERS) {    \
    dense_gemm<T, a_k, b_k, 128, 128, false>(GEMM_ARGUMENTS, Low{});                                          \
  }
#define DENSE_64(layout, a_k, b_k, suffix, T)                                                                 \
  extern "C" __global__ void __launch_bounds__(THREADS, 2)                                                    \
      gemm_##layout##_64_##suffix(GEMM_PARAMETERS, LOW_PARAMETERS) {                                          \
    dense_gemm<T, a_k, b_k, 64, 128, true>(GEMM_ARGUMENTS, Low{low, ldlow, h, scale});                        \
  }
