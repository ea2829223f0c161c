// The gradient of a slice: `narrow` of every `wide` units of dx come from dy, the others are zero, all of
// dx written once. Any dtype. Floor: dy read, dx written. Launch: 256 threads, a unit (16 bytes where
// aligned) a thread.
#include "copy.cuh"

extern "C" __global__ void __launch_bounds__(256)
    slice_bwd_any(char* dx, const char* dy, u64 n, u64 narrow, u64 wide, u64 start, u32 unit) {
    const u64 i = thread_index();
    if (i >= n) return;
    const u64 row = i / wide, at = i - row * wide;
    if (at >= start && at - start < narrow) {
        copy_unit(dx + (i << unit), dy + ((row * narrow + at - start) << unit), unit);
    } else {
        zero_unit(dx + (i << unit), unit);
    }
}
