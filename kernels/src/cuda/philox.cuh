// Philox4x32-10 (Salmon et al., SC 2011), word for word as `medley_tensor::rng::philox4x32`: the words
// of block `index` of stream `stream` under `seed`. Element i of a dropout mask is decided by word
// i % 4 of block i / 4, on every device.
#pragma once
#include "words.cuh"

__device__ __forceinline__ uint4 philox(u64 index, u64 stream, u64 seed) {
    uint4 c = make_uint4((u32)index, (u32)(index >> 32), (u32)stream, (u32)(stream >> 32));
    u32 k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll 2
    for (int round = 0; round < 10; ++round) {
        const u64 p0 = (u64)0xD2511F53u * c.x, p1 = (u64)0xCD9E8D57u * c.z;
        c = make_uint4((u32)(p1 >> 32) ^ c.y ^ k0, (u32)p1, (u32)(p0 >> 32) ^ c.w ^ k1, (u32)p0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// `x · scale` where the word's 24-bit uniform number reaches p, else 0. A select and not a product:
// dropping must not turn an infinity into NaN.
__device__ __forceinline__ float dropped(float x, u32 word, float p, float scale) {
    return __uint2float_rn(word >> 8) * (1.0f / 16777216.0f) >= p ? x * scale : 0.0f;
}
