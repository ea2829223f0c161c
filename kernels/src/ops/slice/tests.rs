use super::*;
use crate::check::{Array, Check, random};

pub(crate) fn reference(x: &Array, dim: usize, start: usize, len: usize) -> Array {
    let inner: usize = x.shape[dim + 1..].iter().product();
    let mut shape = x.shape.clone();
    shape[dim] = len;
    let kept = x.data.iter().enumerate().filter(|(i, _)| (start..start + len).contains(&(i / inner % x.shape[dim])));
    Array::new(&shape, kept.map(|(_, v)| *v).collect())
}

pub(crate) fn check() {
    for (shape, dim, start, len) in [
        (&[5][..], 0, 1, 3),
        (&[4, 6], 1, 2, 4),
        (&[4, 6], 0, 3, 1),
        (&[2, 5, 3], 1, 0, 5),
        (&[2, 5, 3], 1, 4, 0),
        (&[3, 0], 0, 1, 2),
        (&[3, 32], 1, 8, 16),
    ] {
        Check::new(Slice { dim, start, len }).input(shape).run(|i| vec![reference(&i[0], dim, start, len)]);
    }
    Check::new(Slice { dim: 0, start: 1, len: 2 })
        .tensor(random(&[5, 4], 1, 1.0).transpose(0, 1).unwrap(), true)
        .run(|i| vec![reference(&i[0], 0, 1, 2)]);
}

#[test]
fn a_range_outside_the_dimension_is_an_error() {
    let x = random(&[2, 3], 1, 1.0);
    for (dim, start, len) in [(1, 2, 2), (2, 0, 1), (0, usize::MAX, 2)] {
        let e = Slice { dim, start, len }.forward(&[&x], &[false]).err().unwrap().to_string();
        assert!(e.contains("[2, 3]") && e.contains(&format!("dimension {dim}")), "{e}");
    }
}
