//! AdamW with both moments in 8 bits (Dettmers et al., "8-bit Optimizers via Block-wise Quantization",
//! arXiv 2110.02861), as bitsandbytes' `AdamW8bit` keeps them: blocks of 256 elements share an f32
//! absmax, a code indexes the dynamic map (signed for the first moment, unsigned for the second).
//!
//! ```text
//! m = map[code]·absmax  ──AdamW in f32──►  p updated with the exact new m and v
//!                                          absmax ← max |m| of the block,  code ← nearest(m / absmax)
//! ```
//! The rounding error enters the next step's moments only. Floor: memory-bound, 16.06 bytes a
//! parameter instead of 28; the state takes 2.03 bytes instead of 8.

use super::AdamW;
use crate::updates::blockwise::{BLOCK, Quantised, TASK, nearest, signed_code, tables};
use crate::updates::same_length;
use medley_tensor::{Error, Result};
use rayon::prelude::*;

impl AdamW {
    /// [`AdamW::update`] with the moments `m` and `v` in 8 bits.
    ///
    /// # Errors
    /// When the slices have different lengths, or `step` is 0.
    pub fn update_8bit(&self, param: &mut [f32], grad: &[f32], m: Quantised, v: Quantised) -> Result<()> {
        const OP: &str = "adamw_8bit";
        let (n, blocks) = (param.len(), param.len().div_ceil(BLOCK));
        for (what, expected, len) in [
            ("the gradient", n, grad.len()),
            ("m", n, m.codes.len()),
            ("v", n, v.codes.len()),
            ("absmax of m", blocks, m.absmax.len()),
            ("absmax of v", blocks, v.absmax.len()),
        ] {
            same_length(OP, expected, what, len)?;
        }
        if self.step == 0 {
            return Err(Error::value(OP, "step is 0; updates are counted from 1"));
        }
        let constants = self.constants();
        let tables = tables();
        let signed = &tables[..256];
        let (map, mid) = (&tables[512..768], &tables[768..]);
        let block = |p: &mut [f32], g: &[f32], mc: &mut [u8], ms: &mut f32, vc: &mut [u8], vs: &mut f32| {
            let (mut m, mut v) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
            for i in 0..p.len() {
                m[i] = signed[mc[i] as usize] * *ms;
                v[i] = map[vc[i] as usize] * *vs;
                constants.element(&mut p[i], g[i], &mut m[i], &mut v[i]);
            }
            *ms = m.iter().fold(0.0, |a, x| x.abs().max(a));
            *vs = v.iter().fold(0.0, |a, x| x.max(a));
            for i in 0..p.len() {
                mc[i] = signed_code(tables, m[i], *ms);
                vc[i] = nearest(mid, if *vs > 0.0 { v[i] / *vs } else { 0.0 }) as u8;
            }
        };
        let span = TASK * BLOCK;
        (
            param.par_chunks_mut(span),
            grad.par_chunks(span),
            m.codes.par_chunks_mut(span),
            m.absmax.par_chunks_mut(TASK),
            v.codes.par_chunks_mut(span),
            v.absmax.par_chunks_mut(TASK),
        )
            .into_par_iter()
            .for_each(|(p, g, mc, ms, vc, vs)| {
                let moments = mc.chunks_mut(BLOCK).zip(ms).zip(vc.chunks_mut(BLOCK).zip(vs));
                for ((p, g), ((mc, ms), (vc, vs))) in p.chunks_mut(BLOCK).zip(g.chunks(BLOCK)).zip(moments) {
                    block(p, g, mc, ms, vc, vs);
                }
            });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_tensor::quant::nf4::{dynamic_map, unsigned_dynamic_map};
    use medley_tensor::rng::Philox;

    fn settings(step: u64) -> AdamW {
        AdamW {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
            step,
            grad_scale: 1.0,
            lr_scale: 1.0,
        }
    }

    #[test]
    fn code_books_are_bitsandbytes() {
        // Means of neighbours in linspace(0.1, 1, 2^(d+1) + 1), times 10^(d-6), worked out by hand.
        let map = unsigned_dynamic_map();
        assert_eq!((map[0], map[255]), (0.0, 1.0));
        for (i, want) in [(1, 3.25e-7), (2, 7.75e-7), (3, 2.125e-6), (126, 0.099_296_875), (254, 0.996_484_4)]
        {
            assert!((map[i] - want).abs() < 2e-7 * want, "entry {i}: {} for {want}", map[i]);
        }
        for half in tables().chunks(512) {
            for code in 0..256 {
                assert_eq!(nearest(&half[256..], half[code]), code);
            }
            assert_eq!((nearest(&half[256..], -2.0), nearest(&half[256..], 2.0)), (0, 255));
        }
    }

    /// Follows f32 AdamW on a quadratic from the same start: the paths stay close and both arrive.
    #[test]
    fn follows_f32_adamw() {
        const N: usize = 5 * BLOCK + 77;
        let mut rng = Philox::new(8, 8);
        let target: Vec<f32> = (0..N).map(|_| rng.normal_f32()).collect();
        let curvature: Vec<f32> = (0..N).map(|_| 0.5 + rng.uniform_f32()).collect();
        let (mut p, mut p8) = (vec![0.0f32; N], vec![0.0f32; N]);
        let (mut m, mut v) = (vec![0.0f32; N], vec![0.0f32; N]);
        let (mut mc, mut vc) = (vec![0u8; N], vec![0u8; N]);
        let (mut ms, mut vs) = (vec![0.0f32; N.div_ceil(BLOCK)], vec![0.0f32; N.div_ceil(BLOCK)]);
        let gradient = |p: &[f32]| -> Vec<f32> {
            p.iter().zip(&target).zip(&curvature).map(|((p, t), c)| c * (p - t)).collect()
        };
        let start: f32 = target.iter().map(|t| t * t).sum();
        for step in 1..=300 {
            let g = gradient(&p);
            settings(step).update(&mut p, &g, &mut m, &mut v).unwrap();
            let g = gradient(&p8);
            let (m, v) = (
                Quantised { codes: &mut mc, absmax: &mut ms },
                Quantised { codes: &mut vc, absmax: &mut vs },
            );
            settings(step).update_8bit(&mut p8, &g, m, v).unwrap();
            if step == 1 {
                assert_eq!(p, p8, "the first update sees no rounded moment");
            }
        }
        let apart = p.iter().zip(&p8).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / start;
        let left = p8.iter().zip(&target).map(|(a, b)| (a - b) * (a - b)).sum::<f32>() / start;
        assert!(apart < 2e-3, "relative distance of the paths {apart}");
        assert!(left < 0.05, "relative distance from the target {left}");
        assert!(ms.iter().chain(&vs).all(|s| s.is_finite() && *s > 0.0));
    }

    #[test]
    fn moments_come_back_within_their_code_book() {
        let mut rng = Philox::new(2, 2);
        let n = 2 * BLOCK + 9;
        let g: Vec<f32> = (0..n).map(|i| if i == 5 { 0.0 } else { rng.normal_f32() }).collect();
        let mut p = vec![1.0f32; n];
        let (mut mc, mut vc) = (vec![0u8; n], vec![0u8; n]);
        let (mut ms, mut vs) = (vec![0.0f32; 3], vec![0.0f32; 3]);
        let (m, v) =
            (Quantised { codes: &mut mc, absmax: &mut ms }, Quantised { codes: &mut vc, absmax: &mut vs });
        settings(1).update_8bit(&mut p, &g, m, v).unwrap();
        for i in 0..n {
            let (want_m, want_v) = (0.1 * g[i], 0.001 * g[i] * g[i]);
            let m = dynamic_map()[mc[i] as usize] * ms[i / BLOCK];
            let v = unsigned_dynamic_map()[vc[i] as usize] * vs[i / BLOCK];
            // A decade is cut into 2^d parts: 1/64 of the value at worst near 1, and an absolute step below.
            assert!((m - want_m).abs() <= 0.008 * ms[i / BLOCK], "m[{i}]: {m} for {want_m}");
            assert!((v - want_v).abs() <= 0.004 * vs[i / BLOCK], "v[{i}]: {v} for {want_v}");
            assert!(m * want_m >= 0.0, "m[{i}] changed sign");
        }
    }

    #[test]
    fn same_bits_on_any_thread_count() {
        let n = TASK * BLOCK + 300;
        let g: Vec<f32> = (0..n).map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.5).collect();
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut p = vec![0.5f32; n];
                let (mut mc, mut vc) = (vec![0u8; n], vec![0u8; n]);
                let (mut ms, mut vs) = (vec![0.0f32; n.div_ceil(BLOCK)], vec![0.0f32; n.div_ceil(BLOCK)]);
                for step in 1..=2 {
                    let m = Quantised { codes: &mut mc, absmax: &mut ms };
                    let v = Quantised { codes: &mut vc, absmax: &mut vs };
                    settings(step).update_8bit(&mut p, &g, m, v).unwrap();
                }
                (p, mc, vc)
            })
        };
        assert!(run(1) == run(2));
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let mut p = [0.0f32; 300];
        let (mut mc, mut vc) = ([0u8; 300], [0u8; 300]);
        let (mut ms, mut vs) = ([0.0f32; 2], [0.0f32; 1]);
        let m = Quantised { codes: &mut mc, absmax: &mut ms };
        let v = Quantised { codes: &mut vc, absmax: &mut vs };
        let e = settings(1).update_8bit(&mut p, &[0.0; 300], m, v).unwrap_err().to_string();
        assert!(e.contains("absmax of v has 1 elements, expected 2"), "{e}");
    }
}
