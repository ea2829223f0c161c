use super::*;
use crate::check::{Array, Check, random};
use medley_tensor::DType;
use medley_tensor::device::Device;
use medley_tensor::rng::Philox;

/// The mask by definition: the stream's words in order.
fn reference(op: Dropout, x: &Array) -> Array {
    let mut rng = Philox::new(op.seed, op.stream);
    let scale = f64::from(1.0 / (1.0 - op.p));
    let data = x.data.iter().map(|v| if rng.uniform_f32() >= op.p { v * scale } else { 0.0 });
    Array::new(&x.shape, data.collect())
}

pub(crate) fn check() {
    for p in [0.0, 0.1, 0.9] {
        for shape in [&[1][..], &[3, 5], &[0, 4], &[40_003]] {
            let op = Dropout { p, seed: 42, stream: 7 };
            Check::new(op).input(shape).run(|i| vec![reference(op, &i[0])]);
        }
    }
    let op = Dropout { p: 0.5, seed: 1, stream: 2 };
    Check::new(op)
        .tensor(random(&[5, 4], 1, 1.0).transpose(0, 1).unwrap(), true)
        .run(|i| vec![reference(op, &i[0])]);
}

/// The mask is the CPU's to the bit, in every dtype, where vectors are whole, short and not aligned.
#[test]
fn the_mask_is_the_same_on_both_devices() {
    let on = Device::Cuda(crate::check::device::device());
    let op = Dropout { p: 0.4, seed: u64::MAX - 3, stream: 1 << 40 | 5 };
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        for (n, start) in [(4096, 0), (1003, 0), (1003, 1), (64, 8)] {
            let data = (0..n + start).map(|i| 1.0 + (i % 7) as f32).collect::<Vec<f32>>();
            let x = Tensor::from_vec(data, &[n + start]).unwrap().narrow(0, start, n).unwrap();
            let want = op.masked(&x).unwrap().to_dtype(dtype).unwrap().to_vec_f32().unwrap();
            let there = x.to_dtype(dtype).unwrap();
            let padded = [vec![0.0; start], there.to_vec_f32().unwrap()].concat();
            let padded = Tensor::from_vec(padded, &[n + start]).unwrap().to_dtype(dtype).unwrap();
            let view = padded.to_device(&on).unwrap().narrow(0, start, n).unwrap();
            let got = op.masked(&view).unwrap();
            assert_eq!(got.dtype(), dtype);
            assert_eq!(got.to_vec_f32().unwrap(), want, "{n} elements from {start} in {dtype}");
        }
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Dropout { p: 0.3, seed: 9, stream: 1 }).input(&[50_000]).same_on_any_thread_count();
}

#[test]
fn masks_differ_by_seed_and_stream_and_keep_the_mean() {
    let ones = Tensor::from_vec(vec![1.0f32; 40_000], &[40_000]).unwrap();
    let run = |seed, stream| {
        let (out, ()) = Dropout { p: 0.25, seed, stream }.forward(&[&ones], &[false]).unwrap();
        out[0].to_vec_f32().unwrap()
    };
    let a = run(1, 1);
    let mean = a.iter().map(|v| f64::from(*v)).sum::<f64>() / a.len() as f64;
    assert!((mean - 1.0).abs() < 0.015, "{mean}");
    assert_ne!(a, run(1, 2));
    assert_ne!(a, run(2, 1));
}

#[test]
fn a_probability_outside_its_range_is_an_error() {
    let x = random(&[3], 1, 1.0);
    for p in [1.0, 1.5, -0.1, f32::NAN] {
        let e = Dropout { p, seed: 0, stream: 0 }.forward(&[&x], &[false]).err().unwrap().to_string();
        assert!(e.contains(&format!("p is {p}")), "{e}");
    }
}
