// Lion over all parameters at once: unscale, clip and update in one pass.
//
//   lion_f32         p, m ← Lion(g · grad_scale)                          one block a chunk
//   lion_8bit_f32    the same with m as 8-bit codes, blocks of 256        one block a chunk
//
// Whether the step is skipped and by how much gradients are scaled is read from `Control` in device memory,
// which `updates/control` writes. Products and sums are rounded one by one in the CPU's order, so results agree
// bit for bit.
//
// Floor, bytes a parameter: 20 with an f32 moment (p, g, m read; p, m written), 14.03 with an 8-bit one.
// Launch: grid (chunks), 256 threads.
#include "blockwise.cuh"
#include "parameters.cuh"

struct Constants {
    float beta1, rest1, beta2, rest2;
};

// One element's update, bitsandbytes' order of operations.
__device__ __forceinline__ void update(float &p, float g, float &m, float scale, float decay, float step_size,
                                       const Constants &c) {
    g = __fmul_rn(g, scale);
    const float blend = __fadd_rn(__fmul_rn(m, c.beta1), __fmul_rn(c.rest1, g));
    const float sign = (blend > 0.0f ? 1.0f : 0.0f) - (blend < 0.0f ? 1.0f : 0.0f);
    p = __fadd_rn(__fmul_rn(p, decay), -__fmul_rn(step_size, sign));
    m = __fadd_rn(__fmul_rn(m, c.beta2), __fmul_rn(c.rest2, g));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    lion_f32(const Entry *table, u32 entries, u32 first_chunk, const Control *control, float lr, float beta1,
             float rest1, float beta2, float rest2) {
    if (control->found_inf) return;
    const Constants c = {beta1, rest1, beta2, rest2};
    const float scale = control->grad_scale;
    const u32 chunk = blockIdx.x + first_chunk;
    const Entry *e = entry_of(table, entries, chunk);
    const u64 begin = (u64)(chunk - e->first_chunk) * CHUNK;
    const u64 end = begin + CHUNK < e->n ? begin + CHUNK : e->n;
    float *p = e->p, *m = (float *)e->m;
    const float *g = e->g;
    const float decay = e->decay, step_size = __fmul_rn(lr, e->lr_scale);
    const bool aligned = (((u64)p | (u64)g | (u64)m) & 15) == 0;
#pragma unroll 1
    for (u64 i = begin + threadIdx.x * 4; i < end; i += THREADS * 4) {
        if (aligned && i + 4 <= end) {
            float pp[4], gg[4], mm[4];
            load<float, 4>(p + i, pp);
            load<float, 4>(g + i, gg);
            load<float, 4>(m + i, mm);
#pragma unroll
            for (int k = 0; k < 4; ++k) update(pp[k], gg[k], mm[k], scale, decay, step_size, c);
            store<float, 4>(p + i, pp);
            store<float, 4>(m + i, mm);
        } else {
#pragma unroll 1
            for (u64 k = i; k < end && k < i + 4; ++k) {
                float mm = m[k], pp = p[k];
                update(pp, g[k], mm, scale, decay, step_size, c);
                p[k] = pp, m[k] = mm;
            }
        }
    }
}

// `maps` begins with the signed map and its midpoints, 256 each. A thread has one element of the block of 256
// that shares a scale.
extern "C" __global__ void __launch_bounds__(THREADS)
    lion_8bit_f32(const Entry *table, u32 entries, u32 first_chunk, const Control *control, const float *maps,
                  float lr, float beta1, float rest1, float beta2, float rest2) {
    __shared__ float tables[2 * 256];
    __shared__ float maxima[2][THREADS / 32];
    if (control->found_inf) return;
    for (u32 i = threadIdx.x; i < 2 * 256; i += THREADS) tables[i] = maps[i];
    __syncthreads();
    const Constants c = {beta1, rest1, beta2, rest2};
    const float scale = control->grad_scale;
    const u32 chunk = blockIdx.x + first_chunk;
    const Entry *e = entry_of(table, entries, chunk);
    const u64 first = (u64)(chunk - e->first_chunk) * CHUNK, n = e->n;
    unsigned char *codes = (unsigned char *)e->m;
    float *params = e->p, *absmax = e->m_absmax;
    const float *grads = e->g;
    const float decay = e->decay, step_size = __fmul_rn(lr, e->lr_scale);
    // Two buffers of maxima in turn: a fast warp's next block does not overwrite what a slow one still reads.
    u32 turn = 0;
#pragma unroll 1
    for (u64 begin = first; begin < n && begin < first + CHUNK; begin += 256, turn ^= 1) {
        const u64 block = begin / 256, i = begin + threadIdx.x;
        float m = 0.0f;
        if (i < n) {
            m = __fmul_rn(tables[codes[i]], absmax[block]);
            float p = params[i];
            update(p, grads[i], m, scale, decay, step_size, c);
            params[i] = p;
        }
        float most = fabsf(m);
#pragma unroll 1
        for (u32 d = 16; d > 0; d >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        if (threadIdx.x % 32 == 0) maxima[turn][threadIdx.x / 32] = most;
        // Past this barrier every thread has read the block's old scale.
        __syncthreads();
        for (u32 w = 0; w < THREADS / 32; ++w) most = fmaxf(most, maxima[turn][w]);
        if (threadIdx.x == 0) absmax[block] = most;
        if (i < n) {
            u32 code = nearest(tables + 256, most > 0.0f ? __fdiv_rn(m, most) : 0.0f);
            // A negative moment keeps its sign, as in bitsandbytes.
            if (m < 0.0f && tables[code] >= 0.0f) code -= 1;
            codes[i] = code;
        }
    }
}
