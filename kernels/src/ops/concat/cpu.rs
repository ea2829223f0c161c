//! Copying into a range of one dimension of a larger tensor.

use crate::cpu::elementwise::dense;
use medley_tensor::{Result, Tensor};
use rayon::prelude::*;

/// Which part of a row-major tensor to write: `len` of every `extent` runs of `inner` elements.
pub(crate) struct Span {
    extent: usize,
    inner: usize,
    start: usize,
    len: usize,
}

impl Span {
    /// Indices `start..start + len` of dimension `dim` of a tensor of `shape`.
    pub(crate) fn new(shape: &[usize], dim: usize, start: usize, len: usize) -> Self {
        Span { extent: shape[dim], inner: shape[dim + 1..].iter().product(), start, len }
    }
}

/// Copies `source` into the span of `target`.
///
/// # Errors
/// When the source is not f32.
pub(crate) fn write(target: &mut [f32], span: &Span, source: &Tensor) -> Result<()> {
    let source = dense(source)?;
    let source = source.as_slice::<f32>()?;
    let (wide, narrow) = (span.extent * span.inner, span.len * span.inner);
    if narrow > 0 {
        target.par_chunks_mut(wide).zip(source.par_chunks(narrow)).with_min_len((1 << 14) / wide + 1).for_each(
            |(target, source)| target[span.start * span.inner..][..narrow].copy_from_slice(source),
        );
    }
    Ok(())
}
