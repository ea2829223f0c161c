//! Packing with AVX2 and F16C: 8×8 transposes in registers where the operand runs along the depth, straight
//! copies where it runs along the lanes.
//!
//! Parts of the loops are `#[inline(always)]` functions without a target feature of their own: they take that
//! of the function they end up in. Vectors stay out of closures and of calls, which would pass them in memory.

use std::arch::x86_64::*;

use half::{bf16, f16};

use super::micro::NR;
use super::operand::MatData;
use super::pack::{Block, Lanes, pack_portable};

/// A storage type that is widened to f32 while it is read.
trait Load: Copy {
    /// How many depths [`Load::transpose`] takes at once.
    const DEPTHS: usize;
    /// Reads eight consecutive elements.
    ///
    /// # Safety
    /// Eight elements at `src` are readable; the machine has AVX2 and F16C.
    unsafe fn load8(src: *const Self) -> __m256;
    /// Reads [`Load::DEPTHS`] elements of eight rows and writes element k of every row, eight floats, at
    /// `to + k·step`.
    ///
    /// # Safety
    /// The elements at `rows` are readable and the floats at `to` writable; the machine has AVX2 and F16C.
    unsafe fn transpose(rows: &[*const Self; 8], to: *mut f32, step: usize);
    /// One element in f32.
    fn widen(self) -> f32;
}

impl Load for f32 {
    const DEPTHS: usize = 8;
    #[inline(always)]
    unsafe fn load8(src: *const f32) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_loadu_ps(src) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &[*const f32; 8], to: *mut f32, step: usize) {
        // SAFETY: the caller's contract.
        unsafe {
            for (k, column) in transpose8(rows).into_iter().enumerate() {
                _mm256_storeu_ps(to.add(k * step), column);
            }
        }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Load for bf16 {
    const DEPTHS: usize = 16;
    #[inline(always)]
    unsafe fn load8(src: *const bf16) -> __m256 {
        // SAFETY: the caller's contract. A bfloat16 is the upper half of an f32.
        unsafe {
            let bits = _mm_loadu_si128(src.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &[*const bf16; 8], to: *mut f32, step: usize) {
        // SAFETY: the caller's contract. A lane of a transposed pair holds depth 2q in its low half and
        // depth 2q + 1 in its high half.
        unsafe {
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            for (q, pair) in transpose8(rows).into_iter().enumerate() {
                let pair = _mm256_castps_si256(pair);
                let (even, odd) = (to.add(2 * q * step), to.add((2 * q + 1) * step));
                _mm256_storeu_ps(even, _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pair)));
                _mm256_storeu_ps(odd, _mm256_castsi256_ps(_mm256_and_si256(pair, high)));
            }
        }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Load for f16 {
    const DEPTHS: usize = 16;
    #[inline(always)]
    unsafe fn load8(src: *const f16) -> __m256 {
        // SAFETY: the caller's contract.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(src.cast())) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &[*const f16; 8], to: *mut f32, step: usize) {
        // SAFETY: the caller's contract; pairs as for bf16.
        unsafe {
            let low = _mm256_set1_epi32(0xffff);
            for (q, pair) in transpose8(rows).into_iter().enumerate() {
                let pair = _mm256_castps_si256(pair);
                let (even, odd) = (to.add(2 * q * step), to.add((2 * q + 1) * step));
                // Low halves then high halves in each 128-bit part; the permutation gathers the parts.
                let halves = _mm256_packus_epi32(_mm256_and_si256(pair, low), _mm256_srli_epi32::<16>(pair));
                let halves = _mm256_permute4x64_epi64::<0b11_01_10_00>(halves);
                _mm256_storeu_ps(even, _mm256_cvtph_ps(_mm256_castsi256_si128(halves)));
                _mm256_storeu_ps(odd, _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves)));
            }
        }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// See [`super::pack::pack`].
///
/// # Safety
/// AVX2, FMA and F16C are there; every element of `block` lies inside the operand's slice.
pub(super) unsafe fn pack<const W: usize>(src: &Lanes, block: Block, out: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe {
        match src.data {
            MatData::F32(data) => pack_typed::<W, f32>(data, src, block, out),
            MatData::Bf16(data) => pack_typed::<W, bf16>(data, src, block, out),
            MatData::F16(data) => pack_typed::<W, f16>(data, src, block, out),
            MatData::Nf4(data) => {
                if W != NR || !super::pack_nf4_avx2::pack(&data, src, block, out) {
                    pack_portable::<W>(src, block, out);
                }
            }
        }
    }
}

/// # Safety
/// As [`pack`]; `data` is the slice of `src`.
unsafe fn pack_typed<const W: usize, T: Load>(data: &[T], src: &Lanes, block: Block, out: &mut [f32]) {
    // SAFETY: the caller's contract.
    unsafe {
        if src.depth_stride == 1 {
            pack_along_depth::<W, T>(data, src.lane_stride, block, out);
        } else if src.lane_stride == 1 {
            pack_along_lanes::<W, T>(data, src.depth_stride, block, out);
        } else {
            pack_portable::<W>(src, block, out);
        }
    }
}

/// The operand's depth is contiguous: eight lanes by eight depths are transposed in registers.
///
/// # Safety
/// As [`pack_typed`], with `depth_stride == 1`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_along_depth<const W: usize, T: Load>(
    data: &[T],
    lane_stride: usize,
    block: Block,
    out: &mut [f32],
) {
    let kc = block.kc;
    for (p, panel) in out.chunks_exact_mut(W * kc).enumerate() {
        for group in (0..W).step_by(8) {
            let width = (W - group).min(8);
            let mut rows: [&[T]; 8] = [&[]; 8];
            for (j, row) in rows.iter_mut().enumerate() {
                let lane = (p * W + group + j.min(width - 1)).min(block.lanes - 1);
                let start = (block.lane0 + lane) * lane_stride + block.k0;
                *row = &data[start..start + kc];
            }
            // Where the panel is narrower than a vector, a store runs into the next depth's lanes, which are
            // stored later; the last depth has no next one and is left to the scalar loop.
            let whole = if width == 8 { kc } else { kc - 1 } / T::DEPTHS * T::DEPTHS;
            for k in (0..whole).step_by(T::DEPTHS) {
                let mut at = [std::ptr::null(); 8];
                for (at, row) in at.iter_mut().zip(&rows) {
                    *at = row[k..].as_ptr();
                    if block.ahead > 0 && (k * size_of::<T>()).is_multiple_of(64) {
                        _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(block.ahead).cast());
                    }
                }
                // SAFETY: DEPTHS elements are left in each row from k on. The last store ends at
                // (k + DEPTHS - 1)·W + group + 8, which is inside the panel: where group + 8 > W, at least one
                // more depth follows.
                unsafe { T::transpose(&at, panel[k * W + group..].as_mut_ptr(), W) };
            }
            for k in whole..kc {
                for (j, row) in rows.iter().enumerate().take(width) {
                    panel[k * W + group + j] = row[k].widen();
                }
            }
        }
    }
}

/// The operand's lanes are contiguous: each depth is copied, all panels of the block in one sweep so that
/// the reads run along the operand's rows.
///
/// # Safety
/// As [`pack_typed`], with `lane_stride == 1`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_along_lanes<const W: usize, T: Load>(
    data: &[T],
    depth_stride: usize,
    block: Block,
    out: &mut [f32],
) {
    let kc = block.kc;
    let panels = block.lanes / W;
    let rest = block.lanes % W;
    for k in 0..kc {
        let start = (block.k0 + k) * depth_stride + block.lane0;
        let row = &data[start..start + block.lanes];
        for p in 0..panels {
            let at = (p * kc + k) * W;
            let from = &row[p * W..];
            let to = &mut out[at..(p + 1) * kc * W];
            for g in (0..W).step_by(8) {
                // A whole vector may run into the next depth's lanes: their own store comes later.
                if from.len() >= g + 8 && to.len() >= g + 8 {
                    // SAFETY: eight elements are left in `from` and in `to`.
                    unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(g), T::load8(from.as_ptr().add(g))) };
                } else {
                    for j in g..W.min(g + 8) {
                        to[j] = from[j].widen();
                    }
                }
            }
        }
        if rest > 0 {
            let to = &mut out[(panels * kc + k) * W..][..W];
            for (j, value) in to.iter_mut().enumerate() {
                *value = row[panels * W + j.min(rest - 1)].widen();
            }
        }
    }
}

