// Sums over a block, in a fixed order: the same bits every time.
#pragma once

// The sum of `x` over the warp, in every lane.
__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

// The sum of `x` over a one-dimensional block of whole warps, in every thread. `scratch` holds 32 floats and
// may be used again after the next __syncthreads().
__device__ __forceinline__ float block_sum(float x, float* scratch)
{
    const unsigned lane = threadIdx.x & 31, warp = threadIdx.x >> 5, warps = blockDim.x >> 5;
    x = warp_sum(x);
    if (warps == 1) return x;
    if (lane == 0) scratch[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}
