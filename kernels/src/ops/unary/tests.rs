use super::*;
use crate::check::{Array, Check, random};
use crate::cpu::activation::exact;

fn function(kind: UnaryKind) -> fn(f64) -> f64 {
    match kind {
        UnaryKind::Exp => f64::exp,
        UnaryKind::Log => f64::ln,
        UnaryKind::Sqrt => f64::sqrt,
        UnaryKind::Rsqrt => |x| x.sqrt().recip(),
        UnaryKind::Square => |x| x * x,
        UnaryKind::Abs => f64::abs,
        UnaryKind::Sin => f64::sin,
        UnaryKind::Cos => f64::cos,
        UnaryKind::Tanh => f64::tanh,
        UnaryKind::Relu => |x| x.max(0.0),
        UnaryKind::Sigmoid => exact::sigmoid,
        UnaryKind::Silu => |x| x * exact::sigmoid(x),
        UnaryKind::Gelu => exact::gelu_erf,
        UnaryKind::GeluTanh => exact::gelu_tanh,
    }
}

fn reference(kind: UnaryKind, x: &Array) -> Array {
    Array::new(&x.shape, x.data.iter().map(|v| function(kind)(*v)).collect())
}

/// Random and inside the function's domain, away from the kinks at 0.
fn input(kind: UnaryKind, shape: &[usize]) -> Tensor {
    let x = random(shape, 1, 1.5).to_vec_f32().unwrap();
    let inside = |v: f32| match kind {
        UnaryKind::Log | UnaryKind::Sqrt | UnaryKind::Rsqrt => v.abs() + 0.3,
        _ => v + 1e-3f32.copysign(v),
    };
    Tensor::from_vec(x.into_iter().map(inside).collect(), shape).unwrap()
}

pub(crate) fn check() {
    for &kind in UnaryKind::ALL {
        for shape in [&[][..], &[5], &[3, 7], &[0, 2], &[1000]] {
            Check::new(Unary { kind }).tensor(input(kind, shape), true).run(|i| vec![reference(kind, &i[0])]);
        }
        let strided = input(kind, &[6, 5]).transpose(0, 1).unwrap().narrow(0, 1, 3).unwrap();
        Check::new(Unary { kind }).tensor(strided, true).run(|i| vec![reference(kind, &i[0])]);
        let half = input(kind, &[9]).to_dtype(DType::F16).unwrap();
        Check::new(Unary { kind }).tensor(half, true).run(|i| vec![reference(kind, &i[0])]);
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    for &kind in UnaryKind::ALL {
        Check::new(Unary { kind }).tensor(input(kind, &[40_001]), true).same_on_any_thread_count();
    }
}

#[test]
fn kinks_and_edges() {
    let at = |kind, x: f32| {
        let op = Unary { kind };
        let (y, saved) = op.forward(&[&Tensor::scalar(x)], &[true]).unwrap();
        let dx = op.backward(saved, &[Some(Tensor::scalar(1.0))], &[true]).unwrap();
        (y[0].item().unwrap(), dx[0].as_ref().unwrap().item().unwrap())
    };
    assert_eq!(at(UnaryKind::Relu, 0.0), (0.0, 0.0));
    assert!(at(UnaryKind::Relu, f32::NAN).0.is_nan());
    assert_eq!(at(UnaryKind::Abs, 0.0), (0.0, 0.0));
    assert_eq!(at(UnaryKind::Log, 0.0), (f32::NEG_INFINITY, f32::INFINITY));
    assert!(at(UnaryKind::Sqrt, -1.0).0.is_nan());
    assert_eq!(at(UnaryKind::Exp, 1000.0), (f32::INFINITY, f32::INFINITY));
}

#[test]
fn integers_are_an_error() {
    let ids = Tensor::from_vec(vec![1u32, 2], &[2]).unwrap();
    let e = Unary { kind: UnaryKind::Exp }.forward(&[&ids], &[false]).err().unwrap().to_string();
    assert!(e.contains("u32"), "{e}");
}
