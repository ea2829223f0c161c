use super::*;
use crate::check::{Array, Check, random};
use crate::ops::binary::tests::broadcast;
use medley_tensor::device::Device;

fn reference(i: &[Array]) -> Vec<Array> {
    let split = |x: &Array| {
        let r = x.shape.len();
        (x.shape[..r - 2].to_vec(), x.shape[r - 2], x.shape[r - 1])
    };
    let ((batch_a, m, k), (batch_b, _, n)) = (split(&i[0]), split(&i[1]));
    let batch = broadcast_shape("reference", &batch_a, &batch_b).unwrap();
    let full = |r: usize, c: usize| [&batch[..], &[r, c]].concat();
    let (a, b) = (broadcast(&i[0], &full(m, k)), broadcast(&i[1], &full(k, n)));
    let mut out = vec![];
    for s in 0..batch.iter().product::<usize>() {
        for r in 0..m {
            for c in 0..n {
                out.push((0..k).map(|j| a.data[(s * m + r) * k + j] * b.data[(s * k + j) * n + c]).sum());
            }
        }
    }
    vec![Array::new(&full(m, n), out)]
}

pub(crate) fn check() {
    for (a, b) in [
        (&[1, 1][..], &[1, 1][..]),
        (&[3, 5], &[5, 4]),
        (&[2, 3, 5], &[5, 4]),
        (&[2, 3, 5], &[2, 5, 4]),
        (&[3, 5], &[2, 5, 4]),
        (&[2, 1, 3, 5], &[4, 5, 2]),
        (&[1, 3, 5], &[4, 5, 2]),
        (&[0, 5], &[5, 4]),
        (&[3, 0], &[0, 4]),
        (&[0, 3, 5], &[5, 4]),
        (&[33, 40], &[40, 17]),
    ] {
        Check::new(Matmul {}).input(a).input(b).run(reference);
    }
    Check::new(Matmul {})
        .tensor(random(&[3, 4, 2], 1, 1.0).permute(&[1, 2, 0]).unwrap(), true)
        .tensor(random(&[6, 5], 2, 1.0).transpose(0, 1).unwrap().narrow(0, 1, 3).unwrap(), true)
        .run(reference);
}

/// Operands of two dtypes give f32 on both devices.
#[test]
fn mixed_dtypes_give_f32() {
    let a = random(&[2, 3, 4], 1, 1.0).to_dtype(DType::BF16).unwrap();
    let b = random(&[2, 4, 3], 2, 1.0).to_dtype(DType::F16).unwrap();
    let want = &reference(&[Array::of(&a), Array::of(&b)])[0].data;
    let on = Device::Cuda(crate::check::device::device());
    for (a, b) in [(a.clone(), b.clone()), (a.to_device(&on).unwrap(), b.to_device(&on).unwrap())] {
        let (y, saved) = Matmul {}.forward(&[&a, &b], &[true; 2]).unwrap();
        assert_eq!(y[0].dtype(), DType::F32);
        for (got, want) in y[0].to_vec_f32().unwrap().iter().zip(want) {
            assert!((f64::from(*got) - want).abs() < 1e-5, "{got} {want}");
        }
        let grads = Matmul {}.backward(saved, &[Some(y[0].clone())], &[true; 2]).unwrap();
        assert!(grads.iter().all(|g| g.as_ref().unwrap().dtype() == DType::F32));
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Matmul {}).input(&[6, 70, 90]).input(&[6, 90, 50]).same_on_any_thread_count();
    Check::new(Matmul {}).input(&[300, 90]).input(&[90, 200]).same_on_any_thread_count();
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let message = |a: &[usize], b: &[usize]| {
        Matmul {}.forward(&[&random(a, 1, 1.0), &random(b, 2, 1.0)], &[false; 2]).err().unwrap().to_string()
    };
    for (a, b) in [(&[2, 3][..], &[4, 2][..]), (&[3], &[3, 2]), (&[2, 2, 3], &[3, 3, 2])] {
        let e = message(a, b);
        assert!(e.contains("matmul"), "{e}");
        assert!(e.contains(&format!("{a:?}")) || e.contains("[2]"), "{e}");
    }
    let ids = Tensor::from_vec(vec![1u32; 4], &[2, 2]).unwrap();
    assert!(Matmul {}.forward(&[&ids, &ids], &[false; 2]).is_err());
}
