//! Gradients taken out of their parameters, so that several sets can be held and combined: one a task.

use crate::{Param, Var, no_grad};
use medley_kernels::ops::Affine;
use medley_kernels::updates::accumulate::add_into;
use medley_kernels::updates::grad_norm;
use medley_tensor::ledger::{self, Category};
use medley_tensor::{Error, Result, Tensor};
use std::sync::Arc;

/// A gradient for each of a list of parameters, f32, where the parameters lie; `None` where none flowed.
pub struct GradientSet(Vec<Option<Tensor>>);

impl GradientSet {
    /// Takes what `params` have accumulated; they hold no gradient after. Nothing is copied.
    pub fn take(params: &[Arc<Param>]) -> Self {
        let gradients = params.iter().map(|p| {
            let gradient = p.grad();
            p.zero_grad();
            gradient
        });
        GradientSet(gradients.collect())
    }

    /// Adds the set to what the same `params` hold.
    ///
    /// # Errors
    /// When the list is not the one it was taken from, and when device memory runs out.
    pub fn put(self, params: &[Arc<Param>]) -> Result<()> {
        if params.len() != self.0.len() {
            let counts = format!("gradients of {} parameters for {}", self.0.len(), params.len());
            return Err(Error::value("gradients", counts));
        }
        for (param, gradient) in params.iter().zip(self.0) {
            if let Some(gradient) = gradient {
                param.accumulate(gradient)?;
            }
        }
        Ok(())
    }

    /// The inner product with another set over the same parameters, in f64; see
    /// [`grad_norm::dot`] for its precision on a GPU.
    ///
    /// # Errors
    /// When the shapes differ, and when device memory runs out.
    pub fn dot(&self, other: &GradientSet) -> Result<f64> {
        let both = self.0.iter().zip(&other.0).filter_map(|(a, b)| a.as_ref().zip(b.as_ref()));
        let (a, b): (Vec<&Tensor>, Vec<&Tensor>) = both.unzip();
        grad_norm::dot(&a, &b)
    }

    /// The L2 norm, in f64.
    ///
    /// # Errors
    /// None in practice; those of the tensor layer.
    pub fn norm(&self) -> Result<f64> {
        grad_norm::grad_norm(&self.0.iter().flatten().collect::<Vec<_>>())
    }

    /// `Σ factors[i] · sets[i]`, summed in order. A factor of 1 multiplies nothing.
    ///
    /// # Errors
    /// When the sets are of different parameters, and when device memory runs out.
    pub fn combine(sets: Vec<GradientSet>, factors: &[f64]) -> Result<GradientSet> {
        let _scope = ledger::scope(Category::Gradients);
        let mut sum: Vec<Option<Tensor>> = vec![];
        for (set, factor) in sets.into_iter().zip(factors) {
            sum.resize(sum.len().max(set.0.len()), None);
            for (slot, gradient) in sum.iter_mut().zip(set.0) {
                let Some(gradient) = gradient else { continue };
                let scaled = scaled(gradient, *factor as f32)?;
                match slot {
                    Some(sum) => add_into(sum, &scaled)?,
                    None => *slot = Some(scaled),
                }
            }
        }
        Ok(GradientSet(sum))
    }
}

fn scaled(gradient: Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 {
        return Ok(gradient);
    }
    let [scaled] = no_grad(|| Var::from(gradient).affine(Affine { mul: factor, add: 0.0 }, &[]))?;
    Ok(scaled.value().clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_tensor::DType;
    use medley_tensor::device::Device;

    fn params(device: &Device) -> Vec<Arc<Param>> {
        [("a", 1700), ("b", 5), ("c", 33)]
            .map(|(name, n)| Param::new(name, Tensor::zeros_on(device, &[n], DType::F32).unwrap()).unwrap())
            .to_vec()
    }

    /// Leaves gradients in the first two parameters of three.
    fn set(params: &[Arc<Param>], shift: usize) -> GradientSet {
        for p in &params[..2] {
            let n = p.value().numel();
            let g: Vec<f32> = (0..n).map(|i| ((i * (shift + 3)) as f32 * 0.37).sin()).collect();
            p.accumulate(Tensor::from_vec(g, &[n]).unwrap().to_device(&p.value().device()).unwrap()).unwrap();
        }
        GradientSet::take(params)
    }

    fn flat(set: &GradientSet) -> Vec<f64> {
        let all = set.0.iter().flatten().flat_map(|g| g.to_vec_f32().unwrap());
        all.map(f64::from).collect()
    }

    #[test]
    fn products_norms_and_sums_are_those_of_the_numbers() {
        for device in [Device::Cpu, Device::open("sim").unwrap()] {
            let params = params(&device);
            let (a, b) = (set(&params, 0), set(&params, 5));
            assert!(params.iter().all(|p| p.grad().is_none()), "taken out");
            let (x, y) = (flat(&a), flat(&b));
            let dot: f64 = x.iter().zip(&y).map(|(x, y)| x * y).sum();
            let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
            assert!((a.norm().unwrap() - norm).abs() < 1e-9 * norm);
            assert!((a.dot(&b).unwrap() - dot).abs() < 1e-5 * norm * norm, "{} {dot}", a.dot(&b).unwrap());
            assert!((a.dot(&a).unwrap() - norm * norm).abs() < 1e-5 * norm * norm);

            let sum = GradientSet::combine(vec![a, b], &[1.0, -0.5]).unwrap();
            for (got, (x, y)) in flat(&sum).iter().zip(x.iter().zip(&y)) {
                assert!((got - (x - 0.5 * y)).abs() < 1e-6);
            }
            let expected = flat(&sum);
            sum.put(&params).unwrap();
            assert!(params[2].grad().is_none(), "nothing flowed into the third");
            assert_eq!(flat(&GradientSet::take(&params)), expected);
        }
    }

    #[test]
    fn sets_of_other_parameters_are_refused() {
        let params = params(&Device::Cpu);
        let e = set(&params, 1).put(&params[..2]).unwrap_err().to_string();
        assert!(e.contains('3') && e.contains('2'), "{e}");
    }
}
