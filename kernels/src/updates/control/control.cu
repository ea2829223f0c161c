// What all updates of a step share, decided on the device so that the host waits for nothing in between.
//
//   grad_norm           Σ g² ──► total
//   step_control_f32    total ──► norm, found_inf, grad_scale, the step's number, AdamW's corrections: Control
//
// Rounded one by one in the CPU's order, so that both sides scale by the same bits.
// Launch: one thread.
#include "parameters.cuh"

// x^n as compiler-rt's __powidf2 (Rust's powi) computes it.
__device__ __forceinline__ double power(double x, u64 n) {
    double r = 1.0;
    for (;;) {
        if (n & 1) r = __dmul_rn(r, x);
        n >>= 1;
        if (n == 0) return r;
        x = __dmul_rn(x, x);
    }
}

// One thread. `total` is Σ g² of the scaled gradients; `inverse_scale` undoes the loss scale; `max_norm` 0
// clips nothing.
extern "C" __global__ void __launch_bounds__(32)
step_control_f32(Control *control, const double *total, double inverse_scale,
                  double max_norm, double lr, double beta1, double beta2) {
    const double sum = *total, norm = __dmul_rn(sqrt(sum), inverse_scale);
    const bool finite = sum < __longlong_as_double(0x7ff0000000000000ull);
    float clip = 1.0f;
    if (max_norm > 0.0) clip = (float)fmin(max_norm / __dadd_rn(norm, 1e-6), 1.0);
    control->norm = norm;
    control->grad_scale = __fmul_rn(clip, (float)inverse_scale);
    control->found_inf = !finite;
    if (finite) {
        const u64 step = control->step + 1;
        control->step = step;
        control->step_size = (float)(lr / __dadd_rn(1.0, -power(beta1, step)));
        control->root_correction2 = (float)sqrt(__dadd_rn(1.0, -power(beta2, step)));
    }
}
