// Building blocks of the matrix kernels: dtypes, cp.async, ldmatrix, mma.sync, compile-time loops.
//
// Fragments of mma.m16n8k16 (PTX ISA §9.7.14), lane = 4·g + t:
//
//        A [16 x 16], 4 registers of two k's     B [16 x 8], 2 registers      C [16 x 8], 4 floats
//        a0 (g,   2t..)  a2 (g,   2t+8..)        b0 (k 2t..,   n g)           c0 c1 (g,   2t 2t+1)
//        a1 (g+8, 2t..)  a3 (g+8, 2t+8..)        b1 (k 2t+8.., n g)           c2 c3 (g+8, 2t 2t+1)
//
// ldmatrix hands lane (g, t) the two neighbours 2t, 2t+1 of row g of an 8x8 matrix, `.trans` those of
// column g: with it a tile that lies the other way round in memory needs no transposition.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__

template <int N> struct Index {
  static constexpr int value = N;
};

/// The number an Index stands for, as a constant even where the Index was captured.
#define AT(i) decltype(i)::value

/// f(Index<0>), f(Index<1>), … so that indices are constants: accumulators stay in registers and byte
/// offsets become immediates.
template <int N, int I = 0, class F> DEVICE void unroll(F &&f) {
  if constexpr (I < N) {
    f(Index<I>{});
    unroll<N, I + 1>(f);
  }
}

struct Bf16 {
  /// Two f32 to one register, `low` in the low half, round to nearest even.
  DEVICE u32 pack(float low, float high) {
    u32 d;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
  }
  DEVICE float low(u32 v) { return __uint_as_float(v << 16); }
  DEVICE float high(u32 v) { return __uint_as_float(v & 0xffff0000u); }
  DEVICE void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    float d[4];
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    c[0] = d[0], c[1] = d[1], c[2] = d[2], c[3] = d[3];
  }
};

struct F16 {
  DEVICE u32 pack(float low, float high) {
    u32 d;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
    return d;
  }
  DEVICE float half_to_float(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
  }
  DEVICE float low(u32 v) { return half_to_float((u16)v); }
  DEVICE float high(u32 v) { return half_to_float((u16)(v >> 16)); }
  DEVICE void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    float d[4];
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%10,%11,%12,%13};"
        : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
    c[0] = d[0], c[1] = d[1], c[2] = d[2], c[3] = d[3];
  }
};

/// One element of a 16-bit dtype as f32.
template <class T> DEVICE float load_float(const u16 *p) { return T::low(*p); }

/// f32 to one element of a 16-bit dtype.
template <class T> DEVICE void store_float(u16 *p, float v) { *p = (u16)T::pack(v, 0.0f); }

/// Keeps the compiler from computing a value anew where it is used: in a main loop a register is cheaper.
template <class V> DEVICE void keep(V &v) { asm volatile("" : "+r"(v)); }

DEVICE u32 shared_address(const void *p) { return (u32)__cvta_generic_to_shared(p); }

/// Copies 16 bytes from global to shared memory behind the threads' backs; only `bytes` (0..=16) are read,
/// the rest becomes zero. `.cg`: past L1, which a tile read once would only pollute.
template <int OFFSET = 0> DEVICE void cp_async(u32 shared, const void *global, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0+%3], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes), "n"(OFFSET)
               : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

/// Four 8x8 matrices of 16-bit elements; lanes 8i..8i+7 give the addresses of the rows of matrix i.
template <bool TRANS, int OFFSET> DEVICE void ldmatrix(u32 (&r)[4], u32 address) {
  if constexpr (TRANS) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address), "n"(OFFSET)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address), "n"(OFFSET)
                 : "memory");
  }
}

template <int OFFSET> DEVICE void store_shared(u32 address, float a, float b) {
  asm volatile("st.shared.v2.f32 [%0+%3], {%1, %2};" ::"r"(address), "f"(a), "f"(b), "n"(OFFSET) : "memory");
}
DEVICE void store_shared(u32 address, u32 v) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
}
DEVICE uint4 load_shared4(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

/// The value of the lane whose number differs by `mask`; all lanes of the warp take part.
DEVICE float shuffle_xor(float v, int mask) {
  float d;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(d) : "f"(v), "r"(mask));
  return d;
}

DEVICE int clamp_bytes(int elements) { return min(max(elements * 2, 0), 16); }
