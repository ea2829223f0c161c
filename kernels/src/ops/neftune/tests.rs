use super::*;
use crate::check::{Array, Check, random};
use medley_tensor::DType;
use medley_tensor::device::Device;

fn op(alpha: f32, cuts: &[u32]) -> Neftune {
    Neftune { alpha, seed: u64::MAX - 9, stream: 7 << 32 | 3, cu_seqlens: cuts.into() }
}

/// By definition: a sequence's stream read in order.
fn reference(op: &Neftune, x: &Array) -> Array {
    let h = x.shape[1];
    let mut out = x.data.clone();
    for (s, w) in op.cu_seqlens.windows(2).enumerate() {
        let mut rng = Philox::new(op.seed, op.stream + s as u64);
        let range = w[0] as usize * h..w[1] as usize * h;
        let size = f64::from(op.alpha) / (range.len() as f64).sqrt();
        out[range].iter_mut().for_each(|v| *v += size * (2.0 * f64::from(rng.uniform_f32()) - 1.0));
    }
    Array::new(&x.shape, out)
}

pub(crate) fn check() {
    // Sequences that begin inside a 16-byte word, one of a single token, more than a block's worth, nothing at all.
    for (cuts, h) in [(&[0u32, 3, 4, 9][..], 7), (&[0, 2, 2, 5], 512), (&[0, 6], 1), (&[0], 4)] {
        let op = op(5.0, cuts);
        let tokens = *cuts.last().unwrap() as usize;
        Check::new(op.clone()).input(&[tokens, h]).run(|i| vec![reference(&op, &i[0])]);
    }
    let op = op(5.0, &[0, 4, 5]);
    Check::new(op.clone())
        .tensor(random(&[6, 5], 1, 1.0).transpose(0, 1).unwrap(), true)
        .run(|i| vec![reference(&op, &i[0])]);
}

fn noise(op: &Neftune, rows: usize, h: usize) -> Vec<f32> {
    let (out, ()) = op.forward(&[&Tensor::zeros(&[rows, h], DType::F32).unwrap()], &[true]).unwrap();
    out[0].to_vec_f32().unwrap()
}

/// Mean 0, at most α/√(L·H) in size, and of uniform noise's variance.
#[test]
fn the_noise_has_the_papers_size() {
    let (rows, h) = (50, 96);
    let got = noise(&op(10.0, &[0, rows as u32]), rows, h);
    let size = 10.0 / ((rows * h) as f64).sqrt();
    let mean = got.iter().map(|v| f64::from(*v)).sum::<f64>() / got.len() as f64;
    let variance = got.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / got.len() as f64;
    assert!(got.iter().all(|v| f64::from(v.abs()) <= size * 1.000_001));
    assert!(mean.abs() < 0.03 * size, "{mean}");
    assert!((variance / (size * size / 3.0) - 1.0).abs() < 0.05, "{variance}");
}

/// A sequence's noise follows it into another batch.
#[test]
fn noise_does_not_depend_on_the_cut() {
    let together = noise(&op(5.0, &[0, 3, 8]), 8, 10);
    let mut second = op(5.0, &[0, 5]);
    second.stream += 1;
    assert_eq!([noise(&op(5.0, &[0, 3]), 3, 10), noise(&second, 5, 10)].concat(), together);
    assert_ne!(together[..30], together[30..60]);
}

#[test]
fn same_bits_on_a_gpu_and_on_any_thread_count() {
    let op = op(5.0, &[0, 37, 1000]);
    Check::new(op.clone()).input(&[1000, 100]).same_on_any_thread_count();
    let on = Device::Cuda(crate::check::device::device());
    let x = random(&[1000, 9], 4, 0.1);
    let run = |x: &Tensor| op.forward(&[x], &[true]).unwrap().0[0].to_vec_f32().unwrap();
    assert_eq!(run(&x.to_device(&on).unwrap()), run(&x));
}

#[test]
fn sequences_that_do_not_cut_the_rows_are_an_error() {
    for cuts in [&[0u32, 4][..], &[1, 5], &[0, 4, 3, 5], &[]] {
        let e = op(5.0, cuts).forward(&[&random(&[5, 2], 1, 1.0)], &[true]).err().unwrap().to_string();
        assert!(e.contains("cu_seqlens") && e.contains("5 rows"), "{e}");
    }
}
