//! Packing of NF4 weights with AVX2.
//!
//! A level is looked up a byte plane at a time: `pshufb` maps 32 codes to byte 0 of their f32 levels, three
//! more to bytes 1 to 3, and two rounds of unpacking zip the planes into floats. That is three one-cycle
//! shuffles for eight elements; the codes are put into an order first that makes the zipped floats come out
//! where the panel wants them.

use std::arch::x86_64::*;

use medley_tensor::quant::Nf4Ref;
use medley_tensor::quant::nf4::{BLOCK, NF4_CODE};

use super::micro::NR;
use super::pack::{Block, Lanes};

/// Packs NF4 into panels of 16 lanes, if the strides are ones it knows: false means that nothing was done.
///
/// # Safety
/// AVX2 is there; every element of `block` lies inside `data`, whose parts are as long as its shape asks.
pub(super) unsafe fn pack(data: &Nf4Ref, src: &Lanes, block: Block, out: &mut [f32]) -> bool {
    // SAFETY: the caller's contract; the alignment each function asks for is checked here.
    unsafe {
        if src.depth_stride == 1 && src.lane_stride.is_multiple_of(8) && block.k0.is_multiple_of(8) {
            pack_along_depth(data, src.lane_stride, block, out);
        } else if src.lane_stride == 1
            && src.depth_stride.is_multiple_of(NR)
            && block.lane0.is_multiple_of(NR)
        {
            pack_along_lanes(data, src, block, out);
        } else {
            return false;
        }
    }
    true
}

/// The four byte planes of the levels, each repeated in both halves of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn planes() -> [__m256i; 4] {
    const BYTES: [[u8; 16]; 4] = {
        let mut planes = [[0; 16]; 4];
        let mut code = 0;
        while code < 16 {
            let bytes = NF4_CODE[code].to_le_bytes();
            let mut plane = 0;
            while plane < 4 {
                planes[plane][code] = bytes[plane];
                plane += 1;
            }
            code += 1;
        }
        planes
    };
    BYTES.map(|plane| {
        // SAFETY: 16 bytes are read from an array of 16.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(plane.as_ptr().cast()) })
    })
}

/// The levels of 32 codes, one a byte: entry q holds those of bytes 4q .. 4q + 4 of both halves.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up(planes: &[__m256i; 4], codes: __m256i) -> [__m256; 4] {
    let [b0, b1, b2, b3] = planes.map(|plane| _mm256_shuffle_epi8(plane, codes));
    let low01 = _mm256_unpacklo_epi8(b0, b1);
    let high01 = _mm256_unpackhi_epi8(b0, b1);
    let low23 = _mm256_unpacklo_epi8(b2, b3);
    let high23 = _mm256_unpackhi_epi8(b2, b3);
    [
        _mm256_castsi256_ps(_mm256_unpacklo_epi16(low01, low23)),
        _mm256_castsi256_ps(_mm256_unpackhi_epi16(low01, low23)),
        _mm256_castsi256_ps(_mm256_unpacklo_epi16(high01, high23)),
        _mm256_castsi256_ps(_mm256_unpackhi_epi16(high01, high23)),
    ]
}

