//! Packing buffers that are kept between calls.

use std::cell::RefCell;

use bytemuck::{Pod, Zeroable};
use medley_tensor::ledger::{Category, Charge};

/// One cache line, so that panels start on one.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer and what it weighs on the memory ledger.
#[derive(Default)]
struct Buffer {
    lines: Vec<Line>,
    charge: Option<Charge>,
}

thread_local! {
    /// Free buffers of this thread. A stack, because a thread that waits inside one product may be handed
    /// a piece of another by the pool.
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Lends `f` a buffer of `len` floats that starts on a cache line; its content is unspecified.
pub(super) fn with_buffer<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    let lines = len.div_ceil(16);
    if buffer.lines.len() < lines {
        // The old one goes first: nothing in it is worth copying.
        buffer = Buffer::default();
        buffer.charge = Some(Charge::to(Category::Workspace, lines * size_of::<Line>()));
        buffer.lines = vec![Line([0.0; 16]); lines];
    }
    let result = f(&mut bytemuck::cast_slice_mut::<Line, f32>(&mut buffer.lines)[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_kept_nested_and_aligned() {
        let address = |buffer: &mut [f32]| buffer.as_ptr() as usize;
        let (first, inner) = with_buffer(1000, |outer| {
            assert_eq!(outer.len(), 1000);
            (address(outer), with_buffer(50, |inner| address(inner)))
        });
        assert!(first % 64 == 0 && inner % 64 == 0 && first != inner);
        // The larger one was returned last and is lent again.
        assert_eq!(with_buffer(900, |buffer| address(buffer)), first);
    }
}
