// Products with an NF4 matrix whose codes become tensor-core fragments in registers: forward y = x·Wᵀ (nt) and
// dx = dy·W (nn), for W [N, K] with K a multiple of 64. Small and medium M; for large M the launcher dequantises
// to scratch and takes a dense kernel (Nf4Schedule).
//
//   global x ─────cp.async──► shared [BM][2 x 32] or [BM][32] (tile.cuh) ──ldmatrix──► A fragments ─────────┐
//   global codes ─cp.async──► shared, 4 stages ──128-bit──► words ──shift, shuffle, · absmax, round──► B ───┴─ mma.sync
//   global absmax ──(one tile ahead)──► registers ─────────────────────────────────┘
//
// A block owns BM x 128 of C, and every warp all BM rows of 32 columns, so that no code is decoded twice in a
// block. B's register pairs want two k-neighbours of a column:
//
//   nt: tile [128 n][64 k] = 128 rows of 32 bytes. Lane (g, t) reads row g of 8 whole (two 128-bit loads) and
//       uses byte t of every word: its k's are 8j + 2t, 8j + 2t + 1, which is what fragment b0/b1 asks for.
//       Half h of row n lies at h ^ (n/4 & 1): eight rows fill the 32 banks once.
//   nn: tile [32 k][128 n] = 32 rows of 64 bytes. Lane (g, t) reads its warp's 16 bytes of rows 2t, 2t+1, 2t+8,
//       2t+9 and uses nibble g of every word. Chunk c of row k lies at c ^ (k/2 & 3).
//
// Floor: N·K/2 bytes of codes + N·K/64 scales (4 or 1 byte), read once for every BM = 32 rows of x. Decoding takes 3.5
// instructions a code: 224 a tile and warp in nt, beside 32 mma. Those take 512 cycles on sm_89 and 1,024 on sm_86, which
// hide the decoding; 256 on sm_80, which do not: there the kernel is for M that memory bounds.
// Launch: grid (tiles, 1, splits), 128 threads, shared memory 4 stages: 32 KB (nt), 18 KB (nn).
//
// Counted (docs/gpu/kernels.md): no bank conflicts; sectors requested / needed 1.25 (nt) and 1.5 (nn), the surplus being
// scales, whose sectors serve the next tiles from L1.
//
// Marlin stores codes and scales in fragment order beforehand and streams them past shared memory by one 16-byte
// load a thread; bitsandbytes' layout, which we keep so that files are used as they are, costs one pass through
// shared memory instead.
#include "dense.cuh"
#include "nf4.cuh"

constexpr int NF4_STAGES = 4;
constexpr int NF4_COLUMNS = 128;
constexpr int CODES = 4096; // bytes of a tile of codes in nt; half of it in nn

#define NF4_PARAMETERS                                                                                        \
  const char *x, const u8 *codes, char *c, const float *bias, NF4_SCALE_PARAMETERS, u32 m, u32 n, u32 k,      \
      u32 ldx, u32 ldc, u64 c_stride, u32 splits, u32 tiles_per_split, float alpha, float beta, u32 f32_c

/// One 8-column B fragment of k's in two words of codes.
template <class T> DEVICE void decode_pairs(u32 (&b)[2], float lane, u32 w0, u32 w1, u32 shift, float scale) {
  b[0] = T::pack(nf4_value(lane, w0 >> (shift + 4)) * scale, nf4_value(lane, w0 >> shift) * scale);
  b[1] = T::pack(nf4_value(lane, w1 >> (shift + 4)) * scale, nf4_value(lane, w1 >> shift) * scale);
}

/// 16 bytes of codes.
DEVICE void load_words(u32 (&w)[4], u32 address) {
  uint4 v = load_shared4(address);
  w[0] = v.x, w[1] = v.y, w[2] = v.z, w[3] = v.w;
}

