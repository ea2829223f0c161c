// Optimizer state in 8 bits: blocks of 256 elements share an absmax, a code indexes a map of 256 values.
#pragma once
#include "words.cuh"

// The code nearest to x: how many of the 255 midpoints between neighbours lie below it.
__device__ __forceinline__ u32 nearest(const float *midpoints, float x) {
    u32 code = 0;
#pragma unroll 1
    for (u32 step = 128; step > 0; step >>= 1)
        if (x > midpoints[code + step - 1]) code += step;
    return code;
}
