// From accumulators to C: alpha, bias, beta and the output's dtype, in one rolled loop.
//
// Accumulators go through shared memory (rows of BN + 8 floats: the eight rows a store instruction touches
// start eight banks apart), so that global stores are whole rows of 8 or 16 bytes a thread instead of the
// fragments' scattered pairs. C's rows hold multiples of four elements; the launcher sends others by way of
// f32 partials and gemm_reduce.
#pragma once
#include "mma.cuh"

struct Output {
  char *c;           // [M, N], row-major
  const float *bias; // [N] or null
  u32 m, n, ld;
  float alpha, beta;
  bool f32; // C is f32, else T
};

DEVICE float4 load4(const float *p) { return *(const float4 *)p; }

/// Four neighbours of C or of any matrix of f32 or T.
template <class T> DEVICE float4 load4(const char *p, u64 at, bool f32) {
  if (f32) return load4((const float *)p + at);
  uint2 v = *(const uint2 *)(p + at * 2);
  return make_float4(T::low(v.x), T::high(v.x), T::low(v.y), T::high(v.y));
}

/// Writes rows `staged` [rows][BN + 8] floats in shared memory to C, row r of them to C's row row_of(r).
template <class T, int BN, class R>
DEVICE void write_rows(const Output &o, const float *staged, int rows, u32 column, R row_of) {
  constexpr int QUADS = BN / 4;
#pragma unroll 1
  for (int i = threadIdx.x; i < rows * QUADS; i += blockDim.x) {
    int r = i / QUADS, q = i % QUADS;
    u32 row = row_of(r), col = column + q * 4;
    if (row >= o.m || col >= o.n) continue;
    float4 v = load4(staged + r * (BN + 8) + q * 4);
    v = make_float4(o.alpha * v.x, o.alpha * v.y, o.alpha * v.z, o.alpha * v.w);
    u64 at = (u64)row * o.ld + col;
    if (o.bias) {
      float4 b = load4(o.bias + col);
      v = make_float4(v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w);
    }
    if (o.beta != 0.0f) {
      float4 c = load4<T>(o.c, at, o.f32);
      v = make_float4(v.x + o.beta * c.x, v.y + o.beta * c.y, v.z + o.beta * c.z, v.w + o.beta * c.w);
    }
    if (o.f32) {
      *(float4 *)(o.c + at * 4) = v;
    } else {
      *(uint2 *)(o.c + at * 2) = make_uint2(T::pack(v.x, v.y), T::pack(v.z, v.w));
    }
  }
}