/// NT: C [M, N] of x [M, K] and W [N, K]; otherwise x [M, K] and W [K, N].
template <class T, int BM, bool NT_LAYOUT> DEVICE void nf4_gemm(NF4_PARAMETERS) {
  constexpr int MT = BM / 16, NT = 4, DEPTH = NT_LAYOUT ? 64 : 32;
  constexpr int X_TILES = DEPTH / BK, CODES_AT = X_TILES * tile_bytes(BM);
  constexpr int STAGE = CODES_AT + (NT_LAYOUT ? CODES : CODES / 2);
  constexpr int SCALES = NT_LAYOUT ? 4 : 8; // a lane and tile
  extern __shared__ __align__(1024) char memory[];
  u32 shared = shared_address(memory);
  keep(shared);
  u32 tid = threadIdx.x, warp = tid >> 5, g = (tid & 31) >> 2, t = tid & 3;
  float lane = nf4_lane();
  Nf4Scales scales = NF4_SCALES;

  u32 row, column;
  tile_of_block((m + BM - 1) / BM, (n + NF4_COLUMNS - 1) / NF4_COLUMNS, row, column);
  row *= BM, column *= NF4_COLUMNS;
  u32 split = blockIdx.z;
  u32 tile = split * tiles_per_split, last = min(tile + tiles_per_split, (k + DEPTH - 1) / DEPTH);

  Loader<BM, true> load_x;
  load_x.start(Operand{x, ldx, m}, row, tile * DEPTH);
  // Codes: nt two passes of 64 rows x 2 chunks, nn one of 32 rows x 4 chunks; k's left are all or none but in nn.
  u32 line = NT_LAYOUT ? tid >> 1 : tid >> 2, chunk = NT_LAYOUT ? tid & 1 : tid & 3;
  const u8 *source = NT_LAYOUT ? codes + ((u64)(column + line) * k + tile * DEPTH) / 2 + chunk * 16
                               : codes + ((u64)(tile * DEPTH + line) * n + column) / 2 + chunk * 16;
  u64 advance = NT_LAYOUT ? DEPTH / 2 : (u64)n * (DEPTH / 2);
  u32 to = NT_LAYOUT ? line * 32 + ((chunk ^ ((line >> 2) & 1)) << 4) : line * 64 + ((chunk ^ ((line >> 1) & 3)) << 4);
  u32 next = tile;
  auto load_next = [&](u32 stage) {
    if (next < last) {
      int left = k - next * DEPTH;
      unroll<X_TILES>([&](auto i) { load_x.load(stage + AT(i) * tile_bytes(BM), left - AT(i) * BK); });
      if (NT_LAYOUT) {
        cp_async(stage + CODES_AT + to, source, column + line < n ? 16 : 0);
        cp_async<CODES / 2>(stage + CODES_AT + to, source + (u64)k * 32, column + line + 64 < n ? 16 : 0);
      } else {
        cp_async(stage + CODES_AT + to, source, (int)line < left && column + chunk * 32 < n ? 16 : 0);
      }
      source += advance;
      next++;
    }
    cp_async_commit();
  };

  // Scales of a tile: nt of rows g of the four 8-column groups, nn of k's 2t, 2t+1, 2t+8, 2t+9 (+16). Past the
  // edges any scale will do (its codes or its x are zeros, or its columns are not stored), so the index is clamped.
  Nf4Prefetch<SCALES> prefetch = {};
  u32 blocks = (u32)(((u64)n * k) >> 6), line_blocks = (NT_LAYOUT ? k : n) >> 6;
  u32 first_block = NT_LAYOUT ? (column + warp * 32 + g) * line_blocks : 2 * t * line_blocks + ((column + warp * 32) >> 6);
  auto fetch_scales = [&](u32 at) {
    u32 from = first_block + (NT_LAYOUT ? at : at * 32 * line_blocks);
    prefetch.fetch(scales, [&](auto i) {
      u32 block = from + (NT_LAYOUT ? AT(i) * 8 : (AT(i) >> 1) * 8 + (AT(i) & 1)) * line_blocks;
      return min(block, blocks - 1);
    });
  };

  Fragments<BM, true, true> read_x;
  read_x.start(0);
  float acc[MT][NT][4] = {};
  u32 shift = NT_LAYOUT ? 8 * t : (g >> 1) * 8 + (~g & 1) * 4;
  u32 word = NT_LAYOUT ? (warp * 32 + g) * 32 + ((g >> 2) << 4) : t * 128 + ((warp ^ t) << 4);

  u32 reading = shared, filling = shared;
#pragma unroll 1
  for (int turn = 1 - NF4_STAGES; tile < last; turn++) {
    if (turn >= 0) {
      cp_async_wait<NF4_STAGES - 2>();
      __syncthreads();
    }
    load_next(filling);
    filling = filling == shared + (NF4_STAGES - 1) * STAGE ? shared : filling + STAGE;
    float scale[SCALES];
    prefetch.resolve(scales, scale);
    fetch_scales(turn < 0 ? tile : tile + 1);
    if (turn < 0) continue;
    // Rolled over halves of the tile: an iteration is long enough, and the code stays half as large.
#pragma unroll 1
    for (int half = 0; half < 2; half++) {
      u32 w[NT][4]; // nt: a row's four words of 32 k's; nn: the four k's' words of 32 columns
      if constexpr (NT_LAYOUT) {
        unroll<4>([&](auto j) { load_words(w[AT(j)], reading + CODES_AT + (word ^ (half * 16)) + AT(j) * 256); });
        unroll<2>([&](auto kk) {
          u32 fa[MT][4];
          unroll<MT>([&](auto i) {
            read_x.template load<AT(i), AT(kk)>(fa[AT(i)], reading + half * tile_bytes(BM));
          });
          unroll<NT>([&](auto j) {
            u32 b[2];
            decode_pairs<T>(b, lane, w[AT(j)][2 * AT(kk)], w[AT(j)][2 * AT(kk) + 1], shift, scale[AT(j)]);
            unroll<MT>([&](auto i) { T::mma(acc[AT(i)][AT(j)], fa[AT(i)], b[0], b[1]); });
          });
        });
      } else {
        unroll<4>([&](auto r) {
          load_words(w[AT(r)], reading + CODES_AT + word + half * 1024 + (AT(r) >> 1) * 512 + (AT(r) & 1) * 64);
        });
        u32 fa[MT][4];
        auto read = read_x.at(half);
        unroll<MT>([&](auto i) { read.template load<AT(i), 0>(fa[AT(i)], reading); });
        unroll<NT>([&](auto j) {
          float v[4];
          unroll<4>([&](auto r) {
            v[AT(r)] = nf4_value(lane, w[AT(r)][AT(j)] >> shift) * (half ? scale[SCALES - 4 + AT(r)] : scale[AT(r)]);
          });
          u32 b0 = T::pack(v[0], v[1]), b1 = T::pack(v[2], v[3]);
          unroll<MT>([&](auto i) { T::mma(acc[AT(i)][AT(j)], fa[AT(i)], b0, b1); });
        });
      }
    }
    tile++;
    reading = reading == shared + (NF4_STAGES - 1) * STAGE ? shared : reading + STAGE;
  }
  cp_async_wait<0>();
  __syncthreads();
  unroll<MT / 2>([&](auto pair) {
    stage_accumulators<NF4_COLUMNS, AT(pair) * 2>(acc, shared, AT(pair) * 32, warp * 32);
  });
  __syncthreads();
  Output out = {c + split * c_stride * (f32_c ? 4 : 2), bias, m, n, ldc, alpha, beta, f32_c != 0};
  write_rows<T, NF4_COLUMNS>(out, (const float *)memory, BM, column, [&](int r) { return row + r; });
}

#define NF4(layout, bm, nt, suffix, T)                                                                        \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_nf4_##layout##_##bm##_##suffix(NF4_PARAMETERS) { \
    nf4_gemm<T, bm, nt>(x, codes, c, bias, absmax, absmax_codes, table, nested, offset, m, n, k, ldx, ldc,    \
                        c_stride, splits, tiles_per_split, alpha, beta, f32_c);                               \
  }
NF4(nt, 32, true, bf16, Bf16)
NF4(nt, 32, true, f16, F16)
NF4(nn, 32, false, bf16, Bf16)
NF4(nn, 32, false, f16, F16)
