//! The loops around the microkernel: cache blocks and threads.

use rayon::prelude::*;

use super::micro::{self, MR, NR, Partial, Tile, max_panels};
use super::operand::{MatData, MatMut, MatRef};
use super::pack::{Block, Lanes, pack};
use super::workspace::with_buffer;
use crate::cpu::Isa;

/// Depth of a block: a panel of B (16 lanes) takes half of a 32 KiB first-level cache.
const KC: usize = 320;
/// Rows of a block of A: 144 × 320 floats are 180 KiB of a 512 KiB second-level cache.
const MC: usize = 144;
/// Columns of a block of B: 320 × 2048 floats are 2.5 MiB of the shared third-level cache.
const NC: usize = 2048;
/// Up to this many rows, a panel of B is used so little that it is packed and consumed by one thread.
const FEW_ROWS: usize = 24;
/// The same where B runs along its columns, whose pieces are shallower.
const FEW_ROWS_ALONG_COLUMNS: usize = 8;
/// Up to this many columns, rows of an f32 A are used so little that they are read where they are.
const FEW_COLUMNS: usize = 64;
/// Floats of B that a task with few rows packs at a time: 16 KiB of a 32 KiB first-level cache.
const PIECE: usize = 4096;
/// Columns of a strip where B runs along its depth; a piece is then 128 deep.
const STRIP_ALONG_DEPTH: usize = 32;
/// Columns of a strip where B runs along its columns: long runs for one or two rows; for more, deeper pieces,
/// since each carries the sums of all rows.
const STRIPS_ALONG_COLUMNS: [usize; 2] = [512, 128];
/// Panels of B packed by one task.
const PANELS_A_TASK: usize = 8;
/// Below this many multiply-adds, waking another thread costs more than it brings.
const PARALLEL_FROM: usize = 1 << 19;

/// A product to compute. `m`, `n` and `k` are at least 1.
pub(super) struct Product<'a> {
    isa: Isa,
    alpha: f32,
    a: Lanes<'a>,
    b: Lanes<'a>,
    beta: f32,
    c: Output,
    m: usize,
    n: usize,
    k: usize,
    threads: usize,
}

/// C, shared by tasks that write disjoint tiles of it.
#[derive(Clone, Copy)]
struct Output {
    start: *mut f32,
    ldc: usize,
}

// SAFETY: `Output` stands for the exclusive borrow of C that `Product::new` took; every task writes tiles
// of its own rows and columns.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

/// Depth of the blocks for a product of depth `k`: even blocks of at most [`KC`]. It depends on `k` alone,
/// since it decides in which order an element's terms are added. Whole NF4 blocks of 64 stay together.
fn block_depth(k: usize) -> usize {
    k.div_ceil(k.div_ceil(KC)).next_multiple_of(64)
}

