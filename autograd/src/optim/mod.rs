//! Optimizers: gradient norm, clipping and the update, fused over the parameters.

#[cfg(test)]
mod tests;

use crate::Param;
use medley_kernels::updates::adafactor::{self, SecondMoment};
use medley_kernels::updates::adamw::{self, Moments};
pub use medley_kernels::updates::grad_norm::clip_scale;
use medley_kernels::updates::grad_norm::grad_norm;
use medley_kernels::updates::lion::{self, Moment};
pub use medley_kernels::updates::{Clip, StepReport};
use medley_kernels::updates::{Parameter, Progress, State};
use medley_tensor::ledger::{self, Category};
use medley_tensor::{DType, Device, Error, Result, Tensor};
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

/// Lion's constants (Chen et al., arXiv 2302.06675).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LionConfig {
    /// Share of the momentum in what the sign is taken of; 0.9 in the paper.
    pub beta1: f64,
    /// Decay of the momentum; 0.99 in the paper.
    pub beta2: f64,
    /// Decoupled weight decay; norms and biases are left out.
    pub weight_decay: f64,
    /// Keeps the moment in 8 bits (1.02 bytes a parameter instead of 4), as bitsandbytes' `Lion8bit`.
    pub eight_bit: bool,
}

/// Adafactor's constants (Shazeer & Stern, arXiv 1804.04235), without relative steps, parameter scaling and first
/// moment, as the Hugging Face Trainer runs it. The state takes rows + columns numbers a matrix.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdafactorConfig {
    /// c in the decay `1 − tᶜ` of the second moment.
    pub decay_rate: f64,
    /// Added to the squared gradient.
    pub eps: f64,
    /// Largest root mean square of a parameter's update, before the learning rate.
    pub clip_threshold: f64,
    /// Decoupled weight decay; norms and biases are left out.
    pub weight_decay: f64,
}

impl AdafactorConfig {
    /// transformers' defaults: decay rate −0.8, ε 1e-30, threshold 1.
    pub fn with_weight_decay(weight_decay: f64) -> Self {
        AdafactorConfig { decay_rate: -0.8, eps: 1e-30, clip_threshold: 1.0, weight_decay }
    }
}

/// Which optimizer, with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerConfig {
    /// Two moments.
    AdamW(AdamWConfig),
    /// One moment, steps of one size.
    Lion(LionConfig),
    /// A factored second moment.
    Adafactor(AdafactorConfig),
}

impl OptimizerConfig {
    fn weight_decay(&self) -> f64 {
        match self {
            OptimizerConfig::AdamW(c) => c.weight_decay,
            OptimizerConfig::Lion(c) => c.weight_decay,
            OptimizerConfig::Adafactor(c) => c.weight_decay,
        }
    }
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

/// The states of all parameters, in their order.
enum States {
    AdamW(Vec<Moments>),
    Lion(Vec<Moment>),
    Adafactor(Vec<SecondMoment>),
}

impl States {
    fn each(&self) -> Vec<&dyn State> {
        match self {
            States::AdamW(all) => all.iter().map(|s| s as &dyn State).collect(),
            States::Lion(all) => all.iter().map(|s| s as &dyn State).collect(),
            States::Adafactor(all) => all.iter().map(|s| s as &dyn State).collect(),
        }
    }

    fn each_mut(&mut self) -> Vec<&mut dyn State> {
        match self {
            States::AdamW(all) => all.iter_mut().map(|s| s as &mut dyn State).collect(),
            States::Lion(all) => all.iter_mut().map(|s| s as &mut dyn State).collect(),
            States::Adafactor(all) => all.iter_mut().map(|s| s as &mut dyn State).collect(),
        }
    }
}

/// An optimizer over a fixed list of parameters, with its state, which lies where the parameters do.
pub struct Optimizer {
    config: OptimizerConfig,
    params: Vec<Arc<Param>>,
    /// A factor on the learning rate for each parameter.
    lr_scales: Vec<f64>,
    states: States,
    progress: Progress,
}

impl Optimizer {
    /// A state of zeros for `params`, whose order must be the same when a run is resumed.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn new(config: OptimizerConfig, params: Vec<Arc<Param>>) -> Result<Self> {
        fn zeros<S>(params: &[Arc<Param>], zeros: impl Fn(&Device, &[usize]) -> Result<S>) -> Result<Vec<S>> {
            let of = |p: &Arc<Param>| zeros(&p.value().device(), p.value().shape());
            params.iter().map(of).collect()
        }
        let _scope = ledger::scope(Category::Optimizer);
        let states = match config {
            OptimizerConfig::AdamW(c) => {
                States::AdamW(zeros(&params, |d, shape| Moments::zeros(d, shape, c.eight_bit))?)
            }
            OptimizerConfig::Lion(c) => {
                States::Lion(zeros(&params, |d, shape| Moment::zeros(d, shape, c.eight_bit))?)
            }
            OptimizerConfig::Adafactor(_) => States::Adafactor(zeros(&params, SecondMoment::zeros)?),
        };
        let lr_scales = vec![1.0; params.len()];
        Ok(Optimizer { config, params, lr_scales, states, progress: Progress::default() })
    }

