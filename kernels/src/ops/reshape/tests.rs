use super::*;
use crate::check::{Array, Check, random};

pub(crate) fn check() {
    for (from, to) in [(&[2, 6][..], &[3, 4][..]), (&[5], &[5, 1]), (&[0, 3], &[0])] {
        Check::new(Reshape { shape: to.to_vec() }).input(from).run(|i| vec![Array::new(to, i[0].data.clone())]);
    }
    for (shape, order) in [(&[3, 66, 70][..], &[0, 2, 1][..]), (&[35, 2, 34], &[2, 1, 0]), (&[2, 3, 4, 5], &[1, 3, 0, 2])] {
        let x = random(shape, 1, 1.0).permute(order).unwrap();
        let n = x.numel();
        Check::new(Reshape { shape: vec![n] }).tensor(x, true).run(|i| vec![Array::new(&[n], i[0].data.clone())]);
    }
    let strided = random(&[3, 4], 1, 1.0).transpose(0, 1).unwrap();
    Check::new(Reshape { shape: vec![2, 6] })
        .tensor(strided, true)
        .run(|i| vec![Array::new(&[2, 6], i[0].data.clone())]);
}

#[test]
fn another_number_of_elements_is_an_error() {
    let x = random(&[2, 3], 1, 1.0);
    assert!(Reshape { shape: vec![5] }.forward(&[&x], &[false]).is_err());
}
