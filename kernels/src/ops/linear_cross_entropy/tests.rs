use super::*;
use crate::check::{Array, Check, random};
use medley_tensor::rng::Philox;

/// The op without its second output, which is not differentiable.
#[derive(Clone)]
struct LossOnly(LinearCrossEntropy);

impl Op for LossOnly {
    const NAME: &'static str = LinearCrossEntropy::NAME;
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Compute;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Saved)> {
        let (mut outputs, saved) = self.0.forward(inputs, needs)?;
        outputs.truncate(1);
        Ok((outputs, saved))
    }

    fn backward(&self, saved: Saved, grads: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        self.0.backward(saved, &[grads[0].clone(), None], needs)
    }
}

fn reference_nll(op: &LinearCrossEntropy, hidden: &Array, w: &Array) -> Vec<f64> {
    let (v, h) = (w.shape[0], w.shape[1]);
    let pairs = op.rows.iter().zip(&*op.targets);
    pairs
        .map(|(row, target)| {
            let x = &hidden.data[*row as usize * h..][..h];
            let dot = |j: usize| x.iter().zip(&w.data[j * h..]).map(|(a, b)| a * b).sum::<f64>();
            (0..v).map(|j| dot(j).exp()).sum::<f64>().ln() - dot(*target as usize)
        })
        .collect()
}

fn reference(op: &LinearCrossEntropy, i: &[Array]) -> Vec<Array> {
    let nll = reference_nll(op, &i[0], &i[1]);
    let loss = nll.iter().zip(&*op.weights).map(|(n, w)| n * f64::from(*w)).sum();
    vec![Array::new(&[], vec![loss])]
}

/// `r` random labels for `t` rows and `v` tokens; rows may repeat.
fn labels(t: usize, v: usize, r: usize) -> LinearCrossEntropy {
    let mut rng = Philox::new(3, 4);
    LinearCrossEntropy {
        rows: (0..r).map(|_| rng.below(t) as u32).collect(),
        targets: (0..r).map(|_| rng.below(v) as u32).collect(),
        weights: (0..r).map(|_| rng.uniform_f32() * 0.2).collect(),
        expected_upstream: 1.0,
    }
}

pub(crate) fn check() {
    for (t, h, v, r) in [(1, 1, 1, 1), (3, 5, 7, 2), (6, 8, 33, 6), (9, 17, 100, 20), (4, 3, 5, 0), (0, 3, 5, 0)] {
        let op = labels(t, v, r);
        Check::new(LossOnly(op.clone())).input(&[t, h]).input(&[v, h]).run(|i| reference(&op, i));
    }
    for dtype in [DType::F32, DType::BF16, DType::F16, DType::Nf4] {
        let op = labels(6, 40, 5);
        Check::new(LossOnly(op.clone()))
            .tensor(random(&[2, 3, 16], 5, 0.5), true)
            .frozen(&[40, 16], dtype)
            .run(|i| reference(&op, i));
    }
}

#[test]
fn several_chunks_give_the_same_as_one() {
    let op = labels(300, 70, CHUNK_ROWS + 57);
    let (hidden, w) = (random(&[300, 12], 1, 1.0), random(&[70, 12], 2, 1.0));
    let (out, _) = op.forward(&[&hidden, &w], &[true, true]).unwrap();
    let want = reference_nll(&op, &Array::of(&hidden), &Array::of(&w));
    for (got, want) in out[1].to_vec_f32().unwrap().iter().zip(&want) {
        assert!((f64::from(*got) - want).abs() < 1e-5 * (1.0 + want), "{got} for {want}");
    }
    Check::new(LossOnly(op.clone())).tensor(hidden, true).tensor(w, true).run(|i| reference(&op, i));
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(LossOnly(labels(90, 500, 300))).input(&[90, 40]).input(&[500, 40]).same_on_any_thread_count();
}

#[test]
fn gradients_that_are_not_needed_are_not_made() {
    let op = labels(4, 9, 3);
    let (hidden, w) = (random(&[4, 5], 1, 1.0), random(&[9, 5], 2, 1.0));
    let (full, _) = op.forward(&[&hidden, &w], &[true, true]).unwrap();
    for needs in [[false, false], [true, false], [false, true]] {
        let (out, saved) = op.forward(&[&hidden, &w], &needs).unwrap();
        assert_eq!(out[0].item().unwrap(), full[0].item().unwrap());
        assert_eq!([saved.d_rows.is_some(), saved.d_weight.is_some()], needs);
    }
}

