//! Packing buffers that are kept between calls.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};

/// One cache line, so that panels start on one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

thread_local! {
    /// Free buffers of this thread. A stack, because a thread that waits inside one product may be handed
    /// a piece of another by the pool.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` a buffer of `len` floats that starts on a cache line; its content is unspecified.
pub(super) fn with_buffer<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let lines = len.div_ceil(16);
    if buffer.len() < lines {
        buffer.resize(lines, Line([0.0; 16]));
    }
    let result = f(&mut bytemuck::cast_slice_mut::<Line, f32>(&mut buffer)[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}
