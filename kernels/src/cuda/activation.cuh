// Activations and their slopes in f32: the formulas of `cpu/activation.rs`, with ex2.approx and div.approx (2 ulp
// each, and the rounding of x·log₂e: 1e-7·|x| of the exponential, less of a sigmoid).
#pragma once
#include "words.cuh"

struct Both {
    float value, slope;
};

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.0f, 1.0f + __expf(-x)); }

// x·σ(u), u = a·x·(1 + c·x²); slope σ + x·u′·σ·(1 − σ)
__device__ __forceinline__ Both gated(float a, float c, float x) {
    const float cx = c * x * x, s = sigmoid(a * x * (1.0f + cx));
    // Far out 1 − σ is 0 while x·u′ may overflow to infinity: the product must stay 0.
    const float reach = fminf(fmaxf(x * a * (1.0f + 3.0f * cx), -3.402823466e38f), 3.402823466e38f);
    return {x * s, s + reach * s * (1.0f - s)};
}

// x·σ(x); slope σ·(1 + x·(1 − σ))
__device__ __forceinline__ Both silu(float x) {
    const float s = sigmoid(x);
    return {x * s, s * (1.0f + x * (1.0f - s))};
}

// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))), where (1 + tanh u)/2 = σ(2u)
constexpr float GELU_A = 1.595769f, GELU_CUBIC = 0.044715f;
__device__ __forceinline__ Both gelu_tanh(float x) { return gated(GELU_A, GELU_CUBIC, x); }

// erf by Eigen's rational function, to 3e-7.
__device__ __forceinline__ float erf_rational(float x) {
    const float z = x * x;
    float p = -2.7261423e-10f;
    p = p * z + 2.7706814e-8f;
    p = p * z + -2.101024e-6f;
    p = p * z + -5.692506e-5f;
    p = p * z + -7.349906e-4f;
    p = p * z + -2.9546e-3f;
    p = p * z + -1.609603e-2f;
    float q = -1.456607e-5f;
    q = q * z + -2.1337406e-4f;
    q = q * z + -1.682827e-3f;
    q = q * z + -7.373329e-3f;
    q = q * z + -1.426474e-2f;
    return fabsf(x) < 4.0f ? __fdividef(x * p, q) : copysignf(1.0f, x);
}

// x·Φ(x); slope Φ(x) + x·φ(x)
__device__ __forceinline__ Both gelu_erf(float x) {
    const float cdf = 0.5f * (1.0f + erf_rational(x * 0.70710678f));
    return {x * cdf, cdf + x * (0.3989423f * __expf(-0.5f * x * x))};
}