#[test]
fn extreme_and_non_finite_logits() {
    let op = LinearCrossEntropy {
        rows: [0].into(),
        targets: [1].into(),
        weights: [1.0].into(),
        expected_upstream: 1.0,
    };
    let loss = |x: f32, w: [f32; 3]| {
        let hidden = Tensor::from_vec(vec![x], &[1, 1]).unwrap();
        let w = Tensor::from_vec(w.to_vec(), &[3, 1]).unwrap();
        op.forward(&[&hidden, &w], &[true, true]).unwrap().0[0].item().unwrap()
    };
    assert_eq!(loss(1000.0, [0.0, 1.0, -1.0]), 0.0);
    assert_eq!(loss(1000.0, [1.0, 0.0, -1.0]), 1000.0);
    assert_eq!(loss(1.0, [0.0, f32::NEG_INFINITY, 0.0]), f32::INFINITY);
    for w in [[f32::NAN, 0.0, 0.0], [0.0, f32::NAN, 0.0], [f32::INFINITY, 0.0, 1.0], [f32::NAN; 3]] {
        assert!(!loss(1.0, w).is_finite(), "{w:?}");
    }
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let (hidden, w) = (random(&[4, 5], 1, 1.0), random(&[9, 5], 2, 1.0));
    let error = |rows: &[u32], targets: &[u32]| {
        let op = LinearCrossEntropy {
            rows: rows.into(),
            targets: targets.into(),
            weights: vec![1.0; rows.len()].into(),
            expected_upstream: 1.0,
        };
        op.forward(&[&hidden, &w], &[false; 2]).map(|_| ()).unwrap_err().to_string()
    };
    let text = error(&[1, 3], &[8, 9]);
    assert!(text.contains("row 3") && text.contains("token 9") && text.contains("vocabulary of 9"), "{text}");
    assert!(error(&[4], &[0]).contains("4 rows"));
    assert!(error(&[0], &[0, 1]).contains("2 targets"));
    let narrow = random(&[4, 6], 1, 1.0);
    let text = labels(4, 9, 1).forward(&[&narrow, &w], &[false; 2]).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("[4, 6]"), "{text}");
    let (_, saved) = labels(4, 9, 2).forward(&[&hidden, &w], &[true; 2]).unwrap();
    let nll_grad = [None, Some(random(&[2], 1, 1.0))];
    assert!(labels(4, 9, 2).backward(saved, &nll_grad, &[true; 2]).is_err());
}

/// What fp16 training does: gradients formed for the loss scale, then an upstream gradient equal to it, or
/// (after a back-off) half of it.
#[test]
fn gradients_are_right_whatever_upstream_was_expected() {
    let (hidden, w) = (random(&[6, 5], 1, 1.0), random(&[9, 5], 2, 1.0));
    let gradients = |expected: f32, upstream: f32| -> Vec<f32> {
        let op = LinearCrossEntropy { expected_upstream: expected, ..labels(6, 9, 5) };
        let (_, saved) = op.forward(&[&hidden, &w], &[true; 2]).unwrap();
        let grads = op.backward(saved, &[Some(Tensor::scalar(upstream)), None], &[true; 2]).unwrap();
        grads.iter().flat_map(|g| g.as_ref().unwrap().to_vec_f32().unwrap()).collect()
    };
    let plain = gradients(1.0, 1.0);
    for (expected, upstream) in [(1.0, 1024.0), (1024.0, 1024.0), (1024.0, 512.0)] {
        for (got, want) in gradients(expected, upstream).iter().zip(&plain) {
            let want = want * upstream;
            assert!((got - want).abs() <= 1e-6 * want.abs(), "{expected} {upstream}: {got} for {want}");
        }
    }
    for wrong in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let op = LinearCrossEntropy { expected_upstream: wrong, ..labels(6, 9, 5) };
        let e = op.forward(&[&hidden, &w], &[true; 2]).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("expected_upstream"), "{e}");
    }
}