/// Depth runs along the rows of the weight. Four bytes of eight lanes hold eight depths:
/// byte b of lane r carries depth 2b (high nibble) and 2b + 1 (low). A byte transpose of each half puts the
/// same depth of four lanes side by side, so that [`look_up`] yields one depth of eight lanes an entry.
///
/// # Safety
/// As [`pack`], with `depth_stride == 1`; `lane_stride` and `k0` are multiples of 8.
#[target_feature(enable = "avx2")]
unsafe fn pack_along_depth(data: &Nf4Ref, lane_stride: usize, block: Block, out: &mut [f32]) {
    let planes = planes();
    let nibble = _mm256_set1_epi8(15);
    let transpose =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    let kc = block.kc;
    for (p, panel) in out.chunks_exact_mut(NR * kc).enumerate() {
        for group in (0..NR).step_by(8) {
            let starts: [usize; 8] = std::array::from_fn(|j| {
                let lane = (p * NR + group + j).min(block.lanes - 1);
                (block.lane0 + lane) * lane_stride + block.k0
            });
            let mut absmax = [0.0f32; 8];
            let mut next_block = 0;
            for k in (0..kc).step_by(8) {
                if k >= next_block {
                    // Blocks end every 64 elements; lanes reach their ends at different depths unless the
                    // rows are whole blocks.
                    next_block = usize::MAX;
                    for (scale, start) in absmax.iter_mut().zip(starts) {
                        *scale = data.absmax.get((start + k) / BLOCK);
                        next_block = next_block.min(k + BLOCK - (start + k) % BLOCK);
                    }
                }
                // The end of a ragged depth may have fewer than four bytes left.
                let bytes: [u32; 8] = starts.map(|start| {
                    let at = (start + k) / 2;
                    match data.codes.get(at..at + 4) {
                        Some(bytes) => u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                        None => {
                            data.codes[at..].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
                        }
                    }
                });
                // SAFETY: `bytes` and `absmax` are 32 bytes each; every store lies inside the panel, since
                // depth k + d < kc.
                unsafe {
                    let scale = _mm256_loadu_ps(absmax.as_ptr());
                    let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
                    let bytes = _mm256_shuffle_epi8(bytes, transpose);
                    let even = look_up(&planes, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble));
                    let odd = look_up(&planes, _mm256_and_si256(bytes, nibble));
                    for d in 0..(kc - k).min(8) {
                        let level = if d % 2 == 0 { even[d / 2] } else { odd[d / 2] };
                        let to = panel.as_mut_ptr().add((k + d) * NR + group);
                        _mm256_storeu_ps(to, _mm256_mul_ps(level, scale));
                    }
                }
            }
        }
    }
}

/// Lanes run along the rows of the weight: 16 bytes of a depth hold 32 lanes, the rows of two panels.
///
/// # Safety
/// As [`pack`], with `lane_stride == 1`; `depth_stride` and `lane0` are multiples of 16, so that the 16
/// lanes of a panel share a block.
#[target_feature(enable = "avx2")]
unsafe fn pack_along_lanes(data: &Nf4Ref, src: &Lanes, block: Block, out: &mut [f32]) {
    let planes = planes();
    let nibble = _mm_set1_epi8(15);
    let kc = block.kc;
    let paired = block.lanes - block.lanes % (2 * NR);
    for k in 0..kc {
        let start = (block.k0 + k) * src.depth_stride + block.lane0;
        for lane in (0..paired).step_by(2 * NR) {
            let first = start + lane;
            let codes = &data.codes[first / 2..first / 2 + NR];
            let to = &mut out[lane * kc..(lane + 2 * NR) * kc];
            let scales = [data.absmax.get(first / BLOCK), data.absmax.get((first + NR) / BLOCK)];
            // SAFETY: `codes` holds 16 bytes; row k of the two panels starts at k·16 and (kc + k)·16 of
            // `to`, which is two panels long.
            unsafe {
                let bytes = _mm_loadu_si128(codes.as_ptr().cast());
                let even = _mm_and_si128(_mm_srli_epi16::<4>(bytes), nibble);
                let odd = _mm_and_si128(bytes, nibble);
                let codes = _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
                let scale = _mm256_set_m128(_mm_set1_ps(scales[1]), _mm_set1_ps(scales[0]));
                for (q, level) in look_up(&planes, codes).into_iter().enumerate() {
                    let value = _mm256_mul_ps(level, scale);
                    let to = to.as_mut_ptr().add(k * NR + 4 * q);
                    _mm_storeu_ps(to, _mm256_castps256_ps128(value));
                    _mm_storeu_ps(to.add(kc * NR), _mm256_extractf128_ps::<1>(value));
                }
            }
        }
        for lane in paired..block.lanes {
            out[(lane / NR * kc + k) * NR + lane % NR] = src.data.get(start + lane);
        }
    }
}
