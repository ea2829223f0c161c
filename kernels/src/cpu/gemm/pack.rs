//! Packing: a block of an operand of any storage type becomes panels of f32.
//!
//! ```text
//! operand (lanes × depth)                    panel p: kc rows of W lanes, contiguous
//!   lane = row of A, column of B    ──►      k=0: lane pW … pW+W-1 │ k=1: lane pW … │ …
//! ```
//! A is packed with W = 6, B with W = 16. Lanes past the end of the operand hold anything: they feed only
//! elements of the tile that are never stored.

use super::operand::{MatData, MatRef};
use crate::cpu::Isa;

/// An operand seen along the depth of the product: `lanes` × `depth`.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    pub data: MatData<'a>,
    pub lanes: usize,
    pub lane_stride: usize,
    pub depth_stride: usize,
}

impl<'a> Lanes<'a> {
    /// A (m × k): a lane is a row.
    pub fn of_rows(a: MatRef<'a>) -> Lanes<'a> {
        Lanes { data: a.data, lanes: a.rows, lane_stride: a.row_stride, depth_stride: a.col_stride }
    }

    /// B (k × n): a lane is a column.
    pub fn of_columns(b: MatRef<'a>) -> Lanes<'a> {
        Lanes { data: b.data, lanes: b.cols, lane_stride: b.col_stride, depth_stride: b.row_stride }
    }
}

/// What part of an operand to pack: lanes `lane0 .. lane0 + lanes`, depths `k0 .. k0 + kc`.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub lane0: usize,
    pub lanes: usize,
    pub k0: usize,
    pub kc: usize,
    /// How many depths ahead of those packed to ask the memory for, 0 for none: a hint for operands that are
    /// read a piece at a time, too short for the hardware to notice where the next is.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub ahead: usize,
}

/// Packs `block` of `src` into panels of `W` lanes; `out` holds `block.lanes.div_ceil(W)` panels of `kc`·`W`.
pub(super) fn pack<const W: usize>(isa: Isa, src: &Lanes, block: Block, out: &mut [f32]) {
    debug_assert_eq!(out.len(), block.lanes.div_ceil(W) * W * block.kc);
    debug_assert!(block.lane0 + block.lanes <= src.lanes);
    match isa {
        // SAFETY: the machine has AVX2, FMA and F16C (`Isa::Avx2` is handed out only then); `MatRef::new`
        // checked that every element of the operand lies inside its slice, and the block lies inside it.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { super::pack_avx2::pack::<W>(src, block, out) },
        _ => pack_portable::<W>(src, block, out),
    }
}

/// Packs an element at a time.
pub(super) fn pack_portable<const W: usize>(src: &Lanes, block: Block, out: &mut [f32]) {
    match src.data {
        MatData::F32(data) => pack_with::<W>(|i| data[i], src, block, out),
        MatData::Bf16(data) => pack_with::<W>(|i| data[i].to_f32(), src, block, out),
        MatData::F16(data) => pack_with::<W>(|i| data[i].to_f32(), src, block, out),
        MatData::Nf4(_) => pack_with::<W>(|i| src.data.get(i), src, block, out),
    }
}

fn pack_with<const W: usize>(get: impl Fn(usize) -> f32, src: &Lanes, block: Block, out: &mut [f32]) {
    for (p, panel) in out.chunks_exact_mut(W * block.kc).enumerate() {
        let lanes: [usize; W] =
            std::array::from_fn(|j| (block.lane0 + (p * W + j).min(block.lanes - 1)) * src.lane_stride);
        for (k, row) in panel.chunks_exact_mut(W).enumerate() {
            let depth = (block.k0 + k) * src.depth_stride;
            for (value, lane) in row.iter_mut().zip(lanes) {
                *value = get(lane + depth);
            }
        }
    }
}
