//! Row gather and its transpose, the scatter-add, on the CPU.

use medley_tensor::Layout;
use medley_tensor::quant::Nf4Ref;
use rayon::prelude::*;

/// Rows are handed to threads in groups of about this many elements.
const GRAIN: usize = 1 << 14;

/// Which rows of which matrix `[V, h]` to take.
pub(crate) struct Rows<'a> {
    pub(crate) ids: &'a [u32],
    pub(crate) h: usize,
    pub(crate) layout: &'a Layout,
}

impl Rows<'_> {
    /// Calls `row(start, out_row)` for every id, `start` being the storage index of the row.
    fn each(&self, out: &mut [f32], row: impl Fn(usize, &mut [f32]) + Sync) {
        if self.h == 0 {
            return;
        }
        let group = (GRAIN / self.h).max(1);
        let (offset, stride) = (self.layout.offset(), self.layout.strides()[0]);
        (out.par_chunks_mut(self.h * group), self.ids.par_chunks(group)).into_par_iter().for_each(|(out, ids)| {
            for (out, &id) in out.chunks_mut(self.h).zip(ids) {
                row(offset + id as usize * stride, out);
            }
        });
    }

    /// Rows of a plain storage, widened to f32.
    pub(crate) fn gather<T: Copy + Sync>(&self, out: &mut [f32], data: &[T], widen: impl Fn(T) -> f32 + Sync) {
        let step = self.layout.strides()[1];
        self.each(out, |start, out| {
            if step == 1 {
                out.iter_mut().zip(&data[start..]).for_each(|(o, v)| *o = widen(*v));
            } else {
                out.iter_mut().enumerate().for_each(|(j, o)| *o = widen(data[start + j * step]));
            }
        });
    }

    /// Rows of an NF4 matrix, decoded.
    pub(crate) fn gather_nf4(&self, out: &mut [f32], matrix: Nf4Ref) {
        self.each(out, |start, out| matrix.dequantize_range(start, out));
    }
}

/// `dw[id] = Σ dy[t]` over the tokens `t` with `ids[t] == id`, zero where there is none. Each row is
/// summed by one thread in the order of the tokens, so the result does not depend on the threads.
pub(crate) fn scatter_add(ids: &[u32], dy: &[f32], h: usize, dw: &mut [f32]) {
    if h == 0 {
        return;
    }
    let mut order: Vec<(u32, u32)> = ids.iter().zip(0u32..).map(|(id, t)| (*id, t)).collect();
    order.par_sort_unstable();
    let group = (GRAIN / h).max(1);
    dw.par_chunks_mut(h * group).enumerate().for_each(|(block, dw)| {
        dw.fill(0.0);
        let first = block * group;
        let from = order.partition_point(|(id, _)| (*id as usize) < first);
        for &(id, t) in order[from..].iter().take_while(|(id, _)| (*id as usize) < first + group) {
            let row = &mut dw[(id as usize - first) * h..][..h];
            row.iter_mut().zip(&dy[t as usize * h..]).for_each(|(w, g)| *w += g);
        }
    });
}
