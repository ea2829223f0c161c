use super::*;
use crate::check::{Check, Array};

pub(crate) fn reference(x: &Array, w: &Array, eps: f64) -> Array {
    let h = w.data.len();
    let data = x.data.chunks(h).flat_map(|row| {
        let r = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / h as f64 + eps).sqrt();
        row.iter().zip(&w.data).map(move |(v, w)| v * r * w).collect::<Vec<_>>()
    });
    Array::new(&x.shape, data.collect())
}

pub(crate) fn check() {
    // Rows of one element, of one warp, ragged ones of several steps, many rows, one wider than a block.
    for shape in [&[1, 1][..], &[3, 5], &[2, 3, 17], &[2, 300], &[70, 24], &[1, 8200], &[0, 4]] {
        let h = *shape.last().unwrap();
        Check::new(RmsNorm { eps: 1e-5 })
            .input(shape)
            .input(&[h])
            .run(|i| vec![reference(&i[0], &i[1], 1e-5f32 as f64)]);
    }
}

#[test]
fn wrong_weight_is_an_error() {
    let x = Tensor::from_vec(vec![1.0f32; 6], &[2, 3]).unwrap();
    let w = Tensor::from_vec(vec![1.0f32; 2], &[2]).unwrap();
    assert!(RmsNorm { eps: 1e-5 }.forward(&[&x, &w], &[false, false]).is_err());
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(RmsNorm { eps: 1e-5 }).input(&[900, 130]).input(&[130]).same_on_any_thread_count();
}
