//! The rotation on the CPU, tokens in parallel.

use super::RopeTable;
use medley_tensor::Layout;
use rayon::prelude::*;

/// Tokens are handed to threads in groups of about this many elements.
const GRAIN: usize = 1 << 14;

/// Rotates `x [T, H, D]` (features adjacent) into row-major `y`; `inverse` rotates back, which is the
/// transpose and so the gradient.
pub(crate) fn rotate(
    table: &RopeTable,
    positions: &[u32],
    x: &[f32],
    layout: &Layout,
    inverse: bool,
    y: &mut [f32],
) {
    let (heads, d) = (layout.shape()[1], layout.shape()[2]);
    if heads * d == 0 {
        return;
    }
    let sign = if inverse { -1.0 } else { 1.0 };
    let group = (GRAIN / (heads * d)).max(1);
    y.par_chunks_mut(heads * d * group).enumerate().for_each(|(g, y)| {
        for ((t, y), &position) in (g * group..).zip(y.chunks_mut(heads * d)).zip(&positions[g * group..]) {
            let (cos, sin) = table.at(position);
            for (h, y) in y.chunks_mut(d).enumerate() {
                let start = layout.offset() + t * layout.strides()[0] + h * layout.strides()[1];
                let x = &x[start..start + d];
                if table.interleaved {
                    interleaved(x, cos, sin, sign, y);
                } else {
                    half_split(x, cos, sin, sign, y);
                }
                y[table.rot_dim()..].copy_from_slice(&x[table.rot_dim()..]);
            }
        }
    });
}

fn half_split(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
    let n = cos.len();
    let (x1, x2) = (&x[..n], &x[n..2 * n]);
    let (y1, y2) = y[..2 * n].split_at_mut(n);
    let sin = &sin[..n];
    for i in 0..n {
        let s = sin[i] * sign;
        y1[i] = x1[i] * cos[i] - x2[i] * s;
        y2[i] = x2[i] * cos[i] + x1[i] * s;
    }
}

fn interleaved(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, y: &mut [f32]) {
    for (((x, y), c), s) in x.chunks_exact(2).zip(y.chunks_exact_mut(2)).zip(cos).zip(sin) {
        let s = s * sign;
        y[0] = x[0] * c - x[1] * s;
        y[1] = x[1] * c + x[0] * s;
    }
}
