// Functions of one variable, and dy · slope(x). Engine and launch shape: cuda/pointwise.cuh. Floor: 2
// elements' bytes forward, 3 backward. The function is a parameter that the whole grid shares, so the
// switch never diverges; each function's code is there once a dtype, since the engine's loop is rolled.
#include "activation.cuh"
#include "pointwise.cuh"

// `UnaryKind::ALL` in mod.rs.
enum Kind : u32 { EXP, LOG, SQRT, RSQRT, SQUARE, ABS, SIN, COS, TANH, RELU, SIGMOID, SILU, GELU, GELU_TANH };

// sin(x + quarters·π/2) by the polynomials of Cephes `sinf` and `cosf` after taking the nearest multiple
// of π/2 away, in three f32 parts; from 32768 on in two f64 parts, exact to about 2⁴⁰ radians. (Beyond,
// neighbouring f32 angles lie whole turns apart.)
__device__ __forceinline__ float sine(float x, int quarters) {
    float r, turns = rintf(x * 0.63661977f);
    if (fabsf(x) < 32768.0f) {
        r = fmaf(turns, -1.57079601f, x);
        r = fmaf(turns, -3.13916473e-7f, r);
        r = fmaf(turns, -5.39030253e-15f, r);
        quarters += (int)turns;
    } else {
        const double k = rint(x * 0.63661977236758134);
        r = (float)fma(k, -6.123233995736766e-17, fma(k, -1.5707963267948966, (double)x));
        quarters += (int)(long long)k;
    }
    const float z = r * r;
    float y;
    if (quarters & 1) {
        y = fmaf(fmaf(2.44331571e-5f, z, -1.38873162e-3f), z, 4.16666456e-2f);
        y = fmaf(fmaf(y, z, -0.5f), z, 1.0f);
    } else {
        y = fmaf(fmaf(-1.95152959e-4f, z, 8.33216087e-3f), z, -1.66666546e-1f);
        y = fmaf(y * z, r, r);
    }
    return quarters & 2 ? -y : y;
}

// Value or slope of a function; which of the two is known where it is inlined.
template <bool SLOPE>
__device__ __forceinline__ float function(u32 kind, float x) {
    Both f;
    switch (kind) {
        case EXP: f.value = f.slope = expf(x); break;
        case LOG: f = {__logf(x), 1.0f / x}; break;
        case SQRT: f.value = __fsqrt_rn(x), f.slope = 0.5f / f.value; break;
        case RSQRT: f.value = 1.0f / __fsqrt_rn(x), f.slope = -0.5f * f.value / x; break;
        case SQUARE: f = {x * x, 2.0f * x}; break;
        case ABS: f = {fabsf(x), x == 0.0f ? 0.0f : copysignf(1.0f, x)}; break;
        case SIN:
        case COS: f.value = f.slope = sine(x, (kind == COS) + SLOPE); break;
        case TANH: f.value = tanhf(x), f.slope = 1.0f - f.value * f.value; break;
        case RELU: f = x <= 0.0f ? Both{0.0f, 0.0f} : Both{x, 1.0f}; break;
        case SIGMOID: f.value = sigmoid(x), f.slope = f.value * (1.0f - f.value); break;
        case GELU: f = gelu_erf(x); break;
        default: f = kind == SILU ? gated(1.0f, 0.0f, x) : gated(GELU_A, GELU_CUBIC, x);
    }
    return SLOPE ? f.slope : f.value;
}

struct Forward {
    u32 kind;
    __device__ __forceinline__ void operator()(const float (&x)[1], float (&y)[1]) const {
        y[0] = function<false>(kind, x[0]);
    }
};

struct Backward {
    u32 kind;
    __device__ __forceinline__ void operator()(const float (&v)[2], float (&dx)[1]) const {
        dx[0] = v[0] * function<true>(kind, v[1]);
    }
};

#define UNARY(T, dtype)                                                                                \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        unary_fwd_##dtype(T* y, const T* x, const u64* layout, u32 rank, u64 vectors, u64 n, u32 kind) {  \
        pointwise<T, 1, 1>({x}, {y}, {layout, rank, vectors, n}, Rolled<Forward>{{kind}});                          \
    }                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256)                                                  \
        unary_bwd_##dtype(T* dx, const T* dy, const T* x, const u64* layout, u32 rank, u64 vectors, \
                          u64 n, u32 kind) {                                                           \
        pointwise<T, 2, 1>({dy, x}, {dx}, {layout, rank, vectors, n}, Rolled<Backward>{{kind}});                    \
    }
FOR_EACH_DTYPE(UNARY)
