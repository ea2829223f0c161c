// Shared-memory tiles of a 16-bit operand, 32 deep along the contraction, and how they are filled and read.
//
// An operand is [rows, K] with either dimension contiguous. Its tile keeps the order it has in memory, so
// that global reads are whole 16-byte chunks (a chunk = 8 elements) and nobody transposes:
//
//   K_MAJOR  [ROWS][32]: 64-byte rows, 4 chunks            MN_MAJOR  [32][ROWS]: 2·ROWS-byte rows
//   chunk c of row r lies at  c ^ (r/2 & 3)                chunk c of row k lies at  c ^ (k & 7)
//
//   row 0 |0 1 2 3|  row 1 |0 1 2 3|   <- one line of      k 0 |0 1 2 3 4 5 6 7 …|
//   row 2 |1 0 3 2|  row 3 |1 0 3 2|      128 bytes        k 1 |1 0 3 2 5 4 7 6 …|
//   row 4 |2 3 0 1|  row 5 |2 3 0 1|      = 32 banks       k 2 |2 3 0 1 6 7 4 5 …|
//   row 6 |3 2 1 0|  row 7 |3 2 1 0|                       …
//
// ldmatrix reads the same chunk of eight consecutive rows at once: the eight land in eight different groups
// of four banks in both cases. So do the eight chunks that eight neighbouring threads write.
// (CUTLASS calls these TensorOpMultiplicandCrosswise and …Congruous; Marlin needs none for its weights,
// which it stores in fragment order beforehand.)
#pragma once
#include "mma.cuh"

constexpr int BK = 32;        // depth of a tile
constexpr int THREADS = 128;  // of a block, in all tensor-core kernels here

/// Bytes of a tile.
constexpr int tile_bytes(int rows) { return rows * BK * 2; }

/// An operand in global memory: element (row, k) at base[row·ld + k] (K_MAJOR) or base[k·ld + row]. base and
/// ld are multiples of 16 bytes; the launcher copies what is not (gemm_pad).
struct Operand {
  const char *base;
  u32 ld;   // elements
  u32 rows; // extent in rows; reads past it give zeros
};

/// Fills tiles of an operand, each thread the same chunks of every tile.
template <int ROWS, bool K_MAJOR> struct Loader {
  static constexpr int LINE = K_MAJOR ? 4 : ROWS / 8;  // chunks in a line of the tile
  static constexpr int PASS = THREADS / LINE;          // lines filled at a time
  static constexpr int PASSES = (K_MAJOR ? ROWS : BK) / PASS;
  static_assert(PASSES >= 1 && PASS % 8 == 0, "the swizzle repeats from pass to pass");

  const char *p;   // this thread's first chunk of the next tile
  u64 step;        // bytes from pass to pass
  u64 advance;     // bytes from tile to tile
  int first;       // K_MAJOR: first k of the chunk in the tile; MN_MAJOR: k of the first line
  int whole[K_MAJOR ? PASSES : 1]; // bytes of a chunk inside the rows, where all k's exist; MN_MAJOR: the same for all
  u32 destination; // of the first chunk in the tile, bytes

  __device__ __forceinline__ void start(const Operand &o, u32 row, u32 k) {
    int l = threadIdx.x / LINE, c = threadIdx.x % LINE;
    step = (u64)o.ld * (PASS * 2);
    if constexpr (K_MAJOR) {
      p = o.base + ((u64)(row + l) * o.ld + k + c * 8) * 2;
      advance = BK * 2;
      first = c * 8;
      destination = l * 64 + ((c ^ ((l >> 1) & 3)) << 4);
      unroll<PASSES>([&](auto i) { whole[AT(i)] = row + l + AT(i) * PASS < o.rows ? 16 : 0; });
    } else {
      p = o.base + ((u64)(k + l) * o.ld + row + c * 8) * 2;
      advance = (u64)o.ld * (BK * 2);
      first = l;
      destination = l * (ROWS * 2) + ((c ^ (ROWS >= 64 ? l & 7 : (l >> 1) & 3)) << 4);
      whole[0] = clamp_bytes((int)(o.rows - row) - c * 8);
    }
    keep(first), keep(destination);
    unroll<K_MAJOR ? PASSES : 1>([&](auto i) { keep(whole[AT(i)]); });
  }

  /// Starts the copy of the next tile, of whose k's `left` exist, into `tile`.
  __device__ __forceinline__ void load(u32 tile, int left) {
    u32 to = tile + destination;
    if (left >= BK) {
      unroll<PASSES>([&](auto i) {
        constexpr int I = AT(i);
        cp_async<I * PASS * LINE * 16>(to, p + I * step, whole[K_MAJOR ? I : 0]);
      });
    } else {
      int bytes = clamp_bytes(left - first);
      unroll<PASSES>([&](auto i) {
        constexpr int I = AT(i);
        int most = K_MAJOR ? bytes : first + I * PASS < left ? 16 : 0;
        cp_async<I * PASS * LINE * 16>(to, p + I * step, min(most, whole[K_MAJOR ? I : 0]));
      });
    }
    p += advance;
  }
};

/// Reads fragments of 16 rows x 16 k's out of a tile with ldmatrix: of A (16 rows of C), or of B (two
/// neighbouring groups of 8 columns of C: registers 0, 1 and 2, 3).
template <int ROWS, bool K_MAJOR, bool IS_A> struct Fragments {
  u32 lane; // offset of this lane's address for group 0, k 0

  __device__ __forceinline__ void start(int row) {
    int l = threadIdx.x & 31;
    // The order of the four matrices: A wants (rows 0-7, rows 8-15) of k 0-7, then of k 8-15; B the
    // k halves of rows 0-7, then of rows 8-15. `.trans` swaps the roles of lines and chunks.
    bool lines_first = IS_A == K_MAJOR;
    int line = lines_first ? l & 15 : (l & 7) | ((l >> 4) << 3);
    int chunk = lines_first ? l >> 4 : (l >> 3) & 1;
    if constexpr (K_MAJOR) {
      lane = (row + line) * 64 + ((chunk ^ ((line >> 1) & 3)) << 4);
    } else {
      int swizzle = ROWS >= 64 ? line & 7 : (line >> 1) & 3;
      lane = line * (ROWS * 2) + ((((row >> 3) + chunk) ^ swizzle) << 4);
    }
    keep(lane);
  }

  /// The same, KK chosen at run time: `load` of the result takes KK = 0.
  __device__ __forceinline__ Fragments at(int kk) const {
    return {K_MAJOR ? lane ^ (kk * 32) : lane + kk * (16 * ROWS * 2)};
  }

  /// Group I of 16 rows, k's 16·KK.. of the tile.
  template <int I, int KK> __device__ __forceinline__ void load(u32 (&r)[4], u32 tile) const {
    if constexpr (K_MAJOR) {
      ldmatrix<false, I * 1024>(r, tile + (lane ^ (KK * 32)));
    } else {
      ldmatrix<true, KK * 16 * ROWS * 2>(r, tile + (lane ^ (I * 32)));
    }
  }
};
