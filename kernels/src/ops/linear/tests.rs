use super::*;
use crate::check::{Array, Check, random};

/// `x · Wᵀ (+ b)` in f64.
pub(crate) fn reference(x: &Array, w: &Array, bias: Option<&Array>) -> Array {
    let (n, k) = (w.shape[0], w.shape[1]);
    let mut data = Vec::new();
    let rows: usize = x.shape.iter().rev().skip(1).product();
    for r in 0..rows {
        for j in 0..n {
            let dot: f64 = (0..k).map(|i| x.data[r * k + i] * w.data[j * k + i]).sum();
            data.push(dot + bias.map_or(0.0, |b| b.data[j]));
        }
    }
    Array::new(&with_last(&x.shape, n), data)
}

pub(crate) fn check() {
    for (shape, n) in [(&[1, 1][..], 1), (&[3], 2), (&[2, 3, 17], 5), (&[31, 40], 33), (&[0, 4], 3)] {
        let k = *shape.last().unwrap();
        Check::new(Linear {}).input(shape).input(&[n, k]).run(|i| vec![reference(&i[0], &i[1], None)]);
        Check::new(Linear {})
            .input(shape)
            .input(&[n, k])
            .input(&[n])
            .run(|i| vec![reference(&i[0], &i[1], Some(&i[2]))]);
    }
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::Nf4] {
        for (rows, n, k) in [(1, 3, 64), (5, 7, 33), (40, 24, 128)] {
            Check::new(Linear {})
                .input(&[rows, k])
                .frozen(&[n, k], dtype)
                .run(|i| vec![reference(&i[0], &i[1], None)]);
        }
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Linear {}).input(&[150, 200]).input(&[300, 200]).input(&[300]).same_on_any_thread_count();
}

#[test]
fn strided_operands_are_read_as_they_lie() {
    let (x, w) = (random(&[6, 5], 1, 1.0).transpose(0, 1).unwrap(), random(&[6, 4], 2, 1.0));
    let w = w.transpose(0, 1).unwrap();
    Check::new(Linear {}).tensor(x.clone(), true).tensor(w.clone(), true).run(|i| {
        vec![reference(&i[0], &i[1], None)]
    });
    let part = random(&[9, 6], 3, 1.0).narrow(0, 2, 4).unwrap();
    Check::new(Linear {}).tensor(x, true).tensor(part, true).run(|i| vec![reference(&i[0], &i[1], None)]);
}

#[test]
fn saves_only_what_a_gradient_reads() {
    let (x, w) = (random(&[2, 3], 1, 1.0), random(&[4, 3], 2, 1.0));
    let saved = |needs: &[bool]| {
        let (_, saved) = Linear {}.forward(&[&x, &w], needs).unwrap();
        (saved.x.is_some(), saved.weight.is_some())
    };
    assert_eq!(saved(&[false, false]), (false, false));
    assert_eq!(saved(&[true, false]), (false, true));
    assert_eq!(saved(&[false, true]), (true, false));
}

#[test]
fn what_does_not_fit_is_refused() {
    let f = |shape: &[usize]| random(shape, 1, 1.0);
    let error = |inputs: &[&Tensor]| Linear {}.forward(inputs, &[false; 3]).map(|_| ()).unwrap_err().to_string();
    assert!(error(&[&f(&[2, 3]), &f(&[4, 5])]).contains("[4, 5]"));
    assert!(error(&[&f(&[2, 3]), &f(&[4, 3]), &f(&[3])]).contains("bias [4]"));
    let ids = Tensor::from_vec(vec![1u32; 6], &[2, 3]).unwrap();
    assert!(error(&[&ids, &f(&[4, 3])]).contains("u32"));
    assert!(error(&[&f(&[2, 3]), &ids]).contains("u32"));
}
