use super::*;
use crate::check::{Array, Check, random};

/// By index arithmetic on the row-major data.
fn reference(x: &Array, order: &[usize]) -> Array {
    let shape: Vec<usize> = order.iter().map(|d| x.shape[*d]).collect();
    let data = (0..x.data.len()).map(|mut flat| {
        let mut index = vec![0; shape.len()];
        for d in (0..shape.len()).rev() {
            index[order[d]] = flat % shape[d];
            flat /= shape[d];
        }
        x.data[index.iter().zip(&x.shape).fold(0, |at, (i, n)| at * n + i)]
    });
    Array::new(&shape, data.collect())
}

pub(crate) fn check() {
    for (shape, order) in [
        (&[2, 3][..], &[1, 0][..]),
        (&[2, 3, 5], &[2, 0, 1]),
        (&[2, 1, 4, 3], &[3, 1, 0, 2]),
        (&[3, 66, 70], &[0, 2, 1]),
        (&[35, 2, 34], &[2, 1, 0]),
        (&[0, 3], &[1, 0]),
        (&[], &[]),
    ] {
        Check::new(Permute { order: order.to_vec() }).input(shape).run(|i| vec![reference(&i[0], order)]);
    }
    Check::new(Permute { order: vec![1, 2, 0] })
        .tensor(random(&[4, 5, 6], 1, 1.0).narrow(1, 1, 3).unwrap().transpose(0, 2).unwrap(), true)
        .run(|i| vec![reference(&i[0], &[1, 2, 0])]);
}

#[test]
fn what_is_no_permutation_is_an_error() {
    for order in [vec![0, 0], vec![0], vec![0, 2]] {
        let e = Permute { order }.forward(&[&random(&[2, 3], 1, 1.0)], &[false]).err().unwrap().to_string();
        assert!(e.contains("permutation") && e.contains("[2, 3]"), "{e}");
    }
}
