//! Memory: device allocations, a block's shared memory with its shadow, and the address windows.

pub(crate) mod global;
pub(crate) mod order;
pub(crate) mod shared;

/// Generic address of byte 0 of shared memory.
pub(crate) const SHARED_WINDOW: u64 = 0x0000_7f80_0000_0000;
/// Generic address of byte 0 of a thread's local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0000_7f90_0000_0000;
/// Generic address of byte 0 of the parameter block.
pub(crate) const PARAM_WINDOW: u64 = 0x0000_7fa0_0000_0000;
/// Where the addresses of functions begin: 16 apart, nothing can be read there.
pub(crate) const FUNCTION_WINDOW: u64 = 0x0000_7fb0_0000_0000;
/// Bytes each of the windows spans.
pub(crate) const WINDOW_BYTES: u64 = 1 << 32;
/// First address device memory is given out at.
pub(crate) const GLOBAL_START: u64 = 0x0000_1000_0000_0000;

/// Whether `address` lies in the window that begins at `window`.
#[inline(always)]
pub(crate) fn in_window(address: u64, window: u64) -> bool {
    address.wrapping_sub(window) < WINDOW_BYTES
}
