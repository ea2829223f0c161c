use super::*;
use crate::check::{Array, Check, random};

pub(crate) fn check() {
    for (from, to) in [(&[2, 6][..], &[3, 4][..]), (&[5], &[5, 1]), (&[0, 3], &[0])] {
        Check::new(Reshape { shape: to.to_vec() }).input(from).run(|i| vec![Array::new(to, i[0].data.clone())]);
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
