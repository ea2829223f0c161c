use super::*;
use crate::check::{Array, Check, random};
use crate::ops::rms_norm::tests::reference as norm;

fn reference(i: &[Array]) -> Vec<Array> {
    let sum = i[0].data.iter().zip(&i[1].data).map(|(a, b)| a + b).collect();
    let x = Array::new(&i[0].shape, sum);
    vec![norm(&x, &i[2], f64::from(1e-5f32)), x]
}

pub(crate) fn check() {
    // Rows of one element, of one warp, ragged ones of several steps, many rows, one wider than a block.
    for shape in [&[1, 1][..], &[3, 5], &[2, 3, 17], &[2, 300], &[70, 24], &[1, 8200], &[0, 4]] {
        let h = *shape.last().unwrap();
        Check::new(AddRmsNorm { eps: 1e-5 }).input(shape).input(shape).input(&[h]).run(reference);
    }
    Check::new(AddRmsNorm { eps: 1e-5 })
        .tensor(random(&[6, 4], 1, 1.0).transpose(0, 1).unwrap(), true)
        .input(&[4, 6])
        .tensor(random(&[6], 2, 1.0).to_dtype(medley_tensor::DType::BF16).unwrap(), true)
        .run(reference);
}

#[test]
fn same_bits_on_any_thread_count() {
    let shape = [700, 130];
    Check::new(AddRmsNorm { eps: 1e-5 })
        .input(&shape)
        .input(&shape)
        .input(&[130])
        .same_on_any_thread_count();
}

/// With both gradients the result is the sum of what each alone gives.
#[test]
fn either_output_may_be_unused() {
    let [a, b] = [1, 2].map(|seed| random(&[3, 8], seed, 1.0));
    let w = random(&[8], 3, 1.0);
    let (dy, dx) = (random(&[3, 8], 4, 1.0), random(&[3, 8], 5, 1.0));
    let op = AddRmsNorm { eps: 1e-5 };
    let back = |dy: Option<&Tensor>, dx: Option<&Tensor>| {
        let (_, saved) = op.forward(&[&a, &b, &w], &[true; 3]).unwrap();
        let grads = op.backward(saved, &[dy.cloned(), dx.cloned()], &[true, false, true]).unwrap();
        assert!(grads[1].is_none(), "a gradient nobody asked for");
        grads
    };
    let values = |g: &[Option<Tensor>], i: usize| g[i].as_ref().unwrap().to_vec_f32().unwrap();
    let (both, y_only, x_only) =
        (back(Some(&dy), Some(&dx)), back(Some(&dy), None), back(None, Some(&dx)));
    assert_eq!(values(&x_only, 0), dx.to_vec_f32().unwrap());
    assert!(x_only[2].is_none());
    assert_eq!(values(&both, 2), values(&y_only, 2));
    for ((s, y), x) in values(&both, 0).iter().zip(values(&y_only, 0)).zip(values(&x_only, 0)) {
        assert_eq!(*s, y + x);
    }
    assert!(back(None, None).iter().all(Option::is_none));
}

#[test]
fn different_shapes_are_an_error() {
    let (a, b, w) = (random(&[2, 3], 1, 1.0), random(&[3, 2], 2, 1.0), random(&[3], 3, 1.0));
    let e = AddRmsNorm { eps: 1e-5 }.forward(&[&a, &b, &w], &[false; 3]).err().unwrap().to_string();
    assert!(e.contains("[2, 3]") && e.contains("[3, 2]"), "{e}");
}
