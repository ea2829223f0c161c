//! `mma.sync`: D = A·B + C on the fragments of a warp.
//!
//! All layouts of the PTX ISA's `mma.m16n8k*` (and `m8n8k*`) family follow one rule. With E elements
//! in a 32-bit register (tf32: 1, f16 and bf16: 2, 8-bit: 4, 4-bit: 8), one register of all 32 lanes,
//! read lane by lane, *is* a row-major block of 8 rows by 4E columns: lane L holds row L/4, columns
//! E(L mod 4)…. Registers of A tile the 16 rows first (0: upper half, 1: lower half), then k; registers
//! of B hold Bᵀ (row = n) and tile k. The accumulators c0, c1 are row L/4, columns 2(L mod 4) and
//! 2(L mod 4)+1; c2, c3 the same eight rows below. The tests check this rule against the ISA's own
//! formulas.
//!
//! Products are exact in f32; they are added in f32, k ascending, starting with C. The hardware adds
//! several products at once with fewer guard bits and truncates, so its last bits differ: neither is
//! specified by the ISA ("accumulation order and rounding are unspecified").

use super::convert::f8_to_f32;
use super::exact::{E4M3, E5M2};
use super::half2::{bf16_to_f32, f16_to_f32, f32_to_f16};
pub use super::tensor::Mma;

/// The element type of A and B in a floating-point `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaFloat {
    /// `.f16`, two a register.
    F16,
    /// `.bf16`, two a register.
    Bf16,
    /// `.tf32`, one a register; the low 13 bits are ignored.
    Tf32,
    /// `.e4m3`, four a register.
    E4m3,
    /// `.e5m2`, four a register.
    E5m2,
}

impl MmaFloat {
    /// Elements in a 32-bit register.
    pub fn packed(self) -> usize {
        match self {
            MmaFloat::Tf32 => 1,
            MmaFloat::F16 | MmaFloat::Bf16 => 2,
            MmaFloat::E4m3 | MmaFloat::E5m2 => 4,
        }
    }

    #[inline(always)]
    pub(super) fn element(self, word: u32, index: usize) -> f32 {
        match self {
            MmaFloat::Tf32 => f32::from_bits(word & 0xffff_e000),
            MmaFloat::F16 => f16_to_f32((word >> (16 * index)) as u16),
            MmaFloat::Bf16 => bf16_to_f32((word >> (16 * index)) as u16),
            MmaFloat::E4m3 => f8_to_f32((word >> (8 * index)) as u8, E4M3),
            MmaFloat::E5m2 => f8_to_f32((word >> (8 * index)) as u8, E5M2),
        }
    }
}

/// The element type of A or B in an integer `mma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MmaInteger {
    /// `.u8`.
    U8,
    /// `.s8`.
    S8,
    /// `.u4`.
    U4,
    /// `.s4`.
    S4,
}

impl MmaInteger {
    /// Elements in a 32-bit register.
    pub fn packed(self) -> usize {
        match self {
            MmaInteger::U8 | MmaInteger::S8 => 4,
            MmaInteger::U4 | MmaInteger::S4 => 8,
        }
    }

    #[inline(always)]
    pub(super) fn element(self, word: u32, index: usize) -> i32 {
        match self {
            MmaInteger::U8 => i32::from((word >> (8 * index)) as u8),
            MmaInteger::S8 => i32::from((word >> (8 * index)) as u8 as i8),
            MmaInteger::U4 => (word >> (4 * index) & 15) as i32,
            MmaInteger::S4 => ((word >> (4 * index)) << 28) as i32 >> 28,
        }
    }
}

/// The largest k of any shape (`m16n8k64` of 4-bit integers).
const MAX_K: usize = 64;

/// Spreads A's registers into 16 rows of `k` columns; `halves` is 2 for m16, 1 for m8.
#[inline(always)]
fn gather_a<T: Copy>(
    registers: &[[u32; 32]],
    packed: usize,
    halves: usize,
    element: impl Fn(u32, usize) -> T,
    tile: &mut [[T; MAX_K]; 16],
) {
    for (index, register) in registers.iter().enumerate() {
        let first_row = 8 * (index % halves);
        let first_column = 4 * packed * (index / halves);
        for (group, words) in register.chunks_exact(4).enumerate() {
            let row = &mut tile[first_row + group];
            for (member, &word) in words.iter().enumerate() {
                for e in 0..packed {
                    row[first_column + packed * member + e] = element(word, e);
                }
            }
        }
    }
}

