// What the half-precision attention kernels share: tiles in shared memory and the pieces of mma.sync.
//
// A tile is `rows x DT` elements of two bytes. Rows lie one after the other; within a row the 16-byte
// chunks are permuted by XOR with the row's number, so that the eight rows an ldmatrix matrix reads at one
// column, and the eight chunks cp.async writes along one row, each fall into 32 different banks:
//
//   chunk          0 1 2 3 4 5 6 7
//   row 0 holds    0 1 2 3 4 5 6 7        physical chunk = chunk ^ (row & 7)
//   row 1 holds    1 0 3 2 5 4 7 6
//   row 2 holds    2 3 0 1 6 7 4 5  ...
//
// Fragments of mma.sync.m16n8k16, lane = 4g + t (PTX ISA 9.7.14.5): A[g | g+8][2t, 2t+1 | +8],
// B[2t, 2t+1 | +8][g], C[g | g+8][2t, 2t+1]. A fragment of C, packed to two bytes, is one of A: that is how
// P and dS reach the second product without leaving the registers.
#pragma once

using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;

struct bf16 { u16 bits; };
struct f16 { u16 bits; };

#define kInfinity __int_as_float(0x7f800000)

/// Two floats as two halves, `low` in the low 16 bits.
template <class T> __device__ __forceinline__ u32 pack(float low, float high);
template <> __device__ __forceinline__ u32 pack<bf16>(float low, float high) {
  u32 out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
template <> __device__ __forceinline__ u32 pack<f16>(float low, float high) {
  u32 out;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}

template <class T> __device__ __forceinline__ float2 unpack(u32 x);
template <> __device__ __forceinline__ float2 unpack<bf16>(u32 x) {
  return make_float2(__uint_as_float(x << 16), __uint_as_float(x & 0xffff0000u));
}
template <> __device__ __forceinline__ float2 unpack<f16>(u32 x) {
  float2 out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out.x) : "h"((u16)x));
  asm("cvt.f32.f16 %0, %1;" : "=f"(out.y) : "h"((u16)(x >> 16)));
  return out;
}

/// c += a.b, f32 accumulation.
template <class T> __device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> __device__ __forceinline__ void mma<bf16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ __forceinline__ void mma<f16>(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Four 8 x 8 matrices; lanes 8i..8i+7 give the rows of matrix i at `address + OFFSET`.
template <int OFFSET> __device__ __forceinline__ void ldmatrix(u32 (&x)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4+%5];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address), "n"(OFFSET)
               : "memory");
}
template <int OFFSET> __device__ __forceinline__ void ldmatrix_trans(u32 (&x)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4+%5];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address), "n"(OFFSET)
               : "memory");
}

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

