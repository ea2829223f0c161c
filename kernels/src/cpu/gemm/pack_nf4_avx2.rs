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
use super::pack_avx2::transpose8;

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
            pack_along_lanes(data, src.depth_stride, block, out);
        } else {
            return false;
        }
    }
    true
}

/// Byte b of the level of each code at `[b][code]`.
const PLANES: [[u8; 16]; 4] = {
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

/// The four byte planes of the levels, each repeated in both halves of a register.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn planes() -> [__m256i; 4] {
    // SAFETY: 16 bytes are read from an array of 16.
    unsafe {
        let mut planes = [_mm256_setzero_si256(); 4];
        for (plane, bytes) in planes.iter_mut().zip(&PLANES) {
            *plane = _mm256_broadcastsi128_si256(_mm_loadu_si128(bytes.as_ptr().cast()));
        }
        planes
    }
}

/// The levels of 32 codes, one a byte: entry q holds those of bytes 4q .. 4q + 4 of both halves.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn look_up(planes: &[__m256i; 4], codes: __m256i) -> [__m256; 4] {
    // SAFETY: the caller's contract.
    unsafe {
        let b0 = _mm256_shuffle_epi8(planes[0], codes);
        let b1 = _mm256_shuffle_epi8(planes[1], codes);
        let b2 = _mm256_shuffle_epi8(planes[2], codes);
        let b3 = _mm256_shuffle_epi8(planes[3], codes);
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
}

/// Depth runs along the rows of the weight. Four bytes of eight lanes hold eight depths:
/// byte b of lane r carries depth 2b (high nibble) and 2b + 1 (low). A byte transpose of each half puts the
/// same depth of four lanes side by side, so that [`look_up`] yields one depth of eight lanes an entry.
///
/// # Safety
/// As [`pack`], with `depth_stride == 1`; `lane_stride` and `k0` are multiples of 8.
#[target_feature(enable = "avx2")]
unsafe fn pack_along_depth(data: &Nf4Ref, lane_stride: usize, block: Block, out: &mut [f32]) {
    // SAFETY: the machine has AVX2.
    let planes = unsafe { planes() };
    let kc = block.kc;
    for (p, panel) in out.chunks_exact_mut(NR * kc).enumerate() {
        for group in (0..NR).step_by(8) {
            let starts: [usize; 8] = std::array::from_fn(|j| {
                let lane = (p * NR + group + j).min(block.lanes - 1);
                (block.lane0 + lane) * lane_stride + block.k0
            });
            // The codes of each lane from depth 0 of the block on.
            let codes: [&[u8]; 8] = starts.map(|start| &data.codes[start / 2..(start + kc).div_ceil(2)]);
            let mut absmax = [0.0f32; 8];
            let mut next_block = 0;
            let mut k = 0;
            while k < kc {
                if k >= next_block {
                    // Blocks end every 64 elements; lanes reach their ends at different depths unless the
                    // rows are whole blocks.
                    next_block = usize::MAX;
                    for (scale, start) in absmax.iter_mut().zip(starts) {
                        *scale = data.absmax.get((start + k) / BLOCK);
                        next_block = next_block.min(k + BLOCK - (start + k) % BLOCK);
                    }
                }
                let to = panel[k * NR + group..].as_mut_ptr();
                if k + BLOCK <= kc && next_block == k + BLOCK {
                    // A whole block of every lane: its 32 bytes a lane are read at once and transposed.
                    let mut at = [std::ptr::null(); 8];
                    for (at, codes) in at.iter_mut().zip(&codes) {
                        *at = codes[k / 2..].as_ptr();
                        if block.ahead > 0 {
                            _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(block.ahead / 2).cast());
                        }
                    }
                    // SAFETY: 32 bytes are left of every lane's codes, and 64 depths of the panel.
                    unsafe {
                        let scale = _mm256_loadu_ps(absmax.as_ptr());
                        for (eighth, bytes) in transpose8(&at).into_iter().enumerate() {
                            let to = to.add(8 * eighth * NR);
                            eight_depths(&planes, _mm256_castps_si256(bytes), scale, to, 8);
                        }
                    }
                    k += BLOCK;
                } else {
                    let mut bytes = [0u32; 8];
                    for (bytes, codes) in bytes.iter_mut().zip(&codes) {
                        // The end of a ragged depth has fewer than four bytes left.
                        let four = &codes[k / 2..codes.len().min(k / 2 + 4)];
                        *bytes = four.iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
                    }
                    let depths = (kc - k).min(8);
                    // SAFETY: `bytes` and `absmax` are 32 bytes each; `depths` depths are left of the panel.
                    unsafe {
                        let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
                        eight_depths(&planes, bytes, _mm256_loadu_ps(absmax.as_ptr()), to, depths);
                    }
                    k += 8;
                }
            }
        }
    }
}

/// Decodes four bytes of each of eight lanes and writes the first `depths` of their eight depths to a panel.
///
/// # Safety
/// AVX2 is there; `depths` rows of 8 floats, 16 apart, are writable at `to`.
#[inline(always)]
unsafe fn eight_depths(planes: &[__m256i; 4], bytes: __m256i, scale: __m256, to: *mut f32, depths: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        let nibble = _mm256_set1_epi8(15);
        let transpose = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        let bytes = _mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(transpose));
        let even = look_up(planes, _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), nibble));
        let odd = look_up(planes, _mm256_and_si256(bytes, nibble));
        for q in 0..4 {
            if 2 * q < depths {
                _mm256_storeu_ps(to.add(2 * q * NR), _mm256_mul_ps(even[q], scale));
            }
            if 2 * q + 1 < depths {
                _mm256_storeu_ps(to.add((2 * q + 1) * NR), _mm256_mul_ps(odd[q], scale));
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
unsafe fn pack_along_lanes(data: &Nf4Ref, depth_stride: usize, block: Block, out: &mut [f32]) {
    // SAFETY: the machine has AVX2.
    let planes = unsafe { planes() };
    let nibble = _mm_set1_epi8(15);
    let kc = block.kc;
    let paired = block.lanes - block.lanes % (2 * NR);
    for k in 0..kc {
        let start = (block.k0 + k) * depth_stride + block.lane0;
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
        for lane in (paired..block.lanes).step_by(NR) {
            // Up to two panels are left, the last of them ragged.
            let first = start + lane;
            let lanes = NR.min(block.lanes - lane);
            let scale = data.absmax.get(first / BLOCK);
            let to = &mut out[(lane / NR * kc + k) * NR..][..lanes];
            for (pair, byte) in to.chunks_mut(2).zip(&data.codes[first / 2..]) {
                let levels = [NF4_CODE[usize::from(byte >> 4)], NF4_CODE[usize::from(byte & 15)]];
                for (value, level) in pair.iter_mut().zip(levels) {
                    *value = level * scale;
                }
            }
        }
    }
}
