//! Optimizers: gradient norm, clipping and the update, fused over the parameters.

use crate::Param;
pub use medley_kernels::updates::adamw::StepReport;
use medley_kernels::updates::adamw::{Moments, Parameter, Progress, Step};
pub use medley_kernels::updates::grad_norm::clip_scale;
use medley_kernels::updates::grad_norm::grad_norm;
use medley_tensor::ledger::{self, Category};
use medley_tensor::{DType, Error, Result, Tensor};
use std::sync::Arc;

/// AdamW's constants (Loshchilov & Hutter, arXiv 1711.05101).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; norms and biases are left out, as transformers does.
    pub weight_decay: f64,
    /// Keeps the moments in 8 bits (2.03 bytes a parameter instead of 8), as bitsandbytes' `AdamW8bit`;
    /// parameters of fewer than 4,096 elements keep theirs in f32.
    pub eight_bit: bool,
}

/// What one step is told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepSettings {
    /// Learning rate.
    pub learning_rate: f64,
    /// Gradients are scaled down to this L2 norm over all parameters; 0: not at all.
    pub max_grad_norm: f64,
    /// What the loss was multiplied with ([`crate::GradScaler::scale`]); 1 without loss scaling.
    pub loss_scale: f32,
}

/// AdamW over a fixed list of parameters, with its moments, which lie where the parameters do.
pub struct AdamW {
    config: AdamWConfig,
    params: Vec<Arc<Param>>,
    moments: Vec<Moments>,
    progress: Progress,
}