/// Spreads B's registers into `k` rows of 8 columns.
#[inline(always)]
fn gather_b<T: Copy>(
    registers: &[[u32; 32]],
    packed: usize,
    element: impl Fn(u32, usize) -> T,
    tile: &mut [[T; 8]; MAX_K],
) {
    for (index, register) in registers.iter().enumerate() {
        for member in 0..4 {
            for e in 0..packed {
                let row = &mut tile[4 * packed * index + packed * member + e];
                for (column, value) in row.iter_mut().enumerate() {
                    *value = element(register[4 * column + member], e);
                }
            }
        }
    }
}

#[inline(always)]
fn multiply_rows(a: &[[f32; MAX_K]; 16], b: &[[f32; 8]; MAX_K], k: usize, c: &mut [[f32; 8]; 16]) {
    for (row, sums) in a.iter().zip(c.iter_mut()) {
        let mut total = *sums;
        for (x, column) in row[..k].iter().zip(&b[..k]) {
            for n in 0..8 {
                total[n] += x * column[n];
            }
        }
        *sums = total;
    }
}

#[inline(always)]
fn float_tiles(element: MmaFloat, a: &[[u32; 32]], b: &[[u32; 32]], c: &mut [[f32; 8]; 16]) {
    let mut rows = [[0.0; MAX_K]; 16];
    let mut columns = [[0.0; 8]; MAX_K];
    // One arm a type, so that each conversion is inlined into its own loop.
    match element {
        MmaFloat::F16 => {
            gather_a(a, 2, 2, |w, e| MmaFloat::F16.element(w, e), &mut rows);
            gather_b(b, 2, |w, e| MmaFloat::F16.element(w, e), &mut columns);
        }
        MmaFloat::Bf16 => {
            gather_a(a, 2, 2, |w, e| MmaFloat::Bf16.element(w, e), &mut rows);
            gather_b(b, 2, |w, e| MmaFloat::Bf16.element(w, e), &mut columns);
        }
        MmaFloat::Tf32 => {
            gather_a(a, 1, 2, |w, e| MmaFloat::Tf32.element(w, e), &mut rows);
            gather_b(b, 1, |w, e| MmaFloat::Tf32.element(w, e), &mut columns);
        }
        MmaFloat::E4m3 | MmaFloat::E5m2 => {
            gather_a(a, 4, 2, |w, e| element.element(w, e), &mut rows);
            gather_b(b, 4, |w, e| element.element(w, e), &mut columns);
        }
    }
    multiply_rows(&rows, &columns, 4 * element.packed() * b.len(), c);
}

/// `mma.sync.m16n8k*.row.col.f32.T.T.f32`: k is 4E times the registers of B, so `a` has two registers
/// for each of `b`.
///
/// Shapes: `m16n8k4`/`k8` tf32, `m16n8k8`/`k16` f16 and bf16, `m16n8k16`/`k32` e4m3 and e5m2.
pub fn mma_f32(element: MmaFloat, a: &[[u32; 32]], b: &[[u32; 32]], c: &[[f32; 32]; 4]) -> [[f32; 32]; 4] {
    let mut tile = [[0.0; 8]; 16];
    for lane in 0..32 {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        tile[row][column] = c[0][lane];
        tile[row][column + 1] = c[1][lane];
        tile[row + 8][column] = c[2][lane];
        tile[row + 8][column + 1] = c[3][lane];
    }
    float_tiles(element, a, b, &mut tile);
    let mut d = [[0.0; 32]; 4];
    for lane in 0..32 {
        let (row, column) = (lane / 4, 2 * (lane % 4));
        d[0][lane] = tile[row][column];
        d[1][lane] = tile[row][column + 1];
        d[2][lane] = tile[row + 8][column];
        d[3][lane] = tile[row + 8][column + 1];
    }
    d
}

/// `mma.sync.m16n8k8/k16.row.col.f16.f16.f16.f16`: C and D are two registers of two halves each.
/// Sums are kept in f32 and rounded to f16 once.
pub fn mma_f16(a: &[[u32; 32]], b: &[[u32; 32]], c: &[[u32; 32]; 2]) -> [[u32; 32]; 2] {
    let mut wide = [[0.0; 32]; 4];
    for lane in 0..32 {
        for half in 0..4 {
            wide[half][lane] = f16_to_f32((c[half / 2][lane] >> (16 * (half % 2))) as u16);
        }
    }
    let sums = mma_f32(MmaFloat::F16, a, b, &wide);
    let mut d = [[0; 32]; 2];
    for lane in 0..32 {
        for half in 0..4 {
            d[half / 2][lane] |= u32::from(f32_to_f16(sums[half][lane])) << (16 * (half % 2));
        }
    }
    d
}

