//! What the steps of all optimizers share: parameters, the norm, skipping, and who counts the updates.

use super::control;
use super::grad_norm::{clip_scale, grad_norm};
use medley_tensor::device::CudaDevice;
use medley_tensor::{DType, Error, Result, Tensor};

/// One parameter of a step, with the optimizer's state `S` for it.
#[derive(Debug)]
pub struct Parameter<'a, S> {
    /// Contiguous f32.
    pub value: &'a mut Tensor,
    /// f32, of the value's shape, still multiplied by the loss scale.
    pub grad: &'a Tensor,
    /// Updated with it.
    pub state: &'a mut S,
    /// Decoupled weight decay of this parameter.
    pub weight_decay: f64,
    /// This parameter's learning rate is the step's times this (LoRA+); 1 for all others.
    pub lr_scale: f64,
}

impl<S> Parameter<'_, S> {
    /// What weight decay leaves of the parameter at the step's learning rate `lr`.
    pub(super) fn decay(&self, lr: f64) -> f32 {
        (1.0 - lr * self.lr_scale * self.weight_decay) as f32
    }
}

/// The state an optimizer keeps of one parameter, as tensors with names.
pub trait State {
    /// The tensors under the names that checkpoints use.
    fn parts(&self) -> Vec<(&'static str, &Tensor)>;
    /// [`State::parts`], to be replaced by tensors of the same shape, dtype and device.
    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor)>;
}

/// What happens to gradients before the update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Clip {
    /// Gradients are scaled down to this L2 norm over all parameters; 0: not at all.
    pub max_norm: f64,
    /// What the loss, and so the gradients, were multiplied with; 1 without loss scaling.
    pub loss_scale: f64,
}

/// How many updates were made. On a GPU the count lives beside the gradients, since only the device knows
/// whether a step is skipped when the next kernel starts.
#[derive(Debug, Default)]
pub struct Progress {
    made: u64,
    device: Option<control::State>,
}

impl Progress {
    /// After `made` updates.
    pub fn new(made: u64) -> Self {
        Progress { made, device: None }
    }

    /// Updates made; skipped steps do not count.
    pub fn made(&self) -> u64 {
        self.made
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// L2 norm of the unscaled gradients over all parameters, before clipping; non-finite where one is.
    pub grad_norm: f64,
    /// True when a gradient was not finite: nothing was changed.
    pub skipped: bool,
}

/// An optimizer's update of parameters whose states are `S`.
pub(super) trait Update<S> {
    const NAME: &'static str;

    /// Updates all parameters on the CPU; `step` is counted from 1, `grad_scale` unscales and clips.
    fn on_cpu(&self, parameters: &mut [Parameter<S>], step: u64, grad_scale: f32) -> Result<()>;

    /// Launches norm, control and updates.
    fn on_cuda(
        &self,
        device: &CudaDevice,
        parameters: &mut [Parameter<S>],
        step: u64,
        clip: Clip,
        control: &control::State,
    ) -> Result<()>;
}

/// Updates all parameters, or none when a gradient is not finite. All lie on one device; on a GPU the norm
/// decides about clipping and skipping in device memory, and the host waits once, at the end, for the report.
pub(super) fn run<S, U: Update<S>>(
    update: &U,
    clip: Clip,
    parameters: &mut [Parameter<S>],
    progress: &mut Progress,
) -> Result<StepReport> {
    for p in parameters.iter() {
        if p.value.dtype() != DType::F32 || p.grad.dtype() != DType::F32 {
            let wrong = if p.value.dtype() == DType::F32 { p.grad } else { &*p.value };
            return Err(Error::dtype(U::NAME, "f32 parameters and gradients", wrong.dtype()));
        }
        if p.value.shape() != p.grad.shape() {
            return Err(Error::shape(U::NAME, format!("a gradient {:?}", p.value.shape()), p.grad.shape()));
        }
    }
    if let Some(device) = parameters.iter().find_map(|p| p.value.cuda_device().cloned()) {
        let control = match progress.device.take() {
            Some(control) if control.device() == &device => control,
            _ => control::State::new(&device, progress.made)?,
        };
        update.on_cuda(&device, parameters, progress.made + 1, clip, &control)?;
        let (made, report) = control.report()?;
        (progress.device, progress.made) = (Some(control), made);
        return Ok(report);
    }
    // A count on a device would no longer be the one to go on from.
    progress.device = None;
    let grads: Vec<&Tensor> = parameters.iter().map(|p| p.grad).collect();
    let scaled = grad_norm(&grads)?;
    let inverse = 1.0 / clip.loss_scale;
    let norm = scaled * inverse;
    if !scaled.is_finite() {
        return Ok(StepReport { grad_norm: norm, skipped: true });
    }
    let grad_scale = clip_scale(norm, clip.max_norm) * inverse as f32;
    update.on_cpu(parameters, progress.made + 1, grad_scale)?;
    progress.made += 1;
    Ok(StepReport { grad_norm: norm, skipped: false })
}