impl<'a> Product<'a> {
    /// `c ← alpha · a · b + beta · c`; the shapes agree and no dimension is 0.
    pub fn new(
        isa: Isa,
        alpha: f32,
        a: MatRef<'a>,
        b: MatRef<'a>,
        beta: f32,
        c: &'a mut MatMut,
    ) -> Product<'a> {
        let (m, n, k) = (a.rows, b.cols, a.cols);
        let large = m.saturating_mul(n).saturating_mul(k) >= PARALLEL_FROM;
        Product {
            isa,
            alpha,
            a: Lanes::of_rows(a),
            b: Lanes::of_columns(b),
            beta,
            c: Output { start: c.data.as_mut_ptr(), ldc: c.row_stride },
            m,
            n,
            k,
            threads: if large { rayon::current_num_threads() } else { 1 },
        }
    }

    /// Computes the product.
    pub fn run(&self) {
        let few = if self.b_along_columns() { FEW_ROWS_ALONG_COLUMNS } else { FEW_ROWS };
        if self.m <= few { self.few_rows() } else { self.many_rows() }
    }

    /// Runs `task` for 0 .. `count`, over the pool if the product is worth it.
    fn for_each(&self, count: usize, task: impl Fn(usize) + Send + Sync) {
        if self.threads > 1 && count > 1 {
            (0..count).into_par_iter().with_max_len(1).for_each(task);
        } else {
            (0..count).for_each(task);
        }
    }

    /// The factor of C in the block that starts at depth `k0`: the first block applies `beta`.
    fn beta_at(&self, k0: usize) -> f32 {
        if k0 == 0 { self.beta } else { 1.0 }
    }

    /// A's rows as the microkernel may read them without packing, if it may.
    fn unpacked_a(&self) -> Option<&'a [f32]> {
        match self.a.data {
            MatData::F32(data) if self.a.depth_stride == 1 => Some(data),
            _ => None,
        }
    }

    /// Whether B is contiguous along its columns and not along its depth.
    fn b_along_columns(&self) -> bool {
        self.b.lane_stride == 1 && self.b.depth_stride != 1
    }

    /// The general case: for each block of B, packed once and shared, tasks take blocks of rows of C.
    fn many_rows(&self) {
        let kc_max = block_depth(self.k);
        let nc_max = NC.min(self.n.next_multiple_of(NR));
        let row_blocks = self.m.div_ceil(MC).next_multiple_of(self.threads).min(self.m.div_ceil(4 * MR));
        let mc_max = self.m.div_ceil(row_blocks).next_multiple_of(MR);
        let row_blocks = self.m.div_ceil(mc_max);
        with_buffer(kc_max * nc_max, |packed_b| {
            for n0 in (0..self.n).step_by(nc_max) {
                let nc = nc_max.min(self.n - n0);
                let panels = nc.div_ceil(NR);
                // Too few blocks of rows to keep the threads busy: cut the columns too.
                let column_blocks =
                    if row_blocks < self.threads { (2 * self.threads / row_blocks).min(panels) } else { 1 };
                let panels_a_block = panels.div_ceil(column_blocks);
                for k0 in (0..self.k).step_by(kc_max) {
                    let kc = kc_max.min(self.k - k0);
                    let packed_b = &mut packed_b[..panels * NR * kc];
                    self.pack_b(n0, nc, k0, kc, packed_b);
                    let packed_b = &*packed_b;
                    self.for_each(row_blocks * column_blocks, |task| {
                        let first_panel = task / row_blocks * panels_a_block;
                        if first_panel >= panels {
                            return;
                        }
                        let m0 = task % row_blocks * mc_max;
                        let mc = mc_max.min(self.m - m0);
                        let columns = first_panel * NR..((first_panel + panels_a_block) * NR).min(nc);
                        let b = &packed_b[first_panel * NR * kc..columns.end.div_ceil(NR) * NR * kc];
                        let area = Area { m0, mc, n0: n0 + columns.start, nc: columns.len(), kc };
                        let beta = self.beta_at(k0);
                        if let (Some(a), true) = (self.unpacked_a(), self.n <= FEW_COLUMNS) {
                            let a = RowsOfA::unpacked(&a[m0 * self.a.lane_stride + k0..], self.a.lane_stride);
                            self.multiply(area, a, b, beta, Partial::WHOLE);
                        } else {
                            with_buffer(mc.next_multiple_of(MR) * kc, |packed_a| {
                                let block = Block { lane0: m0, lanes: mc, k0, kc, ahead: 0 };
                                pack::<MR>(self.isa, &self.a, block, packed_a);
                                let a = RowsOfA::packed(packed_a, MR * kc);
                                self.multiply(area, a, b, beta, Partial::WHOLE);
                            });
                        }
                    });
                }
            }
        });
    }

    /// Packs `nc` columns from `n0`, depths `k0 .. k0 + kc`, over the pool.
    fn pack_b(&self, n0: usize, nc: usize, k0: usize, kc: usize, out: &mut [f32]) {
        let width = PANELS_A_TASK * NR;
        let pack_group = |(group, out): (usize, &mut [f32])| {
            let lanes = width.min(nc - group * width);
            pack::<NR>(self.isa, &self.b, Block { lane0: n0 + group * width, lanes, k0, kc, ahead: 0 }, out);
        };
        if self.threads > 1 && nc * kc >= PARALLEL_FROM / 16 {
            out.par_chunks_mut(width * kc).enumerate().for_each(pack_group);
        } else {
            out.chunks_mut(width * kc).enumerate().for_each(pack_group);
        }
    }

    /// Few rows: bound by reading B. A task owns a strip of columns; it packs a piece of the strip that fits
    /// its first-level cache, uses it at once for all rows, and carries the sums on to the next piece.
    fn few_rows(&self) {
        let kc_max = block_depth(self.k);
        // B is read in runs as long as they can be: along the depth, or along the columns.
        let strip = match self.b_along_columns() {
            false => STRIP_ALONG_DEPTH,
            true => STRIPS_ALONG_COLUMNS[usize::from(self.m > 2)],
        };
        let piece = PIECE / strip;
        let rows = self.m.next_multiple_of(MR);
        let run = |packed_a: Option<&[f32]>| {
            self.for_each(self.n.div_ceil(strip), |task| {
                let n0 = task * strip;
                let nc = strip.min(self.n - n0);
                with_buffer(PIECE + rows * strip, |buffer| {
                    let (packed_b, sums) = buffer.split_at_mut(PIECE);
                    for k0 in (0..self.k).step_by(kc_max) {
                        let end = self.k.min(k0 + kc_max);
                        let beta = self.beta_at(k0);
                        for k in (k0..end).step_by(piece) {
                            let kc = piece.min(end - k);
                            let b = &mut packed_b[..nc.div_ceil(NR) * NR * kc];
                            pack::<NR>(
                                self.isa,
                                &self.b,
                                Block { lane0: n0, lanes: nc, k0: k, kc, ahead: piece },
                                b,
                            );
                            let a = match (packed_a, self.unpacked_a()) {
                                (None, Some(a)) => RowsOfA::unpacked(&a[k..], self.a.lane_stride),
                                (packed, _) => {
                                    RowsOfA::packed(&packed.unwrap_or_default()[k * MR..], MR * self.k)
                                }
                            };
                            let partial = Partial {
                                sums: sums.as_mut_ptr(),
                                stride: strip,
                                resume: k > k0,
                                finish: k + kc == end,
                            };
                            self.multiply(Area { m0: 0, mc: self.m, n0, nc, kc }, a, b, beta, partial);
                        }
                    }
                });
            });
        };
        if self.unpacked_a().is_some() {
            run(None);
        } else {
            with_buffer(rows * self.k, |packed_a| {
                let block = Block { lane0: 0, lanes: self.m, k0: 0, kc: self.k, ahead: 0 };
                pack::<MR>(self.isa, &self.a, block, packed_a);
                run(Some(packed_a));
            });
        }
    }

    /// Multiplies rows of A by packed panels of B into an area of C, tile by tile. The panels of B are the
    /// outer loop: one stays in the first-level cache while the rows of A pass by from the second.
    fn multiply(&self, area: Area, a: RowsOfA, b: &[f32], beta: f32, partial: Partial) {
        let Area { m0, mc, n0, nc, kc } = area;
        debug_assert_eq!(b.len(), nc.div_ceil(NR) * NR * kc);
        debug_assert!(m0 + mc <= self.m && n0 + nc <= self.n);
        let width = NR * max_panels(mc.min(MR));
        for j in (0..nc).step_by(width) {
            let columns = width.min(nc - j);
            for i in (0..mc).step_by(MR) {
                let mr = MR.min(mc - i);
                let step = NR * max_panels(mr).min(width / NR);
                for jj in (0..columns).step_by(step) {
                    let nr = step.min(columns - jj);
                    let tile = Tile {
                        kc,
                        a: a.rows(i),
                        a_row_stride: a.row_stride,
                        a_col_stride: a.col_stride,
                        b: b[(j + jj) * kc..].as_ptr(),
                        panels: nr.div_ceil(NR),
                        c: self.c.start.wrapping_add((m0 + i) * self.c.ldc + n0 + j + jj),
                        ldc: self.c.ldc,
                        mr,
                        nr,
                        alpha: self.alpha,
                        beta,
                        partial: Partial {
                            sums: partial.sums.wrapping_add(i * partial.stride + j + jj),
                            ..partial
                        },
                    };
                    // SAFETY: rows m0+i .. +mr and columns n0+j+jj .. +nr lie inside C (checked by
                    // `MatMut::new`) and belong to this task alone, as do the sums of all its rows and
                    // columns; `a` holds mr rows of kc elements and `b` the panels of these columns; `isa` is
                    // one the machine offers.
                    unsafe { micro::run(self.isa, &tile) };
                }
            }
        }
    }
}

/// A part of the product: rows `m0 .. m0+mc` and columns `n0 .. n0+nc` of C over `kc` depths.
#[derive(Clone, Copy)]
struct Area {
    m0: usize,
    mc: usize,
    n0: usize,
    nc: usize,
    kc: usize,
}

/// Rows of A as the microkernel reads them.
#[derive(Clone, Copy)]
struct RowsOfA<'a> {
    data: &'a [f32],
    row_stride: usize,
    col_stride: usize,
    /// Distance of groups of [`MR`] rows.
    group_stride: usize,
}

impl<'a> RowsOfA<'a> {
    fn packed(data: &'a [f32], group_stride: usize) -> RowsOfA<'a> {
        RowsOfA { data, row_stride: 1, col_stride: MR, group_stride }
    }

    fn unpacked(data: &'a [f32], row_stride: usize) -> RowsOfA<'a> {
        RowsOfA { data, row_stride, col_stride: 1, group_stride: MR * row_stride }
    }

    /// The group of rows that starts at row `i`, a multiple of [`MR`].
    fn rows(&self, i: usize) -> *const f32 {
        self.data[i / MR * self.group_stride..].as_ptr()
    }
}
