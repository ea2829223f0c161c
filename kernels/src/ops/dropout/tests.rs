use super::*;
use crate::check::{Array, Check, random};
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
