//! The dropout mask on the CPU: Philox4x32-10 over sixteen counters at a time, so that its rounds
//! vectorise. The words are those of [`medley_tensor::rng::Philox`].

use super::Dropout;
use crate::cpu::{Isa, isa};
use rayon::prelude::*;

/// Philox blocks computed side by side.
const BLOCKS: usize = 16;
/// Elements they decide over, four a block.
const STEP: usize = 4 * BLOCKS;
/// Elements of one task; a multiple of [`STEP`].
const CHUNK: usize = 1 << 14;

/// `y = x · mask / (1 − p)`: word `i % 4` of block `i / 4` decides over element `i`.
pub(crate) fn mask(op: &Dropout, x: &[f32], y: &mut [f32]) {
    let isa = isa();
    (x.par_chunks(CHUNK), y.par_chunks_mut(CHUNK)).into_par_iter().enumerate().for_each(|(c, (x, y))| {
        let first = (c * (CHUNK / 4)) as u64;
        match isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Isa::Avx2` is only ever returned by `isa` on a machine that has AVX2.
            Isa::Avx2 => unsafe { chunk_avx2(op, first, x, y) },
            _ => chunk(op, first, x, y),
        }
    });
}

/// [`chunk`] compiled for 8-wide vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn chunk_avx2(op: &Dropout, first: u64, x: &[f32], y: &mut [f32]) {
    chunk(op, first, x, y);
}

/// Masks elements whose first Philox block is `first`.
#[inline(always)]
fn chunk(op: &Dropout, first: u64, x: &[f32], y: &mut [f32]) {
    let scale = 1.0 / (1.0 - op.p);
    for (s, (x, y)) in x.chunks(STEP).zip(y.chunks_mut(STEP)).enumerate() {
        let words = words(op, first + (s * BLOCKS) as u64);
        for ((y, x), word) in y.iter_mut().zip(x).zip(&words) {
            // `rng::to_unit`, through i32 because that conversion vectorises. The choice is a select,
            // not a product: dropping must not turn an infinity into NaN.
            let unit = (word >> 8) as i32 as f32 * (1.0 / (1 << 24) as f32);
            *y = if unit >= op.p { x * scale } else { 0.0 };
        }
    }
}

/// The words of blocks `first..first + BLOCKS` of the op's stream, in order.
#[inline(always)]
fn words(op: &Dropout, first: u64) -> [u32; STEP] {
    let index: [u64; BLOCKS] = std::array::from_fn(|b| first.wrapping_add(b as u64));
    let mut c0 = index.map(|i| i as u32);
    let mut c1 = index.map(|i| (i >> 32) as u32);
    let mut c2 = [op.stream as u32; BLOCKS];
    let mut c3 = [(op.stream >> 32) as u32; BLOCKS];
    let (mut k0, mut k1) = (op.seed as u32, (op.seed >> 32) as u32);
    for _ in 0..10 {
        for b in 0..BLOCKS {
            let p0 = 0xD251_1F53 * u64::from(c0[b]);
            let p1 = 0xCD9E_8D57 * u64::from(c2[b]);
            c0[b] = (p1 >> 32) as u32 ^ c1[b] ^ k0;
            c1[b] = p1 as u32;
            c2[b] = (p0 >> 32) as u32 ^ c3[b] ^ k1;
            c3[b] = p0 as u32;
        }
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    let mut words = [0; STEP];
    for b in 0..BLOCKS {
        words[4 * b] = c0[b];
        words[4 * b + 1] = c1[b];
        words[4 * b + 2] = c2[b];
        words[4 * b + 3] = c3[b];
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_tensor::rng::Philox;

    /// The carry into the counter's high word and large seeds and streams included.
    #[test]
    fn the_words_are_those_of_philox() {
        for (seed, stream, first) in [(0, 0, 0), (u64::MAX - 5, 1 << 40 | 3, (1 << 32) - 7), (7, u64::MAX, 12345)] {
            let op = Dropout { p: 0.0, seed, stream };
            let rng = Philox::new(seed, stream);
            let want: Vec<u32> = (first..first + BLOCKS as u64).flat_map(|i| rng.block_at(i)).collect();
            assert_eq!(words(&op, first)[..], want);
        }
    }

    #[test]
    fn both_code_paths_agree() {
        let op = Dropout { p: 0.4, seed: 11, stream: 5 };
        let x: Vec<f32> = (0..STEP * 3 + 9).map(|i| i as f32 + 1.0).collect();
        let (mut a, mut b) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        mask(&op, &x, &mut a);
        chunk(&op, 0, &x, &mut b);
        assert_eq!(a, b);
    }
}