/// `mma.sync.m16n8k16/k32.row.col{.satfinite}.s32.T.T.s32` of 8-bit and `k32/k64` of 4-bit integers.
/// Sums wrap, or clamp at the end with `saturate`. `a` has two registers for each of `b`.
pub fn mma_s32(
    a_element: MmaInteger,
    b_element: MmaInteger,
    a: &[[u32; 32]],
    b: &[[u32; 32]],
    c: &[[u32; 32]; 4],
    saturate: bool,
) -> [[u32; 32]; 4] {
    integer_mma(a_element, b_element, a, b, c, saturate, 2)
}

/// `mma.sync.m8n8k16` (8-bit) and `m8n8k32` (4-bit): one register each of A and B, two of C.
pub fn mma_s32_m8(
    a_element: MmaInteger,
    b_element: MmaInteger,
    a: &[u32; 32],
    b: &[u32; 32],
    c: &[[u32; 32]; 2],
    saturate: bool,
) -> [[u32; 32]; 2] {
    let c = [c[0], c[1], [0; 32], [0; 32]];
    let [d0, d1, ..] = integer_mma(a_element, b_element, &[*a], &[*b], &c, saturate, 1);
    [d0, d1]
}

fn integer_mma(
    a_element: MmaInteger,
    b_element: MmaInteger,
    a: &[[u32; 32]],
    b: &[[u32; 32]],
    c: &[[u32; 32]; 4],
    saturate: bool,
    halves: usize,
) -> [[u32; 32]; 4] {
    let packed = b_element.packed();
    let mut rows = [[0i32; MAX_K]; 16];
    let mut columns = [[0i32; 8]; MAX_K];
    gather_a(a, packed, halves, |w, e| a_element.element(w, e), &mut rows);
    gather_b(b, packed, |w, e| b_element.element(w, e), &mut columns);
    let k = 4 * packed * b.len();
    let mut d = *c;
    for (half, row) in (0..8 * halves).map(|row| (row / 8, row)) {
        // At most 64 products of 16 bits: the partial sum fits.
        let mut sums = [0i32; 8];
        for (x, column) in rows[row][..k].iter().zip(&columns[..k]) {
            for n in 0..8 {
                sums[n] += x * column[n];
            }
        }
        for (n, &sum) in sums.iter().enumerate() {
            let slot = &mut d[2 * half + n % 2][4 * (row % 8) + n / 2];
            let start = *slot as i32;
            *slot = if saturate { start.saturating_add(sum) } else { start.wrapping_add(sum) } as u32;
        }
    }
    d
}