/// Reads eight vectors, one a row, and transposes them as an 8×8 block of 32-bit elements.
///
/// # Safety
/// 32 bytes at each of `rows` are readable; the machine has AVX2.
#[inline(always)]
pub(super) unsafe fn transpose8<T>(rows: &[*const T; 8]) -> [__m256; 8] {
    // SAFETY: the machine has AVX2.
    let mut r = [unsafe { _mm256_setzero_ps() }; 8];
    for (r, row) in r.iter_mut().zip(rows) {
        // SAFETY: the caller's contract.
        *r = unsafe { _mm256_loadu_ps(row.cast()) };
    }
    // SAFETY: the machine has AVX2.
    unsafe {
        let t0 = _mm256_unpacklo_ps(r[0], r[1]);
        let t1 = _mm256_unpackhi_ps(r[0], r[1]);
        let t2 = _mm256_unpacklo_ps(r[2], r[3]);
        let t3 = _mm256_unpackhi_ps(r[2], r[3]);
        let t4 = _mm256_unpacklo_ps(r[4], r[5]);
        let t5 = _mm256_unpackhi_ps(r[4], r[5]);
        let t6 = _mm256_unpacklo_ps(r[6], r[7]);
        let t7 = _mm256_unpackhi_ps(r[6], r[7]);
        let u0 = _mm256_shuffle_ps::<0x44>(t0, t2);
        let u1 = _mm256_shuffle_ps::<0xee>(t0, t2);
        let u2 = _mm256_shuffle_ps::<0x44>(t1, t3);
        let u3 = _mm256_shuffle_ps::<0xee>(t1, t3);
        let u4 = _mm256_shuffle_ps::<0x44>(t4, t6);
        let u5 = _mm256_shuffle_ps::<0xee>(t4, t6);
        let u6 = _mm256_shuffle_ps::<0x44>(t5, t7);
        let u7 = _mm256_shuffle_ps::<0xee>(t5, t7);
        [
            _mm256_permute2f128_ps::<0x20>(u0, u4),
            _mm256_permute2f128_ps::<0x20>(u1, u5),
            _mm256_permute2f128_ps::<0x20>(u2, u6),
            _mm256_permute2f128_ps::<0x20>(u3, u7),
            _mm256_permute2f128_ps::<0x31>(u0, u4),
            _mm256_permute2f128_ps::<0x31>(u1, u5),
            _mm256_permute2f128_ps::<0x31>(u2, u6),
            _mm256_permute2f128_ps::<0x31>(u3, u7),
        ]
    }
}
