use super::*;
use crate::check::{Array, Check, random};
use medley_tensor::device::Device;

const KINDS: [BinaryKind; 4] = [BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Div];

/// `x` repeated to `shape` by index arithmetic.
pub(crate) fn broadcast(x: &Array, shape: &[usize]) -> Array {
    let lead = shape.len() - x.shape.len();
    let data = (0..shape.iter().product()).map(|mut flat: usize| {
        let (mut at, mut stride) = (0, 1);
        for d in (0..shape.len()).rev() {
            let i = flat % shape[d];
            flat /= shape[d];
            if d >= lead {
                at += i.min(x.shape[d - lead] - 1) * stride;
                stride *= x.shape[d - lead];
            }
        }
        x.data[at]
    });
    Array::new(shape, data.collect())
}

fn reference(kind: BinaryKind, i: &[Array]) -> Vec<Array> {
    let shape = broadcast_shape("reference", &i[0].shape, &i[1].shape).unwrap();
    let (a, b) = (broadcast(&i[0], &shape), broadcast(&i[1], &shape));
    let f = |(a, b): (&f64, &f64)| match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
    };
    vec![Array::new(&shape, a.data.iter().zip(&b.data).map(f).collect())]
}

/// Random, at least 0.5 from zero: safe to divide by.
fn divisor(shape: &[usize]) -> Tensor {
    let data = random(shape, 2, 1.0).to_vec_f32().unwrap();
    Tensor::from_vec(data.into_iter().map(|v| v + 0.5f32.copysign(v)).collect(), shape).unwrap()
}

pub(crate) fn check() {
    for kind in KINDS {
        for (a, b) in [
            (&[5][..], &[5][..]),
            (&[2, 3], &[2, 3]),
            (&[2, 3], &[3]),
            (&[3], &[2, 3]),
            (&[4, 1, 3], &[2, 1]),
            (&[2, 1], &[1, 3]),
            (&[], &[2, 2]),
            (&[0, 3], &[3]),
            (&[2, 0], &[2, 1]),
            (&[600], &[1]),
            (&[5, 16], &[16]),
            (&[2, 3, 2, 2, 2, 3, 2, 2], &[3, 1, 2, 1, 3, 1, 2]),
        ] {
            Check::new(Binary { kind }).input(a).tensor(divisor(b), true).run(|i| reference(kind, i));
        }
        Check::new(Binary { kind })
            .tensor(random(&[3, 4], 1, 1.0).transpose(0, 1).unwrap(), true)
            .tensor(divisor(&[9]).narrow(0, 2, 3).unwrap(), true)
            .run(|i| reference(kind, i));
        let bf16 = random(&[3], 1, 1.0).to_dtype(DType::BF16).unwrap();
        Check::new(Binary { kind }).tensor(bf16, true).tensor(divisor(&[2, 3]), true).run(|i| reference(kind, i));
    }
}

#[test]
fn dtypes_that_differ_meet_in_f32_on_a_gpu() {
    let on = Device::Cuda(crate::check::device::device());
    let a = random(&[2, 3], 1, 1.0).to_dtype(DType::BF16).unwrap();
    let b = divisor(&[3]);
    let op = Binary { kind: BinaryKind::Div };
    let (want, _) = op.forward(&[&a, &b], &[false; 2]).unwrap();
    let (y, saved) = op.forward(&[&a.to_device(&on).unwrap(), &b.to_device(&on).unwrap()], &[true; 2]).unwrap();
    assert_eq!((y[0].dtype(), y[0].to_vec_f32().unwrap()), (DType::F32, want[0].to_vec_f32().unwrap()));
    let d = op.backward(saved, &[Some(y[0].clone())], &[true; 2]).unwrap();
    let dtypes = d.iter().map(|d| d.as_ref().unwrap().dtype()).collect::<Vec<_>>();
    assert_eq!(dtypes, [DType::BF16, DType::F32]);
}

#[test]
fn same_bits_on_any_thread_count() {
    for kind in KINDS {
        Check::new(Binary { kind }).input(&[700, 90]).tensor(divisor(&[90]), true).same_on_any_thread_count();
    }
}

#[test]
fn one_gradient_alone() {
    let (a, b) = (random(&[2, 3], 1, 1.0), divisor(&[3]));
    for kind in KINDS {
        let op = Binary { kind };
        let all = |needs: &[bool]| {
            let (y, saved) = op.forward(&[&a, &b], needs).unwrap();
            op.backward(saved, &[Some(y[0].clone())], needs).unwrap()
        };
        let value = |t: &Option<Tensor>| t.as_ref().unwrap().to_vec_f32().unwrap();
        let (both, first, second) = (all(&[true, true]), all(&[true, false]), all(&[false, true]));
        assert!(first[1].is_none() && second[0].is_none());
        assert_eq!((value(&both[0]), value(&both[1])), (value(&first[0]), value(&second[1])));
    }
}

#[test]
fn shapes_that_do_not_broadcast_are_an_error() {
    let (a, b) = (random(&[2, 3], 1, 1.0), random(&[2], 2, 1.0));
    let op = Binary { kind: BinaryKind::Div };
    let e = op.forward(&[&a, &b], &[false; 2]).err().unwrap().to_string();
    assert!(e.contains("div") && e.contains("[2, 3]") && e.contains("[2]"), "{e}");
}
