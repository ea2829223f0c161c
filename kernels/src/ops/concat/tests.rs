use super::*;
use crate::check::{Array, Check, random};

fn reference(inputs: &[Array], dim: usize) -> Array {
    let outer: usize = inputs[0].shape[..dim].iter().product();
    let mut shape = inputs[0].shape.clone();
    shape[dim] = inputs.iter().map(|i| i.shape[dim]).sum();
    let mut data = vec![];
    for o in 0..outer {
        for i in inputs {
            let n: usize = i.shape[dim..].iter().product();
            data.extend(&i.data[o * n..(o + 1) * n]);
        }
    }
    Array::new(&shape, data)
}

pub(crate) fn check() {
    for (shapes, dim) in [
        (&[&[3][..]][..], 0),
        (&[&[3], &[0], &[2]], 0),
        (&[&[2, 3], &[2, 1], &[2, 4]], 1),
        (&[&[2, 3, 2], &[4, 3, 2]], 0),
        (&[&[2, 3, 2], &[2, 5, 2]], 1),
        (&[&[0, 3], &[0, 2]], 1),
        (&[&[3, 16], &[3, 8]], 1),
    ] {
        let mut check = Check::new(Concat { dim });
        for shape in shapes {
            check = check.input(shape);
        }
        check.run(|i| vec![reference(i, dim)]);
    }
    Check::new(Concat { dim: 1 })
        .tensor(random(&[3, 4], 1, 1.0).transpose(0, 1).unwrap(), true)
        .input(&[4, 2])
        .run(|i| vec![reference(i, 1)]);
}

#[test]
fn only_wanted_gradients_are_returned() {
    let (a, b) = (random(&[2], 1, 1.0), random(&[3], 2, 1.0));
    let (y, saved) = Concat { dim: 0 }.forward(&[&a, &b], &[false, true]).unwrap();
    let grads = Concat { dim: 0 }.backward(saved, &[Some(y[0].clone())], &[false, true]).unwrap();
    assert!(grads[0].is_none());
    assert_eq!(grads[1].as_ref().unwrap().to_vec_f32().unwrap(), b.to_vec_f32().unwrap());
}

#[test]
fn shapes_that_do_not_join_are_errors() {
    let (a, b) = (random(&[2, 3], 1, 1.0), random(&[3, 3], 2, 1.0));
    let e = Concat { dim: 1 }.forward(&[&a, &b], &[false; 2]).err().unwrap().to_string();
    assert!(e.contains("[2, 3]") && e.contains("[3, 3]"), "{e}");
    assert!(Concat { dim: 2 }.forward(&[&a, &a], &[false; 2]).is_err());
    assert!(Concat { dim: 0 }.forward(&[&a, &random(&[3], 1, 1.0)], &[false; 2]).is_err());
}
