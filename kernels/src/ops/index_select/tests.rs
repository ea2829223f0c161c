use super::*;
use crate::check::{Array, Check, random};

fn reference(x: &Array, indices: &[u32]) -> Array {
    let h: usize = x.shape[1..].iter().product();
    let mut shape = x.shape.clone();
    shape[0] = indices.len();
    Array::new(&shape, indices.iter().flat_map(|i| x.data[*i as usize * h..][..h].to_vec()).collect())
}

pub(crate) fn check() {
    for (shape, indices) in [
        (&[3][..], &[2u32, 0, 2, 2][..]),
        (&[4, 5], &[3, 3, 1]),
        (&[2, 3, 2], &[1]),
        (&[4, 5], &[]),
        (&[2, 0], &[1, 0, 1]),
        (&[6, 24], &[5, 5, 0, 5, 3]),
    ] {
        Check::new(IndexSelect { indices: indices.into() }).input(shape).run(|i| vec![reference(&i[0], indices)]);
    }
    Check::new(IndexSelect { indices: [4, 0, 4].into() })
        .tensor(random(&[3, 5], 1, 1.0).transpose(0, 1).unwrap(), true)
        .run(|i| vec![reference(&i[0], &[4, 0, 4])]);
}

#[test]
fn an_index_outside_is_named() {
    let x = random(&[3, 2], 1, 1.0);
    let e = IndexSelect { indices: [0, 3].into() }.forward(&[&x], &[false]).err().unwrap().to_string();
    assert!(e.contains("index 3 at position 1") && e.contains("[3, 2]"), "{e}");
    assert!(IndexSelect { indices: [0].into() }.forward(&[&Tensor::scalar(1.0)], &[false]).is_err());
}