/// Copies `bytes` (0 or 16) to `to + OFFSET` and fills up to 16 with zeros; with 0 nothing is read.
template <int OFFSET> __device__ __forceinline__ void copy16(u32 to, const void* from, u32 bytes) {
  asm volatile("cp.async.cg.shared.global [%0+%1],[%2],16,%3;" ::"r"(to), "n"(OFFSET), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy4(u32 to, const void* from, u32 bytes) {
  asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void copies_wait() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_approx(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Sum or maximum over the four lanes that hold one row of a C fragment; all four get it.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

/// Byte offset of (row, chunk) in a tile.
template <int DT> __device__ __forceinline__ u32 swizzled(u32 row, u32 chunk) {
  return row * (DT * 2) + ((chunk ^ (row & 7)) << 4);
}

/// One pass of [`load_tile`] after the other: STEP rows each.
template <int DT, int ROWS, int STEP, int I>
__device__ __forceinline__ void load_passes(u32 to, const char* from, u64 pass, int rows) {
  if constexpr (I * STEP < ROWS) {
    // Rows 8 apart share their permutation, rows 4 apart differ in bit 2 of it.
    copy16<I * STEP * DT * 2>(I * STEP % 8 ? to ^ 64 : to, from, rows > I * STEP ? 16 : 0);
    load_passes<DT, ROWS, STEP, I + 1>(to, from + pass, pass, rows);
  }
}

/// Starts the copy of `rows` rows of `d` elements (a multiple of 8) from `from`, `stride` elements apart,
/// into a tile of ROWS rows. Missing rows, and columns up to the next multiple of 32, become zero; columns
/// beyond are left alone and never read. `thread` of THREADS threads, which fill STEP rows a pass.
template <class T, int DT, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(u32 tile, const T* from, u32 stride, int rows, u32 d, u32 thread) {
  constexpr int CHUNKS = DT / 8;
  constexpr int STEP = THREADS / CHUNKS;
  static_assert(STEP % 4 == 0, "a pass is a multiple of 4 rows");
  const u32 chunk = thread % CHUNKS, row = thread / CHUNKS;
  if (chunk * 8 < ((d + 31) & ~31u) && (STEP <= ROWS || row < ROWS)) {
    const char* p = (const char*)(from + (u64)row * stride + chunk * 8);
    load_passes<DT, ROWS, STEP, 0>(tile + swizzled<DT>(row, chunk), p, (u64)stride * (STEP * 2),
                                   chunk * 8 < d ? rows - (int)row : 0);
  }
}

/// [`load_tile`] for a tile that is filled once: a loop, not a chain of copies.
template <class T, int DT, int ROWS, int THREADS>
__device__ __forceinline__ void load_stationary(u32 tile, const T* from, u32 stride, int rows, u32 d, u32 thread) {
  const u32 chunk = thread % (DT / 8);
  if (chunk * 8 < ((d + 31) & ~31u)) {
    const char* p = (const char*)(from + chunk * 8);
#pragma unroll 1
    for (u32 row = thread / (DT / 8); row < ROWS; row += THREADS / (DT / 8))
      copy16<0>(tile + swizzled<DT>(row, chunk), p + (u64)(row * 2) * stride, (int)row < rows && chunk * 8 < d ? 16 : 0);
  }
}

/// The smallest head that runs in template DT.
template <int DT> constexpr int kSmallest = DT == 64 ? 1 : DT / 2 + 1;

/// `c[16 x 8N] += a . b[8N rows]^T` for 16 columns: `b` points at the lane's row and chunk of the first 16
/// rows of a tile.
template <class T, int DT, int N, int I = 0>
__device__ __forceinline__ void multiply_rows(float (&c)[N][4], const u32 (&a)[4], u32 b) {
  if constexpr (I < N) {
    u32 x[4];
    ldmatrix<I * 8 * DT * 2>(x, b);
    mma<T>(c[I], a, x[0], x[1]);
    mma<T>(c[I + 1], a, x[2], x[3]);
    multiply_rows<T, DT, N, I + 2>(c, a, b);
  }
}

/// `c[16 x 16] += a[16 x 16K] . b[16K rows, 16 columns]`, `b` as in [`multiply_rows`] but read transposed.
template <class T, int DT, int K, int I = 0>
__device__ __forceinline__ void multiply_columns(float (&c0)[4], float (&c1)[4], const u32 (&a)[K][4], u32 b) {
  if constexpr (I < K) {
    u32 x[4];
    ldmatrix_trans<I * 16 * DT * 2>(x, b);
    mma<T>(c0, a[I], x[0], x[1]);
    mma<T>(c1, a[I], x[2], x[3]);
    multiply_columns<T, DT, K, I + 1>(c0, c1, a, b);
  }
}

/// `c[16 x W] += a[16 x 16K] . b[16K rows, W columns from first]`; `d` bounds the columns worth computing.
/// `rows` is the lane's row of the tile, `lane_bits` its permuted chunk. Columns below SURE need no test.
template <class T, int DT, int W, int SURE, int K>
__device__ __forceinline__ void accumulate(float (&c)[W / 8][4], const u32 (&a)[K][4], u32 rows, u32 lane_bits,
                                           u32 first, u32 d) {
#pragma unroll
  for (int g = 0; g < W / 32; g++)
    if (g * 32 < SURE || first + g * 32 < d)
#pragma unroll
      for (int h = 0; h < 2; h++)
        multiply_columns<T, DT, K>(c[g * 4 + h * 2], c[g * 4 + h * 2 + 1], a,
                                   rows + (lane_bits ^ (g * 64 + h * 32)) + first * 2);
}

/// A C fragment as the A operand of the next product.
template <class T, int N>
__device__ __forceinline__ void pack_operand(u32 (&a)[N / 2][4], const float (&c)[N][4]) {
#pragma unroll
  for (int k = 0; k < N / 2; k++) {
    a[k][0] = pack<T>(c[2 * k][0], c[2 * k][1]);
    a[k][1] = pack<T>(c[2 * k][2], c[2 * k][3]);
    a[k][2] = pack<T>(c[2 * k + 1][0], c[2 * k + 1][1]);
    a[k][3] = pack<T>(c[2 * k + 1][2], c[2 * k + 1][3]);
  }
}

/// Rounds `c[16 x W]`, row g times `low` and row g + 8 times `high`, into rows `row..row + 16`, columns from
/// `first`, of a tile that no other warp reads there, then writes the `rows` rows that exist to `to`, 16
/// bytes a lane.
template <class T, int DT, int W>
__device__ __forceinline__ void store_rows(u32 tile, u32 row, u32 first, const float (&c)[W / 8][4], float low,
                                           float high, T* to, u64 stride, int rows, u32 d, u32 lane) {
  const u32 g = lane >> 2, at = tile + (row + g) * (DT * 2) + first * 2 + (lane & 3) * 4;
#pragma unroll
  for (int n = 0; n < W / 8; n++) {
    const u32 chunk = at + ((g ^ (n & 7)) << 4) + (n & ~7) * 16;
    asm volatile("st.shared.b32 [%0],%1;" ::"r"(chunk), "r"(pack<T>(c[n][0] * low, c[n][1] * low)) : "memory");
    asm volatile("st.shared.b32 [%0+%2],%1;" ::"r"(chunk), "r"(pack<T>(c[n][2] * high, c[n][3] * high)),
                 "n"(8 * DT * 2)
                 : "memory");
  }
  __syncwarp();
  constexpr int CHUNKS = W / 8;
  const u32 chunk = lane % CHUNKS;
  if (first + chunk * 8 >= d) return;
#pragma unroll 1
  for (u32 r = lane / CHUNKS; (int)r < min(rows, 16); r += 32 / CHUNKS) {
    uint4 x;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "r"(tile + swizzled<DT>(row + r, first / 8 + chunk))
                 : "memory");
    *(uint4*)(to + r * stride + first + chunk * 8) = x;
  }
}
