// NF4 quantisation and its inverse on the device, bit for bit as on the CPU (tensor/src/quant/nf4.rs).
//
// nf4_dequantize_*       eight codes a thread: a warp reads 128 bytes of codes and writes 512 bytes of bf16, all
//                        coalesced; the code book is looked up by shuffles (gemm/nf4.cuh).
//                        Floor: 0.5 + 4/64 bytes read and 2 (f32: 4) written a weight.
// nf4_quantize           sixteen lanes a block of 64: largest magnitude by shuffles, code = number of thresholds
//                        below the scaled value. Floor: the weights read once, 0.56 bytes written.
// nf4_absmax_mean        mean of the scales in f64, one block. nf4_quantize_absmax: double quantisation, a block of
//                        256 threads for 256 scales. Both touch 1/64 of the weights.
// Launch: 256 threads; dequantize 2,048 codes a block, quantize 16 blocks of 64.
#include "gemm/element.cuh"
#include "gemm/nf4.cuh"

/// `to` is 16-byte aligned.
template <class E> DEVICE void dequantize(const u8 *codes, Nf4Scales scales, typename E::Type *to, u64 n) {
  float lane = nf4_lane();
  u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * 8;
  bool whole = at + 8 <= n;
  u32 word = 0;
  if (whole) {
    word = *(const u32 *)(codes + at / 2);
  } else {
    for (int i = 0; i < 4; i++)
      if (at + 2 * i < n) word |= (u32)codes[at / 2 + i] << (8 * i);
  }
  float scale = at < n ? scales.get(at / 64) : 0.0f;
  float v[8];
  unroll<8>([&](auto i) { v[AT(i)] = nf4_value(lane, word >> (AT(i) / 2 * 8 + (AT(i) & 1 ? 0 : 4))) * scale; });
  if (whole) {
    E::store8(to + at, v);
  } else {
    unroll<8>([&](auto i) {
      if (at + AT(i) < n) E::store(to + at + AT(i), v[AT(i)]);
    });
  }
}

__constant__ float NF4_THRESHOLDS[15] = {-0.8480964f,  -0.6106329f,   -0.45999527f, -0.33967943f, -0.23460741f,
                                         -0.13791173f, -0.045525018f, 0.03979015f,  0.12025525f,  0.20352125f,
                                         0.29201377f,  0.38931254f,   0.5016634f,   0.6427869f,   0.8614784f};

/// bitsandbytes divides by at least this, so that a block of zeros encodes as zeros.
constexpr float SMALLEST_ABSMAX = 1e-38f;

/// `bad` receives the smallest index of a value that is not finite (it starts at 2^64 - 1).
extern "C" __global__ void __launch_bounds__(256) nf4_quantize(const float *x, u8 *codes, float *absmax, u64 *bad, u64 n) {
  u64 block = (u64)blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16;
  u64 at = block * 64 + (threadIdx.x & 15) * 4;
  float v[4], largest = 0.0f;
  unroll<4>([&](auto i) {
    v[AT(i)] = at + AT(i) < n ? x[at + AT(i)] : 0.0f;
    if (!(fabsf(v[AT(i)]) <= 3.402823466e38f)) atomicMin(bad, at + AT(i));
    largest = fmaxf(largest, fabsf(v[AT(i)]));
  });
  unroll<4>([&](auto i) { largest = fmaxf(largest, shuffle_xor(largest, 8 >> AT(i))); });
  if (block * 64 >= n) return;
  bool whole = block * 64 + 64 <= n;
  float divisor = fmaxf(largest, SMALLEST_ABSMAX), inverse = __fdiv_rn(1.0f, divisor);
  u32 code[4];
  unroll<4>([&](auto i) {
    // bitsandbytes divides in the ragged last block.
    float s = whole ? __fmul_rn(v[AT(i)], inverse) : __fdiv_rn(v[AT(i)], divisor);
    s = fminf(fmaxf(s, -1.0f), 1.0f);
    code[AT(i)] = 0;
#pragma unroll 1
    for (int j = 0; j < 15; j++) code[AT(i)] += s > NF4_THRESHOLDS[j];
    if (at + AT(i) >= n) code[AT(i)] = 7; // the code of 0: the padding of an odd tail
  });
  unroll<2>([&](auto i) {
    if (at + 2 * AT(i) < n) codes[at / 2 + AT(i)] = (u8)(code[2 * AT(i)] << 4 | code[2 * AT(i) + 1]);
  });
  if ((threadIdx.x & 15) == 0) absmax[block] = whole ? largest : divisor;
}

extern "C" __global__ void __launch_bounds__(256) nf4_absmax_mean(const float *absmax, float *mean, u64 blocks) {
  __shared__ double partial[256];
  double sum = 0.0;
#pragma unroll 1
  for (u64 i = threadIdx.x; i < blocks; i += 256) sum += (double)absmax[i];
  partial[threadIdx.x] = sum;
#pragma unroll 1
  for (u32 half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *mean = (float)(partial[0] / (double)blocks);
}

/// Double quantisation of 256 scales a block. `map` is the 256-entry dynamic code book, ascending. bitsandbytes maps
/// through 65,536 steps over [-1, 1]; the code of a step is the number of midpoints below it.
extern "C" __global__ void __launch_bounds__(256) nf4_quantize_absmax(const float *absmax, const float *mean, const float *map,
                                                                      u8 *codes, float *nested, u64 blocks) {
  __shared__ float largest[8];
  u64 at = (u64)blockIdx.x * 256 + threadIdx.x;
  float v = at < blocks ? __fadd_rn(absmax[at], -*mean) : 0.0f;
  float most = fabsf(v);
  unroll<5>([&](auto i) { most = fmaxf(most, shuffle_xor(most, 16 >> AT(i))); });
  if ((threadIdx.x & 31) == 0) largest[threadIdx.x >> 5] = most;
  __syncthreads();
  unroll<8>([&](auto i) { most = fmaxf(most, largest[AT(i)]); });
  if (threadIdx.x == 0) nested[blockIdx.x] = most;
  if (at >= blocks) return;
  u32 code = 0;
  if (most != 0.0f) {
    float x = fminf(fmaxf(__fmul_rn(v, __fdiv_rn(1.0f, most)), -1.0f), 1.0f);
    u32 step = (u32)__fadd_rn(__fmul_rn(__fmul_rn(__fadd_rn(x, 1.0f), 0.5f), 65535.0f), 0.5f);
    float s = __fadd_rn(-1.0f, __fdiv_rn(2.0f * (float)step, 65535.0f));
    u32 high = 255;
    while (code < high) {
      u32 middle = (code + high) / 2;
      if (0.5f * __fadd_rn(map[middle], map[middle + 1]) < s) code = middle + 1;
      else high = middle;
    }
  }
  codes[at] = (u8)code;
}

#define NF4(suffix, T)                                                                                        \
  extern "C" __global__ void __launch_bounds__(256)                                                           \
      nf4_dequantize_##suffix(const u8 *codes, NF4_SCALE_PARAMETERS, Element<T>::Type *to, u64 n) {           \
    dequantize<Element<T>>(codes, NF4_SCALES, to, n);                                                         \
  }
NF4(f32, Single)
NF4(bf16, Bf16)
NF4(f16, F16)
