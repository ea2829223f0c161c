// NF4 in registers: sixteen f32 values live in the lanes of a half warp, a shuffle looks one up.
//
//   byte of codes   |hi: element 2i|lo: element 2i + 1|
//   lane            0     1     2   …   15 | 16 …        shfl.idx in segments of 16 lanes reads only the low four
//   register       -1 -0.696 -0.525 …    1 | -1 …        bits of the index: `word >> shift` needs no mask
//
// value = code · absmax in f32, then one rounding to the compute dtype: the same bits as dequantising to memory
// first (bitsandbytes' order), so that both schedules of a product agree. A lookup costs a shift, a shuffle and
// a multiplication, and has no bank conflicts. (bitsandbytes' fused kernel of 2026 shuffles too; Marlin's integer
// codes become f16 by bit tricks that a non-uniform code book does not allow; FLUTE keeps copies of a table of pairs
// in shared memory.)
#pragma once
#include "mma.cuh"

__constant__ float NF4_CODE[16] = {-1.0f,        -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f,
                                   -0.091050036f, 0.0f,       0.0795803f,   0.1609302f,  0.2461123f,   0.33791524f,
                                   0.44070983f,    0.562617f,  0.72295684f,  1.0f};

/// This lane's entry of the code book.
DEVICE float nf4_lane() { return NF4_CODE[threadIdx.x & 15]; }

/// The value of the low four bits of `code`; all lanes of the warp take part.
DEVICE float nf4_value(float lane, u32 code) {
  float v;
  // 0x101f: segments of 16 lanes.
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x101f, 0xffffffff;" : "=f"(v) : "f"(lane), "r"(code));
  return v;
}

/// The scales of an NF4 matrix, one for every 64 elements of the flat row-major data: f32, or double quantised
/// (`absmax` null): table[codes[b]] · nested[b / 256] + offset.
struct Nf4Scales {
  const float *absmax;
  const u8 *codes;
  const float *table;
  const float *nested;
  float offset;

  __device__ __forceinline__ float get(u64 block) const {
    return absmax ? absmax[block] : dequantized(codes[block], nested[block >> 8]);
  }
  __device__ __forceinline__ float dequantized(u32 code, float scale) const {
    return __fadd_rn(__fmul_rn(table[code], scale), offset);
  }
};

/// N scales fetched a tile before their use, so that the wait for memory is covered by a tile's work.
template <int N> struct Nf4Prefetch {
  float value[N];
  u32 code[N];

  /// Scale i is that of block(Index<i>).
  template <class F> __device__ __forceinline__ void fetch(const Nf4Scales &s, F block) {
    if (s.absmax) {
      unroll<N>([&](auto i) { value[AT(i)] = s.absmax[block(i)]; });
    } else {
      unroll<N>([&](auto i) {
        u32 b = block(i);
        code[AT(i)] = s.codes[b], value[AT(i)] = s.nested[b >> 8];
      });
    }
  }
  __device__ __forceinline__ void resolve(const Nf4Scales &s, float (&scale)[N]) const {
    if (s.absmax) {
      unroll<N>([&](auto i) { scale[AT(i)] = value[AT(i)]; });
    } else {
      unroll<N>([&](auto i) { scale[AT(i)] = s.dequantized(code[AT(i)], value[AT(i)]); });
    }
  }
};

#define NF4_SCALE_PARAMETERS                                                                                  \
  const float *absmax, const u8 *absmax_codes, const float *table, const float *nested, float offset
#define NF4_SCALES Nf4Scales{absmax, absmax_codes, table, nested, offset}
