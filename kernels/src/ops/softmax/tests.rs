use super::*;
use crate::check::{Array, Check, random};

fn reference(i: &[Array]) -> Vec<Array> {
    let n = i[0].shape[i[0].shape.len() - 1].max(1);
    let data = i[0].data.chunks(n).flat_map(|row| {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| (x - max).exp()).sum();
        row.iter().map(move |x| (x - max).exp() / sum).collect::<Vec<_>>()
    });
    vec![Array::new(&i[0].shape, data.collect())]
}

pub(crate) fn check() {
    for shape in [&[1][..], &[5], &[3, 7], &[2, 3, 33], &[0, 4], &[3, 0], &[2, 500], &[3, 64], &[2, 1030], &[1, 1032], &[1, 25_600]] {
        Check::new(Softmax {}).input(shape).run(reference);
    }
    Check::new(Softmax {}).tensor(random(&[6, 5], 1, 3.0).transpose(0, 1).unwrap(), true).run(reference);
    // Far from zero, where a softmax without its maximum overflows.
    let far = random(&[3, 8], 1, 1.0).to_vec_f32().unwrap().into_iter().map(|v| v + 500.0).collect();
    Check::new(Softmax {}).tensor(Tensor::from_vec(far, &[3, 8]).unwrap(), true).run(reference);
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Softmax {}).input(&[900, 77]).same_on_any_thread_count();
}

#[test]
fn masked_elements_and_nan() {
    let row = |x: [f32; 3]| {
        let (y, _) = Softmax {}.forward(&[&Tensor::from_vec(x.to_vec(), &[3]).unwrap()], &[false]).unwrap();
        y[0].to_vec_f32().unwrap()
    };
    assert_eq!(row([1.0, f32::NEG_INFINITY, 1.0]), [0.5, 0.0, 0.5]);
    assert!(row([f32::NEG_INFINITY; 3]).iter().all(|v| v.is_nan()));
    assert!(row([0.0, f32::NAN, 0.0]).iter().all(|v| v.is_nan()));
    assert!(Softmax {}.forward(&[&Tensor::scalar(1.0)], &[false]).is_err());
}
