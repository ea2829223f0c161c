// Copies one input of a concatenation into its place: `narrow` of every `wide` units of y, from `start`.
// Any dtype. Floor: 2 elements' bytes. Launch: 256 threads, a unit (16 bytes where aligned) a thread.
#include "copy.cuh"

extern "C" __global__ void __launch_bounds__(256)
    concat_fwd_any(char* y, const char* x, u64 n, u64 narrow, u64 wide, u64 start, u32 unit) {
    const u64 i = thread_index();
    if (i >= n) return;
    const u64 row = i / narrow;
    copy_unit(y + ((row * (wide - narrow) + start + i) << unit), x + (i << unit), unit);
}
