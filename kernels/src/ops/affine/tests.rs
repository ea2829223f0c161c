use super::*;
use crate::check::{Array, Check, random};

pub(crate) fn check() {
    for (mul, add) in [(2.5f32, -1.0f32), (0.0, 3.0), (-1.0, 0.0)] {
        let reference = |i: &[Array]| {
            let data = i[0].data.iter().map(|x| f64::from(mul) * x + f64::from(add));
            vec![Array::new(&i[0].shape, data.collect())]
        };
        for shape in [&[][..], &[5], &[3, 7], &[0, 2]] {
            Check::new(Affine { mul, add }).input(shape).run(reference);
        }
        Check::new(Affine { mul, add })
            .tensor(random(&[6, 5], 1, 1.0).transpose(0, 1).unwrap(), true)
            .run(reference);
    }
}

#[test]
fn integers_are_an_error() {
    let ids = Tensor::from_vec(vec![1u32, 2], &[2]).unwrap();
    assert!(Affine { mul: 1.0, add: 0.0 }.forward(&[&ids], &[false]).is_err());
}
