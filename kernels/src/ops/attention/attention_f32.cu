// Attention in f32 on the ordinary arithmetic units: forward and both backward passes, for f32 training and as
// the plain statement of what the tensor-core kernels do. Any head size up to 256.
//
//   block = 16 rows x 16 columns of the scores, a thread each; tiles [16][pitch] of f32, pitch = D rounded up to
//   4, plus 4: the 16-byte reads of eight neighbouring rows then start in eight different groups of banks
//
//     global --> sA (stationary), sB (streamed) --float4 dot--> s(i, j) --> P[16][17], dS[16][17]
//     thread (row i, columns 4j.. of each 64) of the result += P[i][*] . B[*][column]
//
// Floor: 4.D (forward), 14.D (backward) FLOPs a visible pair and head at the f32 rate; shared memory is the
// bound in fact, one 16-byte read for four FMAs.
// Launch: grid (heads, tiles of 16), 256 threads, shared memory (3 or 4).16.pitch.4 + 2.2 KB <= 70 KB.
// `work` as in attention_forward.cu and attention_backward.cu, tiles of 16. The backward kernel runs its keys'
// pass where it is given two results, else its queries' pass.
#include "attention.cuh"

constexpr int N = 16;

/// What a thread owns of a row of the result: columns 4j..4j+3 of each of its 64s.
using Row = float4[4];

extern __shared__ __align__(128) char shared[];

/// Rows of `d` floats into a tile, zeros for missing rows and for the columns up to a multiple of 4.
__device__ __forceinline__ void load(float* tile, const float* from, u32 stride, int rows, u32 d, u32 pitch) {
  const u32 i = threadIdx.x / 16;
#pragma unroll 1
  for (u32 c = threadIdx.x % 16; c < pitch - 4; c += 16)
    tile[i * pitch + c] = (int)i < rows && c < d ? from[(u64)i * stride + c] : 0.0f;
}

__device__ __forceinline__ float dot(const float* a, const float* b, u32 n) {
  float sum = 0.0f;
#pragma unroll 2
  for (u32 c = 0; c < n; c += 4) {
    const float4 x = *(const float4*)(a + c), y = *(const float4*)(b + c);
    sum = fmaf(x.x, y.x, sum);
    sum = fmaf(x.y, y.y, sum);
    sum = fmaf(x.z, y.z, sum);
    sum = fmaf(x.w, y.w, sum);
  }
  return sum;
}

/// `acc[x] += sum over j of p[j] . b[j][column + 64x ..]`.
__device__ __forceinline__ void add_rows(Row& acc, const float* p, const float* b, u32 pitch, u32 column, u32 d) {
#pragma unroll 1
  for (int j = 0; j < N; j++)
#pragma unroll
    for (int x = 0; x < 4; x++)
      if (column + x * 64 < d) {
        const float4 y = *(const float4*)(b + j * pitch + column + x * 64);
        acc[x].x = fmaf(p[j], y.x, acc[x].x);
        acc[x].y = fmaf(p[j], y.y, acc[x].y);
        acc[x].z = fmaf(p[j], y.z, acc[x].z);
        acc[x].w = fmaf(p[j], y.w, acc[x].w);
      }
}

/// Writes the columns below `d`, times `factor`.
__device__ __forceinline__ void store(float* to, const Row& acc, float factor, u32 column, u32 d) {
#pragma unroll
  for (int x = 0; x < 4; x++) {
    const float values[4] = {acc[x].x, acc[x].y, acc[x].z, acc[x].w};
#pragma unroll
    for (int e = 0; e < 4; e++)
      if (column + x * 64 + e < d) to[column + x * 64 + e] = values[e] * factor;
  }
}

extern "C" __global__ void __launch_bounds__(256, 2)
    attention_fwd_f32(const float* q, const float* k, const float* v, float* o, float* lse, const uint4* work,
                      u32 q_token, u32 q_head, u32 k_token, u32 k_head, u32 v_token, u32 v_head, u32 tokens, u32 group,
                      u32 d, u32 window, float scale) {
  const u32 pitch = ((d + 3) & ~3u) + 4;
  float *sq = (float*)shared, *sk = sq + N * pitch, *sv = sk + N * pitch, *sp = sv + N * pitch;
  const int i = threadIdx.x / 16, j = threadIdx.x % 16, head = blockIdx.x;
  const uint4 w = work[blockIdx.y];
  const int rows = w.y, position = w.w, end = position + rows, reach = (int)min(window, 0x40000000u);
  const int first = max(0, position - reach + 1) / N * N;
  k += (u64)w.z * k_token + head / group * k_head;
  v += (u64)w.z * v_token + head / group * v_head;
  load(sq, q + (u64)w.x * q_token + head * q_head, q_token, rows, d, pitch);

  Row acc = {};
  float m = -kInfinity, l = 0.0f;
  for (int key = first; key < end; key += N) {
    __syncthreads();
    load(sk, k + (u64)key * k_token, k_token, end - key, d, pitch);
    load(sv, v + (u64)key * v_token, v_token, end - key, d, pitch);
    __syncthreads();
    const int distance = position + i - key - j;
    const bool seen = distance >= 0 && distance < reach;
    const float s = seen ? dot(sq + i * pitch, sk + j * pitch, pitch - 4) * scale : -kInfinity;
    float top = s;
#pragma unroll
    for (int x = 1; x < 16; x *= 2) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, x));
    top = fmaxf(top, m);
    const float shift = top == -kInfinity ? 0.0f : top;
    const float p = exp2_approx(s - shift), decay = exp2_approx(m - shift);
    m = top;
    l = fmaf(l, decay, p);
    // The 16 threads of a row are half a warp: P needs no barrier of the block.
    __syncwarp();
    sp[i * 17 + j] = p;
    __syncwarp();
