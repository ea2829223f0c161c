// AdamW over all parameters at once: unscale, clip and update in one pass.
//
//   adamw_f32            p, m, v ← AdamW(g · grad_scale)                     one block a chunk
//   adamw_8bit_f32       the same with m and v as 8-bit codes, blocks of 256  one block a chunk
//
// Whether the step is skipped (a gradient is not finite) and by how much gradients are scaled is read from
// `Control` in device memory, which `updates/control` writes.
//
// Arithmetic is the CPU's in the CPU's order: products and sums are rounded one by one (`__fmul_rn`,
// `__fadd_rn`), so ptxas fuses none, and results agree bit for bit. It is free: the kernels are memory-bound.
//
// Floor, bytes a parameter: 28 with f32 moments (p, g, m, v read; p, m, v written), 16 with 8-bit ones
// (p, g read, p written: 12; two codes read and written: 4; two absmax in 256: 0.06).
// Launch: grid (chunks), 256 threads.
#include "blockwise.cuh"
#include "parameters.cuh"

struct Constants {
    float beta2, rest1, rest2, eps;
};

// One element's update, PyTorch's order of operations.
__device__ __forceinline__ void update(float &p, float g, float &m, float &v, float scale, float decay,
                                       float step_size, float root, const Constants &c) {
    g = __fmul_rn(g, scale);
    m = __fadd_rn(m, __fmul_rn(c.rest1, __fadd_rn(g, -m)));
    v = __fadd_rn(__fmul_rn(v, c.beta2), __fmul_rn(__fmul_rn(c.rest2, g), g));
    const float below = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), root), c.eps);
    p = __fadd_rn(__fmul_rn(p, decay), -__fdiv_rn(__fmul_rn(step_size, m), below));
}

extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_f32(const Entry *table, u32 entries, u32 first_chunk, const Control *control, float beta2, float rest1,
              float rest2, float eps) {
    if (control->found_inf) return;
    const Constants c = {beta2, rest1, rest2, eps};
    const float scale = control->grad_scale, root = control->root_correction2;
    const u32 chunk = blockIdx.x + first_chunk;
    const Entry *e = entry_of(table, entries, chunk);
    const u64 begin = (u64)(chunk - e->first_chunk) * CHUNK;
    const u64 end = begin + CHUNK < e->n ? begin + CHUNK : e->n;
    float *p = e->p, *m = (float *)e->m, *v = (float *)e->v;
    const float *g = e->g;
    const float decay = e->decay, step_size = __fmul_rn(control->step_size, e->lr_scale);
    const bool aligned = (((u64)p | (u64)g | (u64)m | (u64)v) & 15) == 0;
#pragma unroll 1
    for (u64 i = begin + threadIdx.x * 4; i < end; i += THREADS * 4) {
        if (aligned && i + 4 <= end) {
            float pp[4], gg[4], mm[4], vv[4];
            load<float, 4>(p + i, pp);
            load<float, 4>(g + i, gg);
            load<float, 4>(m + i, mm);
            load<float, 4>(v + i, vv);
#pragma unroll
            for (int k = 0; k < 4; ++k) update(pp[k], gg[k], mm[k], vv[k], scale, decay, step_size, root, c);
            store<float, 4>(p + i, pp);
            store<float, 4>(m + i, mm);
            store<float, 4>(v + i, vv);
        } else {
#pragma unroll 1
            for (u64 k = i; k < end && k < i + 4; ++k) {
                float mm = m[k], vv = v[k], pp = p[k];
                update(pp, g[k], mm, vv, scale, decay, step_size, root, c);
                p[k] = pp, m[k] = mm, v[k] = vv;
            }
        }
    }
}

// `maps` holds four tables of 256: signed map, its midpoints (the last unused), unsigned map, its midpoints.
// A thread has one element of the block of 256 that shares a scale; both maxima are reduced together.
extern "C" __global__ void __launch_bounds__(THREADS)
    adamw_8bit_f32(const Entry *table, u32 entries, u32 first_chunk, const Control *control, const float *maps,
               float beta2, float rest1, float rest2, float eps) {
    __shared__ float tables[4 * 256];
    __shared__ float2 maxima[2][THREADS / 32];
    if (control->found_inf) return;
    for (u32 i = threadIdx.x; i < 4 * 256; i += THREADS) tables[i] = maps[i];
    __syncthreads();
    const float *signed_map = tables, *signed_mid = tables + 256, *map = tables + 512, *mid = tables + 768;
    const Constants c = {beta2, rest1, rest2, eps};
    const float scale = control->grad_scale, root = control->root_correction2;
    const u32 chunk = blockIdx.x + first_chunk;
    const Entry *e = entry_of(table, entries, chunk);
    const u64 first = (u64)(chunk - e->first_chunk) * CHUNK, n = e->n;
    unsigned char *m_codes = (unsigned char *)e->m, *v_codes = (unsigned char *)e->v;
    float *params = e->p, *m_absmax = e->m_absmax, *v_absmax = e->v_absmax;
    const float *grads = e->g;
    const float decay = e->decay, step_size = __fmul_rn(control->step_size, e->lr_scale);
    // Two buffers of maxima in turn: a fast warp's next block does not overwrite what a slow one still reads.
    u32 turn = 0;
#pragma unroll 1
    for (u64 begin = first; begin < n && begin < first + CHUNK; begin += 256, turn ^= 1) {
        const u64 block = begin / 256, i = begin + threadIdx.x;
        float m = 0.0f, v = 0.0f;
        if (i < n) {
            m = __fmul_rn(signed_map[m_codes[i]], m_absmax[block]);
            v = __fmul_rn(map[v_codes[i]], v_absmax[block]);
            float p = params[i];
            update(p, grads[i], m, v, scale, decay, step_size, root, c);
            params[i] = p;
        }
        float2 most = make_float2(fabsf(m), v);
#pragma unroll 1
        for (u32 d = 16; d > 0; d >>= 1) {
            most.x = fmaxf(most.x, __shfl_xor_sync(~0u, most.x, d));
            most.y = fmaxf(most.y, __shfl_xor_sync(~0u, most.y, d));
        }
        if (threadIdx.x % 32 == 0) maxima[turn][threadIdx.x / 32] = most;
        // Past this barrier every thread has read the block's old scales.
        __syncthreads();
        for (u32 w = 0; w < THREADS / 32; ++w) {
            most.x = fmaxf(most.x, maxima[turn][w].x);
            most.y = fmaxf(most.y, maxima[turn][w].y);
        }
        if (threadIdx.x == 0) m_absmax[block] = most.x, v_absmax[block] = most.y;
        if (i < n) {
            u32 code = nearest(signed_mid, most.x > 0.0f ? __fdiv_rn(m, most.x) : 0.0f);
            // A negative moment keeps its sign, as in bitsandbytes.
            if (m < 0.0f && signed_map[code] >= 0.0f) code -= 1;
            m_codes[i] = code;
            v_codes[i] = nearest(mid, most.y > 0.0f ? __fdiv_rn(v, most.y) : 0.0f);
        }
    }
}