    /// Multiplies the learning rate of each parameter by what `scale` says of it (LoRA+).
    #[must_use]
    pub fn with_lr_scales(mut self, scale: impl Fn(&Param) -> f64) -> Self {
        self.lr_scales = self.params.iter().map(|p| scale(p)).collect();
        self
    }

    /// The parameters.
    pub fn params(&self) -> &[Arc<Param>] {
        &self.params
    }

    /// Updates made so far; skipped steps do not count.
    pub fn steps(&self) -> u64 {
        self.progress.made()
    }

    /// What a checkpoint keeps beside the parameters, where it lies, under `<part>/<parameter>`: `exp_avg` and
    /// `exp_avg_sq` of AdamW and `exp_avg` of Lion (f32, or u8 codes with `exp_avg_absmax/…`), `exp_avg_sq_row` and
    /// `exp_avg_sq_col` (vectors: `exp_avg_sq`) of Adafactor. Nothing is copied until a step changes what is still
    /// held.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let mut all = vec![];
        for (param, state) in self.params.iter().zip(self.states.each()) {
            for (part, tensor) in state.parts() {
                all.push((format!("{part}/{}", param.name()), tensor.clone()));
            }
        }
        all
    }

    /// Goes on after `steps` updates with the state that `read(name, shape, dtype)` returns for the names
    /// of [`Optimizer::state`].
    ///
    /// # Errors
    /// Those of `read`, and when it returns a tensor of another shape or dtype. The state may then be
    /// partly restored.
    pub fn restore<E: From<Error>>(
        &mut self,
        steps: u64,
        mut read: impl FnMut(&str, &[usize], DType) -> std::result::Result<Tensor, E>,
    ) -> std::result::Result<(), E> {
        let _scope = ledger::scope(Category::Optimizer);
        for (param, state) in self.params.iter().zip(self.states.each_mut()) {
            for (part, slot) in state.parts_mut() {
                let name = format!("{part}/{}", param.name());
                let tensor = read(&name, slot.shape(), slot.dtype())?;
                if tensor.shape() != slot.shape() {
                    return Err(Error::shape(
                        "optimizer",
                        format!("{:?} for {name}", slot.shape()),
                        tensor.shape(),
                    )
                    .into());
                }
                if tensor.dtype() != slot.dtype() {
                    return Err(Error::dtype(
                        "optimizer",
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
        let grads: Vec<Option<Tensor>> = self.params.iter().map(|p| p.grad()).collect();
        let mut values: Vec<_> = self.params.iter().map(|p| p.write()).collect();
        let mut parts = vec![];
        let all = self.params.iter().zip(&mut values).zip(&grads).zip(&self.lr_scales);
        for (((param, value), grad), lr_scale) in all {
            let name = param.name();
            // DoRA's magnitudes neither: decay would pull a layer's whole output to zero, where on B it pulls the
            // layer back to the base. (Hugging Face's trainer, which goes by names, does decay them.)
            let decays = !name.ends_with(".bias")
                && !name.contains("norm.")
                && !name.contains("layernorm")
                && !name.ends_with("lora_magnitude_vector");
            let weight_decay = if decays { self.config.weight_decay() } else { 0.0 };
            parts.push((&mut **value, grad.as_ref(), weight_decay, *lr_scale));
        }
        let lr = settings.learning_rate;
        let clip = Clip { max_norm: settings.max_grad_norm, loss_scale: f64::from(settings.loss_scale) };
        let progress = &mut self.progress;
        let report = match (&self.config, &mut self.states) {
            (OptimizerConfig::AdamW(c), States::AdamW(states)) => {
                let step = adamw::Step { lr, beta1: c.beta1, beta2: c.beta2, eps: c.eps, clip };
                step.run(&mut parameters(parts, states), progress)?
            }
            (OptimizerConfig::Lion(c), States::Lion(states)) => {
                let step = lion::Step { lr, beta1: c.beta1, beta2: c.beta2, clip };
                step.run(&mut parameters(parts, states), progress)?
            }
            (OptimizerConfig::Adafactor(c), States::Adafactor(states)) => {
                let (decay_rate, eps, clip_threshold) = (c.decay_rate, c.eps, c.clip_threshold);
                let step = adafactor::Step { lr, decay_rate, eps, clip_threshold, clip };
                step.run(&mut parameters(parts, states), progress)?
            }
            _ => return Err(Error::value("optimizer", "its states belong to another optimizer")),
        };
        drop(values);
        for param in &self.params {
            param.zero_grad();
        }
        Ok(report)
    }
}

/// A parameter's value, gradient, weight decay and factor on the learning rate.
type Part<'a> = (&'a mut Tensor, Option<&'a Tensor>, f64, f64);

/// Those of the parameters that have a gradient, with their states.
fn parameters<'a, S>(parts: Vec<Part<'a>>, states: &'a mut [S]) -> Vec<Parameter<'a, S>> {
    let with_state = parts.into_iter().zip(states);
    with_state
        .filter_map(|((value, grad, weight_decay, lr_scale), state)| {
            Some(Parameter { value, grad: grad?, state, weight_decay, lr_scale })
        })
        .collect()
}