#pragma unroll
    for (int x = 0; x < 4; x++) {
      acc[x].x *= decay;
      acc[x].y *= decay;
      acc[x].z *= decay;
      acc[x].w *= decay;
    }
    add_rows(acc, sp + i * 17, sv, pitch, j * 4, d);
  }
#pragma unroll
  for (int x = 1; x < 16; x *= 2) l += __shfl_xor_sync(0xffffffffu, l, x);
  if (i >= rows) return;
  store(o + ((u64)(w.x + i) * gridDim.x + head) * d, acc, 1.0f / l, j * 4, d);
  if (j == 0) lse[(u64)head * tokens + w.x + i] = m + log2f(l);
}

extern "C" __global__ void __launch_bounds__(256, 2)
    attention_bwd_f32(const float* q, const float* k, const float* v, const float* d_out, const float* lse,
                      const float* delta, float* out1, float* out2, const uint4* work, u32 q_token, u32 q_head,
                      u32 k_token, u32 k_head, u32 v_token, u32 v_head, u32 tokens, u32 group, u32 d, u32 window,
                      float scale, float scale_log2) {
  const bool keys = out2 != nullptr;
  const u32 pitch = ((d + 3) & ~3u) + 4;
  float *a1 = (float*)shared, *a2 = a1 + N * pitch, *b1 = a2 + N * pitch, *b2 = b1 + N * pitch;
  float *sp = b2 + N * pitch, *sd = sp + N * 17;
  const int i = threadIdx.x / 16, j = threadIdx.x % 16;
  const uint4 w = work[blockIdx.y];
  const int rows = w.y, reach = (int)min(window, 0x40000000u), position = keys ? w.x - w.w : w.w;
  const int first = (keys ? position : max(0, position - reach + 1)) / N * N;
  const int end = keys ? min((int)(w.z - w.w), position + rows + reach - 1) : position + rows;
  const u32 base = keys ? w.w : w.z, o_token = (keys ? gridDim.x * group : gridDim.x) * d;
  const u32 first_head = keys ? blockIdx.x * group : blockIdx.x, last_head = keys ? first_head + group : first_head + 1;
  const u32 kv = first_head / group;
  // What stays and what is streamed; the streamed side of the keys' pass moves from head to head.
  const float *stay1 = keys ? k + kv * k_head : q + first_head * q_head, *pass1 = keys ? q : k + kv * k_head;
  const float *stay2 = keys ? v + kv * v_head : d_out + first_head * d, *pass2 = keys ? d_out : v + kv * v_head;
  const u32 stay1_token = keys ? k_token : q_token, pass1_token = keys ? q_token : k_token;
  const u32 stay2_token = keys ? v_token : o_token, pass2_token = keys ? o_token : v_token;
  load(a1, stay1 + (u64)w.x * stay1_token, stay1_token, rows, d, pitch);
  load(a2, stay2 + (u64)w.x * stay2_token, stay2_token, rows, d, pitch);
  Row acc1 = {}, acc2 = {};
  for (u32 head = first_head; head < last_head; head++)
    for (int at = first; at < end; at += N) {
      __syncthreads();
      const float *p1 = pass1 + (keys ? head * q_head : 0), *p2 = pass2 + (keys ? head * d : 0);
      load(b1, p1 + (u64)(base + at) * pass1_token, pass1_token, end - at, d, pitch);
      load(b2, p2 + (u64)(base + at) * pass2_token, pass2_token, end - at, d, pitch);
      __syncthreads();
      const int distance = keys ? at + j - position - i : position + i - at - j;
      const bool there = i < rows && at + j < end && distance >= 0 && distance < reach;
      float p = 0.0f, ds = 0.0f;
      if (there) {
        const u64 row = (u64)head * tokens + (keys ? base + at + j : w.x + i);
        p = exp2_approx(fmaf(dot(a1 + i * pitch, b1 + j * pitch, pitch - 4), scale_log2, -lse[row]));
        ds = p * (dot(a2 + i * pitch, b2 + j * pitch, pitch - 4) - delta[row]);
      }
      __syncwarp();
      sp[i * 17 + j] = p;
      sd[i * 17 + j] = ds;
      __syncwarp();
      add_rows(acc1, sd + i * 17, b1, pitch, j * 4, d);
      if (keys) add_rows(acc2, sp + i * 17, b2, pitch, j * 4, d);
    }
  if (i >= rows) return;
  const u64 to = ((u64)(w.x + i) * gridDim.x + blockIdx.x) * d;
  store(out1 + to, acc1, scale, j * 4, d);
  if (keys) store(out2 + to, acc2, 1.0f, j * 4, d);
}
