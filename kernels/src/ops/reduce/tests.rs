use super::*;
use crate::check::{Array, Check, random};

fn reference(op: &Reduce, x: &Array) -> Array {
    let all: Vec<usize> = (0..x.shape.len()).collect();
    let dims = if op.dims.is_empty() { &all } else { &op.dims };
    let kept: Vec<usize> = x.shape.iter().enumerate().map(|(d, n)| if dims.contains(&d) { 1 } else { *n }).collect();
    let out: usize = kept.iter().product();
    let mut groups = vec![vec![]; out];
    for (flat, v) in x.data.iter().enumerate() {
        let (mut rest, mut at, mut stride) = (flat, 0, 1);
        for d in (0..kept.len()).rev() {
            at += (rest % x.shape[d]).min(kept[d] - 1) * stride;
            rest /= x.shape[d];
            stride *= kept[d];
        }
        groups[at].push(*v);
    }
    let value = |g: &Vec<f64>| match op.kind {
        ReduceKind::Sum => g.iter().sum(),
        ReduceKind::Mean => g.iter().sum::<f64>() / g.len() as f64,
        ReduceKind::Max => g.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    };
    let shape = (0..kept.len()).filter(|d| op.keepdim || !dims.contains(d)).map(|d| kept[d]).collect::<Vec<_>>();
    Array::new(&shape, groups.iter().map(value).collect())
}

pub(crate) fn check() {
    for kind in [ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max] {
        for (shape, dims) in [
            (&[7][..], &[0][..]),
            (&[3, 5], &[1]),
            (&[3, 5], &[0]),
            (&[3, 5], &[]),
            (&[2, 3, 4, 5], &[3, 0, 1]),
            (&[2, 3, 4, 5], &[2, 0]),
            (&[1, 4], &[0]),
            (&[], &[]),
            (&[0, 3], &[1]),
            (&[700, 3], &[0]),
            (&[2, 1111], &[1]),
            (&[2, 40, 35], &[1]),
        ] {
            for keepdim in [false, true] {
                let op = Reduce { kind, dims: dims.to_vec(), keepdim };
                Check::new(op.clone()).input(shape).run(|i| vec![reference(&op, &i[0])]);
            }
        }
        let op = Reduce { kind, dims: vec![1], keepdim: false };
        Check::new(op.clone())
            .tensor(random(&[4, 3, 5], 1, 1.0).permute(&[2, 0, 1]).unwrap(), true)
            .run(|i| vec![reference(&op, &i[0])]);
        Check::new(op.clone())
            .tensor(random(&[4, 1, 5], 1, 1.0).to_dtype(DType::BF16).unwrap(), true)
            .run(|i| vec![reference(&op, &i[0])]);
    }
    // Several stages on a GPU.
    for (kind, shape, dim) in [(ReduceKind::Max, [2, 8200], 1), (ReduceKind::Mean, [257, 16], 0)] {
        let op = Reduce { kind, dims: vec![dim], keepdim: false };
        Check::new(op.clone()).input(&shape).run(|i| vec![reference(&op, &i[0])]);
    }
    let op = Reduce { kind: ReduceKind::Sum, dims: vec![0], keepdim: false };
    Check::new(op.clone()).input(&[0, 3]).run(|i| vec![reference(&op, &i[0])]);
}

#[test]
fn same_bits_on_any_thread_count() {
    for dims in [vec![], vec![0], vec![1]] {
        for shape in [[2000, 37], [37, 5000]] {
            Check::new(Reduce { kind: ReduceKind::Sum, dims: dims.clone(), keepdim: false })
                .input(&shape)
                .same_on_any_thread_count();
        }
    }
}

/// A million ones: a running f32 sum of random numbers would have drifted, the tree has not.
#[test]
fn long_sums_keep_their_accuracy() {
    let x = random(&[1 << 20], 3, 1.0);
    let op = Reduce { kind: ReduceKind::Sum, dims: vec![], keepdim: false };
    let (y, _) = op.forward(&[&x], &[false]).unwrap();
    let exact: f64 = x.to_vec_f32().unwrap().iter().map(|v| f64::from(*v)).sum();
    assert!((f64::from(y[0].item().unwrap()) - exact).abs() < 1e-3, "{:?} for {exact}", y[0].item());
}

#[test]
fn equal_maxima_share_the_gradient_and_nan_wins() {
    let op = Reduce { kind: ReduceKind::Max, dims: vec![], keepdim: false };
    let x = Tensor::from_vec(vec![1.0f32, 5.0, 5.0, 2.0], &[4]).unwrap();
    let (_, saved) = op.forward(&[&x], &[true]).unwrap();
    let dx = op.backward(saved, &[Some(Tensor::scalar(3.0))], &[true]).unwrap();
    assert_eq!(dx[0].as_ref().unwrap().to_vec_f32().unwrap(), [0.0, 1.5, 1.5, 0.0]);
    for at in [0, 9, 19] {
        let mut values = vec![1.0f32; 20];
        values[at] = f32::NAN;
        let (y, _) = op.forward(&[&Tensor::from_vec(values, &[20]).unwrap()], &[false]).unwrap();
        assert!(y[0].item().unwrap().is_nan(), "NaN at {at}");
    }
}

#[test]
fn wrong_dimensions_are_errors() {
    let message = |kind, dims: &[usize], shape: &[usize]| {
        let op = Reduce { kind, dims: dims.to_vec(), keepdim: false };
        op.forward(&[&random(shape, 1, 1.0)], &[false]).err().unwrap().to_string()
    };
    for dims in [&[2][..], &[0, 0]] {
        let e = message(ReduceKind::Sum, dims, &[2, 3]);
        assert!(e.contains("[2, 3]") && e.contains(&format!("{dims:?}")), "{e}");
    }
    assert!(message(ReduceKind::Max, &[0], &[0, 3]).contains("[0, 3]"));
}
