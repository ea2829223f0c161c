//! One optimizer step over all parameters: norm, unscaling, clipping, update.

use super::blockwise::{BLOCK, Quantised, SMALLEST};
use super::{AdamW, cuda};
use crate::updates::grad_norm::{clip_scale, grad_norm};
use medley_tensor::device::Device;
use medley_tensor::{DType, Error, Result, Tensor};

/// Both moments of one parameter, of its shape, on its device.
#[derive(Debug, Clone)]
pub enum Moments {
    /// In f32: 8 bytes an element.
    Full {
        /// First moment, f32.
        m: Tensor,
        /// Second moment, f32.
        v: Tensor,
    },
    /// In 8 bits ([`super::blockwise`]): 2.03 bytes an element.
    Blockwise {
        /// Codes of the first moment, u8.
        m: Tensor,
        /// Codes of the second moment, u8.
        v: Tensor,
        /// Scales of the first moment, f32, one a block of [`BLOCK`] elements.
        m_absmax: Tensor,
        /// Scales of the second moment.
        v_absmax: Tensor,
    },
}

impl Moments {
    /// Zero moments of a parameter of `shape`, in f32, or in 8 bits where `eight_bit` and the parameter has
    /// [`SMALLEST`] elements or more.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn zeros(device: &Device, shape: &[usize], eight_bit: bool) -> Result<Self> {
        let n: usize = shape.iter().product();
        let zeros = |shape: &[usize], dtype| Tensor::zeros_on(device, shape, dtype);
        if eight_bit && n >= SMALLEST {
            let blocks = [n.div_ceil(BLOCK)];
            return Ok(Moments::Blockwise {
                m: zeros(shape, DType::U8)?,
                v: zeros(shape, DType::U8)?,
                m_absmax: zeros(&blocks, DType::F32)?,
                v_absmax: zeros(&blocks, DType::F32)?,
            });
        }
        Ok(Moments::Full { m: zeros(shape, DType::F32)?, v: zeros(shape, DType::F32)? })
    }

    /// The tensors under the names that checkpoints use.
    pub fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            Moments::Full { m, v } => vec![("exp_avg", m), ("exp_avg_sq", v)],
            Moments::Blockwise { m, v, m_absmax, v_absmax } => vec![
                ("exp_avg", m),
                ("exp_avg_sq", v),
                ("exp_avg_absmax", m_absmax),
                ("exp_avg_sq_absmax", v_absmax),
            ],
        }
    }

    /// [`Moments::parts`], to be replaced by tensors of the same shape, dtype and device.
    pub fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            Moments::Full { m, v } => vec![("exp_avg", m), ("exp_avg_sq", v)],
            Moments::Blockwise { m, v, m_absmax, v_absmax } => vec![
                ("exp_avg", m),
                ("exp_avg_sq", v),
                ("exp_avg_absmax", m_absmax),
                ("exp_avg_sq_absmax", v_absmax),
            ],
        }
    }
}

/// One parameter of a step.
#[derive(Debug)]
pub struct Parameter<'a> {
    /// Contiguous f32.
    pub value: &'a mut Tensor,
    /// f32, of the value's shape, still multiplied by the loss scale.
    pub grad: &'a Tensor,
    /// Updated with it.
    pub moments: &'a mut Moments,
    /// Decoupled weight decay of this parameter.
    pub weight_decay: f64,
}

/// The settings of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the bias-corrected second moment.
    pub eps: f64,
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
    pub(super) device: Option<cuda::State>,
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

impl Step {
    /// Updates all parameters, or none when a gradient is not finite. All lie on one device; on a GPU the
    /// norm decides about clipping and skipping in device memory, and the host waits once, at the end, for
    /// the report.
    ///
    /// # Errors
    /// When shapes, dtypes or devices do not fit, and when device memory runs out.
    pub fn run(&self, parameters: &mut [Parameter], progress: &mut Progress) -> Result<StepReport> {
        const OP: &str = "adamw";
        for p in parameters.iter() {
            if p.value.dtype() != DType::F32 || p.grad.dtype() != DType::F32 {
                let wrong = if p.value.dtype() == DType::F32 { p.grad } else { &*p.value };
                return Err(Error::dtype(OP, "f32 parameters and gradients", wrong.dtype()));
            }
            if p.value.shape() != p.grad.shape() {
                return Err(Error::shape(OP, format!("a gradient {:?}", p.value.shape()), p.grad.shape()));
            }
        }
        let report = match parameters.iter().find_map(|p| p.value.cuda_device().cloned()) {
            Some(device) => {
                let state = progress.device.take();
                let (state, made, report) = cuda::step(self, &device, parameters, progress.made, state)?;
                (progress.device, progress.made) = (Some(state), made);
                return Ok(report);
            }
            None => self.run_on_cpu(parameters, progress.made + 1)?,
        };
        // A count on a device would no longer be the one to go on from.
        progress.device = None;
        progress.made += u64::from(!report.skipped);
        Ok(report)
    }

    fn run_on_cpu(&self, parameters: &mut [Parameter], step: u64) -> Result<StepReport> {
        let grads: Vec<&Tensor> = parameters.iter().map(|p| p.grad).collect();
        let scaled = grad_norm(&grads)?;
        let inverse = 1.0 / self.loss_scale;
        let norm = scaled * inverse;
        if !scaled.is_finite() {
            return Ok(StepReport { grad_norm: norm, skipped: true });
        }
        let grad_scale = clip_scale(norm, self.max_norm) * inverse as f32;
        for p in parameters {
            let update = AdamW {
                lr: self.lr,
                beta1: self.beta1,
                beta2: self.beta2,
                eps: self.eps,
                weight_decay: p.weight_decay,
                step,
                grad_scale,
            };
            let grad = p.grad.contiguous()?;
            let (value, grad) = (p.value.as_mut_slice::<f32>()?, grad.as_slice::<f32>()?);
            match &mut *p.moments {
                Moments::Full { m, v } => {
                    update.update(value, grad, m.as_mut_slice()?, v.as_mut_slice()?)?;
                }
                Moments::Blockwise { m, v, m_absmax, v_absmax } => {
                    let m = Quantised { codes: m.as_mut_slice()?, absmax: m_absmax.as_mut_slice()? };
                    let v = Quantised { codes: v.as_mut_slice()?, absmax: v_absmax.as_mut_slice()? };
                    update.update_8bit(value, grad, m, v)?;
                }
            }
        }
        Ok(StepReport { grad_norm: norm, skipped: false })
    }
}
