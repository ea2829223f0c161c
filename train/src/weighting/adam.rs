//! Adam on a handful of f64 numbers: the weights' own optimizer (Kingma & Ba, arXiv 1412.6980).

use serde::{Deserialize, Serialize};

const BETA1: f64 = 0.9;
const BETA2: f64 = 0.999;
const EPS: f64 = 1e-8;

/// Moments and step counts, one each a number: a number without a gradient is left alone, as PyTorch leaves
/// a parameter whose gradient is `None`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adam {
    first: Vec<f64>,
    second: Vec<f64>,
    steps: Vec<i32>,
}

impl Adam {
    pub fn new(count: usize) -> Self {
        Adam { first: vec![0.0; count], second: vec![0.0; count], steps: vec![0; count] }
    }

    /// One step on `values`; `decay` is added to the gradient (L2, not decoupled: `torch.optim.Adam`).
    pub fn step(&mut self, values: &mut [f64], gradient: &[Option<f64>], lr: f64, decay: f64) {
        let moments = self.first.iter_mut().zip(&mut self.second).zip(&mut self.steps);
        for (((m, v), steps), (x, g)) in moments.zip(values.iter_mut().zip(gradient)) {
            let Some(g) = g else { continue };
            let g = g + decay * *x;
            *steps += 1;
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            let m_hat = *m / (1.0 - BETA1.powi(*steps));
            let v_hat = *v / (1.0 - BETA2.powi(*steps));
            *x -= lr * m_hat / (v_hat.sqrt() + EPS);
        }
    }
}