/// `mma.sync.m8n8k4.row.col.f64.f64.f64.f64` and, from sm_90, `m16n8k4/k8/k16`.
///
/// The same rule as above with one element a register: register i of A holds rows 8(i mod h)…,
/// columns 4(i / h)… for h = 1 (m8) or 2 (m16); `c` and `d` have two or four registers.
pub fn mma_f64(a: &[[f64; 32]], b: &[[f64; 32]], c: &[[f64; 32]], d: &mut [[f64; 32]]) {
    let halves = c.len() / 2;
    for (i, (sums, starts)) in d.iter_mut().zip(c).enumerate() {
        for (lane, sum) in sums.iter_mut().enumerate() {
            let (row, column) = (lane / 4, 2 * (lane % 4) + i % 2);
            *sum = starts[lane];
            for (step, b) in b.iter().enumerate() {
                let a = &a[step * halves + i / 2];
                for k in 0..4 {
                    *sum = a[4 * row + k].mul_add(b[4 * column + k], *sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small value that every format here holds exactly.
    fn value(i: usize, j: usize, salt: usize) -> i32 {
        ((i * 7 + j * 5 + salt * 3 + i * j) % 15) as i32 - 7
    }

    /// Row of a_i and column of a_i, row of b_i (k), by the ISA's formulas, for 16-bit m16n8k16.
    fn isa_a16(lane: usize, i: usize) -> (usize, usize) {
        let group = lane >> 2;
        let row = if (0..2).contains(&i) || (4..6).contains(&i) { group } else { group + 8 };
        let column = (lane % 4) * 2 + (i & 1) + if i >= 4 { 8 } else { 0 };
        (row, column)
    }
    fn isa_b16(lane: usize, i: usize) -> (usize, usize) {
        ((lane % 4) * 2 + (i & 1) + if i >= 2 { 8 } else { 0 }, lane >> 2)
    }
    /// For 8-bit m16n8k32.
    fn isa_a8(lane: usize, i: usize) -> (usize, usize) {
        let group = lane >> 2;
        let upper = (0..4).contains(&i) || (8..12).contains(&i);
        let row = if upper { group } else { group + 8 };
        (row, (lane % 4) * 4 + (i & 3) + if i < 8 { 0 } else { 16 })
    }
    fn isa_b8(lane: usize, i: usize) -> (usize, usize) {
        ((lane % 4) * 4 + (i & 3) + if i < 4 { 0 } else { 16 }, lane >> 2)
    }
    /// For tf32 m16n8k8.
    fn isa_a32(lane: usize, i: usize) -> (usize, usize) {
        let row = if i == 0 || i == 2 { lane >> 2 } else { (lane >> 2) + 8 };
        (row, lane % 4 + if i < 2 { 0 } else { 4 })
    }
    fn isa_b32(lane: usize, i: usize) -> (usize, usize) {
        (lane % 4 + 4 * i, lane >> 2)
    }
    /// For 4-bit m16n8k64.
    fn isa_a4(lane: usize, i: usize) -> (usize, usize) {
        let group = lane >> 2;
        let upper = (0..8).contains(&i) || (16..24).contains(&i);
        let row = if upper { group } else { group + 8 };
        (row, (lane % 4) * 8 + (i & 7) + if i < 16 { 0 } else { 32 })
    }
    fn isa_b4(lane: usize, i: usize) -> (usize, usize) {
        ((lane % 4) * 8 + (i & 7) + if i < 8 { 0 } else { 32 }, lane >> 2)
    }
    fn isa_c(lane: usize, i: usize) -> (usize, usize) {
        ((lane >> 2) + if i < 2 { 0 } else { 8 }, (lane % 4) * 2 + (i & 1))
    }

    fn fill(
        registers: usize,
        packed: usize,
        place: impl Fn(usize, usize) -> (usize, usize),
        encode: impl Fn(i32) -> u32,
        salt: usize,
    ) -> Vec<[u32; 32]> {
        let mut out = vec![[0; 32]; registers];
        for lane in 0..32 {
            for i in 0..registers * packed {
                let (row, column) = place(lane, i);
                out[i / packed][lane] |= encode(value(row, column, salt)) << (32 / packed * (i % packed));
            }
        }
        out
    }

    fn expected(k: usize, c: impl Fn(usize, usize) -> i32, row: usize, column: usize) -> i32 {
        c(row, column) + (0..k).map(|i| value(row, i, 1) * value(i, column, 2)).sum::<i32>()
    }

    fn check_f32(element: MmaFloat, k: usize, a: &[[u32; 32]], b: &[[u32; 32]]) {
        let mut c = [[0.0; 32]; 4];
        for (i, register) in c.iter_mut().enumerate() {
            for (lane, x) in register.iter_mut().enumerate() {
                let (row, column) = isa_c(lane, i);
                *x = (row * 100 + column) as f32;
            }
        }
        let d = mma_f32(element, a, b, &c);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = isa_c(lane, i);
                let want = expected(k, |r, c| (r * 100 + c) as i32, row, column);
                assert_eq!(d[i][lane], want as f32, "{element:?} k{k} lane {lane} c{i}");
            }
        }
    }

    #[test]
    fn sixteen_bit_layouts_are_those_of_the_isa() {
        let bf16 = |v: i32| (v as f32).to_bits() >> 16;
        let f16 = |v: i32| u32::from(half::f16::from_f32(v as f32).to_bits());
        check_f32(MmaFloat::Bf16, 16, &fill(4, 2, isa_a16, bf16, 1), &fill(2, 2, isa_b16, bf16, 2));
        check_f32(MmaFloat::F16, 16, &fill(4, 2, isa_a16, f16, 1), &fill(2, 2, isa_b16, f16, 2));
        // m16n8k8: the first half of the k16 layout.
        check_f32(MmaFloat::Bf16, 8, &fill(2, 2, isa_a16, bf16, 1), &fill(1, 2, isa_b16, bf16, 2));
        check_f32(MmaFloat::F16, 8, &fill(2, 2, isa_a16, f16, 1), &fill(1, 2, isa_b16, f16, 2));
    }

    #[test]
    fn tf32_and_f8_layouts_are_those_of_the_isa() {
        // The 13 bits below tf32's mantissa must not matter.
        let tf32 = |v: i32| (v as f32).to_bits() | 0x1fff;
        let exact = |v: i32| (v as f32).to_bits();
        check_f32(MmaFloat::Tf32, 8, &fill(4, 1, isa_a32, tf32, 1), &fill(2, 1, isa_b32, tf32, 2));
        check_f32(MmaFloat::Tf32, 4, &fill(2, 1, isa_a32, exact, 1), &fill(1, 1, isa_b32, exact, 2));
        for (element, format) in [(MmaFloat::E4m3, E4M3), (MmaFloat::E5m2, E5M2)] {
            // e5m2 has three significant bits: halve the range by rounding towards zero.
            let encode = |v: i32| {
                let number = crate::semantics::exact::unpack(
                    u64::from((v as f32).to_bits()),
                    crate::semantics::exact::F32,
                );
                crate::semantics::exact::round(number, format, Default::default()) as u32
            };
            check_f32(element, 32, &fill(4, 4, isa_a8, encode, 1), &fill(2, 4, isa_b8, encode, 2));
        }
    }

    #[test]
    fn integer_layouts_are_those_of_the_isa() {
        let c = [[5; 32]; 4];
        let s8 = |v: i32| v as u32 & 0xff;
        let s4 = |v: i32| v as u32 & 0xf;
        let cases = [
            (MmaInteger::S8, 32, fill(4, 4, isa_a8, s8, 1), fill(2, 4, isa_b8, s8, 2)),
            (MmaInteger::S8, 16, fill(2, 4, isa_a8, s8, 1), fill(1, 4, isa_b8, s8, 2)),
            (MmaInteger::S4, 64, fill(4, 8, isa_a4, s4, 1), fill(2, 8, isa_b4, s4, 2)),
            (MmaInteger::S4, 32, fill(2, 8, isa_a4, s4, 1), fill(1, 8, isa_b4, s4, 2)),
        ];
        for (element, k, a, b) in cases {
            let d = mma_s32(element, element, &a, &b, &c, false);
            for lane in 0..32 {
                for i in 0..4 {
                    let (row, column) = isa_c(lane, i);
                    let want = expected(k, |_, _| 5, row, column);
                    assert_eq!(d[i][lane] as i32, want, "{element:?} k{k}");
                }
            }
        }
    }

    #[test]
    fn small_integer_shape_and_saturation() {
        let s8 = |v: i32| v as u32 & 0xff;
        let place = |lane: usize, i: usize| (lane >> 2, (lane % 4) * 4 + i);
        let a = fill(1, 4, place, s8, 1);
        let b = fill(1, 4, |lane, i| ((lane % 4) * 4 + i, lane >> 2), s8, 2);
        let d = mma_s32_m8(MmaInteger::S8, MmaInteger::S8, &a[0], &b[0], &[[1; 32]; 2], false);
        for lane in 0..32 {
            for i in 0..2 {
                let want = expected(16, |_, _| 1, lane >> 2, (lane % 4) * 2 + i);
                assert_eq!(d[i][lane] as i32, want);
            }
        }
        let ones = [[0x0101_0101; 32]; 2];
        let top = [[i32::MAX as u32 - 3; 32]; 4];
        let u8s = MmaInteger::U8;
        assert_eq!(mma_s32(u8s, u8s, &ones, &ones[..1], &top, true)[3][9], i32::MAX as u32);
        let wrapped = (i32::MAX - 3).wrapping_add(16) as u32;
        assert_eq!(mma_s32(u8s, u8s, &ones, &ones[..1], &top, false)[3][9], wrapped);
    }

    #[test]
    fn f16_accumulators_and_f64() {
        let f16 = |v: i32| u32::from(half::f16::from_f32(v as f32).to_bits());
        let (a, b) = (fill(4, 2, isa_a16, f16, 1), fill(2, 2, isa_b16, f16, 2));
        let d = mma_f16(&a, &b, &[[f16(3) | f16(3) << 16; 32]; 2]);
        for lane in 0..32 {
            for i in 0..4 {
                let (row, column) = isa_c(lane, i);
                let got = half::f16::from_bits((d[i / 2][lane] >> (16 * (i % 2))) as u16).to_f32();
                assert_eq!(got, expected(16, |_, _| 3, row, column) as f32);
            }
        }
        let mut a = [0.0; 32];
        let mut b = [0.0; 32];
        for lane in 0..32 {
            a[lane] = f64::from(value(lane / 4, lane % 4, 1));
            b[lane] = f64::from(value(lane % 4, lane / 4, 2));
        }
        let mut d = [[0.0; 32]; 2];
        mma_f64(&[a], &[b], &[[2.0; 32]; 2], &mut d);
        for lane in 0..32 {
            for i in 0..2 {
                let want = expected(4, |_, _| 2, lane / 4, 2 * (lane % 4) + i);
                assert_eq!(d[i][lane], f64::from(want));
            }
        }
    }
}
