// Activations of any compute dtype, an element or eight at a time, as f32 registers.
#pragma once
#include "mma.cuh"

/// Names the f32 kernels beside Bf16 and F16.
struct Single {};

template <class T> struct Element { // 16-bit dtypes
  typedef u16 Type;
  DEVICE void load8(float (&v)[8], const u16 *p) {
    uint4 q = *(const uint4 *)p;
    u32 w[4] = {q.x, q.y, q.z, q.w};
    unroll<4>([&](auto i) { v[2 * AT(i)] = T::low(w[AT(i)]), v[2 * AT(i) + 1] = T::high(w[AT(i)]); });
  }
  DEVICE void store8(u16 *p, const float (&v)[8]) {
    *(uint4 *)p = make_uint4(T::pack(v[0], v[1]), T::pack(v[2], v[3]), T::pack(v[4], v[5]), T::pack(v[6], v[7]));
  }
  DEVICE float load(const u16 *p) { return load_float<T>(p); }
  DEVICE void store(u16 *p, float v) { store_float<T>(p, v); }
};
template <> struct Element<Single> {
  typedef float Type;
  DEVICE void load8(float (&v)[8], const float *p) {
    float4 a = *(const float4 *)p, b = *(const float4 *)(p + 4);
    v[0] = a.x, v[1] = a.y, v[2] = a.z, v[3] = a.w, v[4] = b.x, v[5] = b.y, v[6] = b.z, v[7] = b.w;
  }
  DEVICE void store8(float *p, const float (&v)[8]) {
    *(float4 *)p = make_float4(v[0], v[1], v[2], v[3]);
    *(float4 *)(p + 4) = make_float4(v[4], v[5], v[6], v[7]);
  }
  DEVICE float load(const float *p) { return *p; }
  DEVICE void store(float *p, float v) { *p = v; }
};