impl AdamW {
    /// Zero moments for `params`, whose order must be the same when a run is resumed.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn new(config: AdamWConfig, params: Vec<Arc<Param>>) -> Result<Self> {
        let _scope = ledger::scope(Category::Optimizer);
        let moments = params
            .iter()
            .map(|p| {
                let value = p.value();
                Moments::zeros(&value.device(), value.shape(), config.eight_bit)
            })
            .collect::<Result<_>>()?;
        Ok(AdamW { config, params, moments, progress: Progress::default() })
    }

    /// The parameters.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// Updates made so far; skipped steps do not count.
    pub fn steps(&self) -> u64 {
        self.progress.made()
    }

    /// What a checkpoint keeps beside the parameters: the moments, where they lie, under
    /// `exp_avg/<parameter>` and `exp_avg_sq/<parameter>` (f32, or u8 codes with `exp_avg_absmax/…` and
    /// `exp_avg_sq_absmax/…`). Nothing is copied until a step changes what is still held.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![];
        for (param, moments) in self.params.iter().zip(&self.moments) {
            for (part, tensor) in moments.parts() {
                all.push((format!("{part}/{}", param.name()), tensor.clone()));
            }
        }
        all
    }

    /// Goes on after `steps` updates with the moments that `read(name, shape, dtype)` returns for the names
    /// of [`AdamW::state`].
    ///
    /// # Errors
    /// Those of `read`, and when it returns a tensor of another shape or dtype. Moments may then be
    /// partly restored.
    pub fn restore<E: From<Error>>(
        &mut self,
        steps: u64,
        mut read: impl FnMut(&str, &[usize], DType) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<(), E> {
        let _scope = ledger::scope(Category::Optimizer);
        for (param, moments) in self.params.iter().zip(&mut self.moments) {
            for (part, slot) in moments.parts_mut() {
                let name = format!("{part}/{}", param.name());
                let tensor = read(&name, slot.shape(), slot.dtype())?;
                if tensor.shape() != slot.shape() {
                    return Err(Error::shape(
                        "adamw",
                        format!("{:?} for {name}", slot.shape()),
                        tensor.shape(),
                    )
                    .into());
                }
                if tensor.dtype() != slot.dtype() {
                    return Err(Error::dtype(
                        "adamw",
                        format!("{} for {name}", slot.dtype()),
                        tensor.dtype(),
                    )
                    .into());
                }
                *slot = tensor.to_device(&slot.device())?;
            }
        }
        self.progress = Progress::new(steps);
        Ok(())
    }

    /// The L2 norm of all gradients as they are (not unscaled), summed in f64 in a fixed order.
    ///
    /// # Errors
    /// None in practice; those of the tensor layer.
    pub fn grad_norm(&self) -> Result<f64> {
        let grads: Vec<Tensor> = self.params.iter().filter_map(|p| p.grad()).collect();
        grad_norm(&grads.iter().collect::<Vec<_>>())
    }

    /// One update: gradients are unscaled and clipped to the norm on the way. When one is not finite nothing
    /// is updated and the report says so. Either way the gradients are forgotten.
    ///
    /// # Errors
    /// Those of the tensor layer: device memory, parameters on different devices.
    pub fn step(&mut self, settings: &StepSettings) -> Result<StepReport> {
        let _scope = ledger::scope(Category::Optimizer);
        let step = Step {
            lr: settings.learning_rate,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            eps: self.config.eps,
            max_norm: settings.max_grad_norm,
            loss_scale: f64::from(settings.loss_scale),
        };
        let grads: Vec<Option<Tensor>> = self.params.iter().map(|p| p.grad()).collect();
        let mut values: Vec<_> = self.params.iter().map(|p| p.write()).collect();
        let mut parameters = vec![];
        let all = self.params.iter().zip(&mut values).zip(&grads).zip(&mut self.moments);
        for (((param, value), grad), moments) in all {
            let Some(grad) = grad else { continue };
            let name = param.name();
            let decays = !name.ends_with(".bias") && !name.contains("norm.") && !name.contains("layernorm");
            let weight_decay = if decays { self.config.weight_decay } else { 0.0 };
            parameters.push(Parameter { value, grad, moments, weight_decay });
        }
        let report = step.run(&mut parameters, &mut self.progress)?;
        drop(parameters);
        drop(values);
        for param in &self.params {
            param.zero_grad();
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GradScaler, ScalerConfig, Var};
    use medley_kernels::ops::RmsNorm;
    use medley_tensor::device::Device;

    const CONFIG: AdamWConfig =
        AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, eight_bit: false };

    fn settings(loss_scale: f32) -> StepSettings {
        StepSettings { learning_rate: 1e-2, max_grad_norm: 1.0, loss_scale }
    }

    fn params(device: &Device, n: usize) -> Vec<Arc<Param>> {
        let values =
            |shift: usize, n: usize| (0..n).map(|i| ((i * 7 + shift) % 23) as f32 * 0.1 - 1.0).collect();
        [("layers.0.proj", n), ("layers.0.norm.weight", 37)]
            .into_iter()
            .enumerate()
            .map(|(i, (name, n))| {
                let value: Vec<f32> = values(i, n);
                Param::new(name, Tensor::from_vec(value, &[n]).unwrap().to_device(device).unwrap()).unwrap()
            })
            .collect()
    }

    /// Leaves a gradient of `scale · sin(…)` in every parameter, `bad` in one element.
    fn leave_gradients(params: &[Arc<Param>], step: usize, scale: f32, bad: Option<f32>) {
        for (k, p) in params.iter().enumerate() {
            let mut g: Vec<f32> =
                (0..p.value().numel()).map(|i| ((i + step * 3 + k) as f32).sin() * 0.01 * scale).collect();
            if let Some(bad) = bad.filter(|_| k == 0) {
                g[5] = bad;
            }
            let g = Tensor::from_vec(g, p.value().shape()).unwrap().to_device(&p.value().device()).unwrap();
            p.accumulate(g).unwrap();
        }
    }

    fn values(params: &[Arc<Param>]) -> Vec<Vec<f32>> {
        params.iter().map(|p| p.value().to_vec_f32().unwrap()).collect()
    }

    /// The CPU and a simulated GPU: the same tests hold on both.
    fn devices() -> Vec<Device> {
        vec![Device::Cpu, Device::open("sim").unwrap()]
    }

    #[test]
    fn an_injected_overflow_skips_the_step_and_halves_the_scale() {
        for device in devices() {
            let params = params(&device, 300);
            let mut optimizer = AdamW::new(CONFIG, params.clone()).unwrap();
            let mut scaler = GradScaler::new(ScalerConfig::default()).unwrap();
            for (step, bad) in [None, Some(f32::INFINITY), None, Some(f32::NAN), None].into_iter().enumerate()
            {
                let (before, made) = (values(&params), optimizer.steps());
                leave_gradients(&params, step, scaler.scale(), bad);
                let report = optimizer.step(&settings(scaler.scale())).unwrap();
                scaler.update(report.skipped).unwrap();
                assert_eq!(report.skipped, bad.is_some());
                assert_eq!(report.grad_norm.is_finite(), bad.is_none());
                assert_eq!(values(&params) == before, bad.is_some());
                assert_eq!(optimizer.steps() - made, u64::from(bad.is_none()));
                assert!(params.iter().all(|p| p.grad().is_none()));
            }
            assert_eq!((scaler.scale(), scaler.skipped()), (16_384.0, 2));

            // The skipped steps left no trace: the same as a run without them, unscaled.
            let plain = self::params(&device, 300);
            let mut other = AdamW::new(CONFIG, plain.clone()).unwrap();
            for step in [0, 2, 4] {
                leave_gradients(&plain, step, 1.0, None);
                let norm = other.grad_norm().unwrap();
                assert!((other.step(&settings(1.0)).unwrap().grad_norm - norm).abs() < 1e-12 * norm);
            }
            for (a, b) in values(&params).concat().iter().zip(values(&plain).concat()) {
                assert!((a - b).abs() < 1e-6, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_restored_optimizer_goes_on_bit_for_bit() {
        for device in devices() {
            for eight_bit in [false, true] {
                let config = AdamWConfig { eight_bit, ..CONFIG };
                let run = |params: &[Arc<Param>], optimizer: &mut AdamW, steps: std::ops::Range<usize>| {
                    for step in steps {
                        leave_gradients(params, step, 1.0, None);
                        optimizer.step(&settings(1.0)).unwrap();
                    }
                };
                let whole = params(&device, 4500);
                let mut optimizer = AdamW::new(config, whole.clone()).unwrap();
                run(&whole, &mut optimizer, 0..3);
                let (state, saved) = (optimizer.state(), values(&whole));
                let codes = state.iter().find(|(name, _)| name == "exp_avg/layers.0.proj").unwrap();
                assert_eq!(codes.1.dtype(), if eight_bit { DType::U8 } else { DType::F32 });
                assert_eq!(state.len(), if eight_bit { 6 } else { 4 }, "the small parameter keeps f32");
                run(&whole, &mut optimizer, 3..5);

                let resumed = params(&device, 4500);
                for (p, v) in resumed.iter().zip(saved) {
                    p.set(Tensor::from_vec(v, p.value().shape()).unwrap()).unwrap();
                }
                let mut optimizer = AdamW::new(config, resumed.clone()).unwrap();
                let find = |name: &str, _: &[usize], _| -> Result<Tensor> {
                    Ok(state.iter().find(|(n, _)| n == name).unwrap().1.clone())
                };
                optimizer.restore(3, find).unwrap();
                run(&resumed, &mut optimizer, 3..5);
                assert_eq!(optimizer.steps(), 5);
                assert_eq!(values(&whole), values(&resumed));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_not_restored() {
        let mut optimizer = AdamW::new(CONFIG, params(&Device::Cpu, 30)).unwrap();
        let e = optimizer
            .restore(1, |_, _, _| -> Result<Tensor> { Tensor::zeros(&[29], DType::F32) })
            .unwrap_err()
            .to_string();
        assert!(e.contains("[29]") && e.contains("exp_avg/layers.0.proj"), "{e}");
        let e = optimizer
            .restore(1, |_, shape, _| -> Result<Tensor> { Tensor::zeros(shape, DType::U8) })
            .unwrap_err()
            .to_string();
        assert!(e.contains("u8"), "{e}");
    }

    #[test]
    fn loss_scales_come_out_of_gradients_as_they_went_in() {
        let x = || Var::from(Tensor::from_vec(vec![0.5, -1.0, 2.0], &[1, 3]).unwrap());
        let w = Param::new("w", Tensor::from_vec(vec![1.0f32, 2.0, 0.5], &[3]).unwrap()).unwrap();
        let loss = |w: &Arc<Param>| {
            let [y] = x().rms_norm(RmsNorm { eps: 1e-5 }, &[&w.var()]).unwrap();
            let op = medley_kernels::ops::Reduce {
                kind: medley_kernels::ops::ReduceKind::Sum,
                dims: vec![],
                keepdim: false,
            };
            let [y] = y.reduce(op, &[]).unwrap();
            y
        };
        loss(&w).backward().unwrap();
        let plain = w.grad().unwrap().to_vec_f32().unwrap();
        w.zero_grad();
        loss(&w).backward_scaled(1024.0).unwrap();
        let scaled = w.grad().unwrap().to_vec_f32().unwrap();
        assert!(plain.iter().zip(&scaled).all(|(a, b)| a * 1024.0 == *b && *a != 0.0));
    }
}
