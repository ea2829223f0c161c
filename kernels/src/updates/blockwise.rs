//! Optimizer state in 8 bits (Dettmers et al., "8-bit Optimizers via Block-wise Quantization", arXiv 2110.02861), as
//! bitsandbytes keeps it: blocks of 256 elements share an f32 absmax, a code indexes the dynamic map, signed for
//! first moments, unsigned for second ones.

use medley_tensor::quant::nf4::{dynamic_map, unsigned_dynamic_map};
use std::sync::LazyLock;

/// Elements that share one scale.
pub const BLOCK: usize = 256;
/// Tensors smaller than this keep f32 moments, as in bitsandbytes (`min_8bit_size`).
pub const SMALLEST: usize = 4096;
/// Blocks one task handles.
pub(super) const TASK: usize = 64;

/// A moment in 8 bits: n codes and ⌈n / [`BLOCK`]⌉ scales.
#[derive(Debug)]
pub struct Quantised<'a> {
    /// Indices into the dynamic map.
    pub codes: &'a mut [u8],
    /// The largest magnitude of each block.
    pub absmax: &'a mut [f32],
}

/// The two code books with the midpoints between neighbours, for the CPU and the CUDA kernel alike.
/// Order: signed map, its 255 midpoints and a filler, unsigned map, its midpoints and a filler.
pub(crate) fn tables() -> &'static [f32; 4 * 256] {
    static TABLES: LazyLock<[f32; 4 * 256]> = LazyLock::new(|| {
        let mut all = [f32::INFINITY; 4 * 256];
        for (half, map) in [dynamic_map(), unsigned_dynamic_map()].into_iter().enumerate() {
            let at = half * 512;
            all[at..at + 256].copy_from_slice(map);
            for (middle, pair) in all[at + 256..at + 511].iter_mut().zip(map.windows(2)) {
                *middle = 0.5 * (pair[0] + pair[1]);
            }
        }
        all
    });
    &TABLES
}

/// The nearest code: how many of the midpoints lie below `x`.
#[inline]
pub(super) fn nearest(midpoints: &[f32], x: f32) -> usize {
    let mut code = 0;
    for step in [128, 64, 32, 16, 8, 4, 2, 1] {
        if x > midpoints[code + step - 1] {
            code += step;
        }
    }
    code
}

/// The code of `x` for a block whose largest magnitude is `absmax`, in the signed map of [`tables`]. A negative
/// value keeps its sign, as in bitsandbytes.
#[inline]
pub(super) fn signed_code(tables: &[f32; 4 * 256], x: f32, absmax: f32) -> u8 {
    let code = nearest(&tables[256..512], if absmax > 0.0 { x / absmax } else { 0.0 });
    if x < 0.0 && tables[code] >= 0.0 { (code - 1) as u8 } else { code as u8 }
}
