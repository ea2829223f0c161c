//! The gradient check every op passes.
//!
//! The op's f32 forward is compared with a reference written in f64; its f32 backward with
//! central differences *of that reference*. The differences are then exact to about 1e-9, so the
//! bound measures the op's own arithmetic instead of hiding errors behind difference noise. Then the op
//! runs on a simulated GPU in every compute dtype and is compared with the CPU ([`device`]).

pub(crate) mod device;
mod mutation;
mod threads;

use medley_tensor::rng::Philox;
use medley_tensor::{DType, Op, Tensor};

/// An n-dimensional f64 array of a reference.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f64>,
}

impl Array {
    pub(crate) fn new(shape: &[usize], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "reference shape");
        Array { shape: shape.to_vec(), data }
    }

    pub(crate) fn of(t: &Tensor) -> Self {
        Array::new(t.shape(), t.to_vec_f32().unwrap().into_iter().map(f64::from).collect())
    }
}

/// At most this many elements of an input are differenced; larger inputs are sampled.
const MAX_DIFFERENCES: usize = 160;

/// Random numbers in a tensor of `shape`, normal with standard deviation `scale`.
pub(crate) fn random(shape: &[usize], seed: u64, scale: f32) -> Tensor {
    let mut rng = Philox::new(seed, 99);
    let n = shape.iter().product();
    Tensor::from_vec((0..n).map(|_| rng.normal_f32() * scale).collect::<Vec<f32>>(), shape).unwrap()
}

/// A check under construction: the op, then its inputs in order, then `run`.
pub(crate) struct Check<O: Op> {
    op: O,
    inputs: Vec<Tensor>,
    needs: Vec<bool>,
    tolerance: f64,
}

impl<O: Op> Check<O> {
    pub(crate) fn new(op: O) -> Self {
        Check { op, inputs: vec![], needs: vec![], tolerance: 2e-5 }
    }

    /// A random differentiable f32 input.
    pub(crate) fn input(self, shape: &[usize]) -> Self {
        let seed = self.inputs.len() as u64 + 1;
        self.tensor(random(shape, seed, 1.0), true)
    }

    /// A given input; `needs_grad` says whether its gradient is checked.
    pub(crate) fn tensor(mut self, t: Tensor, needs_grad: bool) -> Self {
        self.inputs.push(t);
        self.needs.push(needs_grad);
        self
    }

    /// A random input stored in a narrower dtype, without a gradient (a frozen weight).
    pub(crate) fn frozen(self, shape: &[usize], dtype: DType) -> Self {
        let seed = self.inputs.len() as u64 + 1;
        let t = random(shape, seed, 1.0);
        let t = if dtype == DType::Nf4 {
            let m =
                medley_tensor::quant::Nf4Matrix::quantize(t.as_slice().unwrap(), shape[0], shape[1], true)
                    .unwrap();
            Tensor::from_nf4(m)
        } else {
            t.to_dtype(dtype).unwrap()
        };
        self.tensor(t, false)
    }

    /// Bound on |error| / (1 + |value|) of outputs and gradients; 2e-5 unless given.
    pub(crate) fn tolerance(mut self, t: f64) -> Self {
        self.tolerance = t;
        self
    }

    /// Runs the op and compares it with `reference`, outputs and gradients.
    pub(crate) fn run(self, reference: impl Fn(&[Array]) -> Vec<Array>) {
        let refs: Vec<&Tensor> = self.inputs.iter().collect();
        O::check_arity(refs.len()).unwrap();
        let (outputs, saved) = self.op.forward(&refs, &self.needs).unwrap();
        assert_eq!(outputs.len(), O::OUTPUTS, "{}: OUTPUTS", O::NAME);
        let mut arrays: Vec<Array> = refs.iter().map(|t| Array::of(t)).collect();
        let expected = reference(&arrays);
        assert_eq!(expected.len(), outputs.len(), "{}: reference outputs", O::NAME);
        for (j, (got, want)) in outputs.iter().zip(&expected).enumerate() {
            assert_eq!(got.shape(), want.shape, "{}: shape of output {j}", O::NAME);
            self.close(&format!("output {j}"), &got.to_vec_f32().unwrap(), &want.data);
        }

        // A random cotangent an output turns all outputs into one scalar.
        let cotangents: Vec<Tensor> =
            outputs.iter().enumerate().map(|(j, o)| random(o.shape(), 1000 + j as u64, 1.0)).collect();
        let weights: Vec<Array> = cotangents.iter().map(Array::of).collect();
        let scalar = |arrays: &[Array]| -> f64 {
            let outs = reference(arrays);
            outs.iter()
                .zip(&weights)
                .map(|(o, w)| o.data.iter().zip(&w.data).map(|(a, b)| a * b).sum::<f64>())
                .sum()
        };
        let grads: Vec<Option<Tensor>> = cotangents.iter().cloned().map(Some).collect();
        let got = self.op.backward(saved, &grads, &self.needs).unwrap();
        assert_eq!(got.len(), refs.len(), "{}: one gradient slot an input", O::NAME);

        for i in 0..refs.len() {
            let Some(got) = &got[i] else {
                assert!(
                    !self.needs[i] || refs[i].numel() == 0,
                    "{}: gradient of input {i} is missing",
                    O::NAME
                );
                continue;
            };
            if !self.needs[i] {
                continue;
            }
            assert_eq!(got.shape(), refs[i].shape(), "{}: shape of gradient {i}", O::NAME);
            let got = got.to_vec_f32().unwrap();
            let n = got.len();
            let mut rng = Philox::new(5, i as u64);
            let at: Vec<usize> = if n <= MAX_DIFFERENCES {
                (0..n).collect()
            } else {
                (0..MAX_DIFFERENCES).map(|_| rng.below(n)).collect()
            };
            let (mut g, mut w) = (vec![], vec![]);
            for e in at {
                let x = arrays[i].data[e];
                let step = 1e-5 * (1.0 + x.abs());
                arrays[i].data[e] = x + step;
                let high = scalar(&arrays);
                arrays[i].data[e] = x - step;
                let low = scalar(&arrays);
                arrays[i].data[e] = x;
                g.push(got[e]);
                w.push((high - low) / (2.0 * step));
            }
            self.close(&format!("gradient of input {i}"), &g, &w);
        }
        self.same_on_device();
    }

    fn close(&self, what: &str, got: &[f32], want: &[f64]) {
        for (e, (g, w)) in got.iter().zip(want).enumerate() {
            let error = (f64::from(*g) - w).abs() / (1.0 + w.abs());
            assert!(
                error <= self.tolerance,
                "{}: {what}, element {e}: got {g}, reference {w} (error {error:.1e} > {:.0e})",
                O::NAME,
                self.tolerance
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::RmsNorm;

    /// The harness itself must fail on a wrong reference, or it proves nothing.
    #[test]
    #[should_panic(expected = "gradient of input")]
    fn a_wrong_gradient_is_caught() {
        let wrong = std::cell::Cell::new(0);
        Check::new(RmsNorm { eps: 1e-5 }).input(&[2, 4]).input(&[4]).run(|i| {
            // Right on the first call (the forward comparison), off by a factor afterwards.
            let mut y = crate::ops::rms_norm::tests::reference(&i[0], &i[1], 1e-5f32 as f64);
            if wrong.replace(1) > 0 {
                y.data.iter_mut().for_each(|v| *v *= 1.001);
            }
            vec![y]
        });
    }
}
