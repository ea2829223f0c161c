//! The Adafactor update (Shazeer & Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost", arXiv
//! 1804.04235), fused with unscaling and clipping: the second moment of a matrix is kept as its row and column means,
//! rows + columns numbers instead of rows × columns; there is no first moment. As transformers' `Adafactor` with
//! `scale_parameter=False, relative_step=False`, which the Hugging Face Trainer sets: the learning rate is the
//! schedule's.
//!
//! Floor: memory-bound, 20 bytes an element of a matrix: the gradient is read for the row means, for the column
//! means, for the size of the update and for the update; the parameter is read and written.

mod cuda;
#[cfg(test)]
mod tests;

use super::step::{self, Clip, Parameter, Progress, State, StepReport, Update};
use super::{CHUNK, control, same_length};
use medley_tensor::device::{CudaDevice, Device};
use medley_tensor::{DType, Error, Result, Tensor};
use rayon::prelude::*;

const NAME: &str = "adafactor";
/// Rows whose column sums one task makes.
const BAND: usize = 256;

/// One step's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adafactor {
    /// Learning rate of this step.
    pub lr: f64,
    /// Multiplies the learning rate.
    pub lr_scale: f64,
    /// c in `β₂ₜ = 1 − tᶜ`; −0.8 in the paper.
    pub decay_rate: f64,
    /// ε₁, added to the squared gradient; 1e-30 in the paper.
    pub eps: f64,
    /// d: the update's root mean square is at most this (before the learning rate); 1 in the paper.
    pub clip_threshold: f64,
    /// Decoupled weight decay: the parameter is multiplied by `1 − lr · weight_decay`.
    pub weight_decay: f64,
    /// Number of this update, counted from 1.
    pub step: u64,
    /// Multiplies the gradient first: loss unscaling and clipping in one factor.
    pub grad_scale: f32,
}

/// `1 / √x`, rounded as the kernel rounds it.
fn inverse_root(x: f32) -> f32 {
    1.0 / x.sqrt()
}

impl Adafactor {
    /// Updates a matrix `[row.len(), col.len()]` and the running means of its squared gradient by rows and columns:
    ///
    /// ```text
    /// R ← β₂ₜ·R + (1 − β₂ₜ)·mean over columns of (g² + ε)      C likewise over rows
    /// u = g / √(R / mean(R)) / √C          u ← u / max(1, rms(u) / d)
    /// p ← p·(1 − lr·wd) − lr·u
    /// ```
    ///
    /// # Errors
    /// When the slices have different lengths, or `step` is 0.
    pub fn update_matrix(
        &self,
        param: &mut [f32],
        grad: &[f32],
        row: &mut [f32],
        col: &mut [f32],
    ) -> Result<()> {
        let (rows, cols) = (row.len(), col.len());
        same_length(NAME, rows * cols, "the parameter", param.len())?;
        same_length(NAME, param.len(), "the gradient", grad.len())?;
        let c = self.constants()?;
        if param.is_empty() {
            return Ok(());
        }
        let (mut row_factor, mut col_factor) = (vec![0.0f32; rows], vec![0.0f32; cols]);
        (grad.par_chunks(cols), row.par_iter_mut()).into_par_iter().for_each(|(g, row)| {
            let sum: f64 = g.iter().map(|g| c.square(*g)).sum();
            *row = c.average(*row, sum / cols as f64);
        });
        let bands: Vec<Vec<f64>> = grad
            .par_chunks(BAND * cols)
            .map(|band| {
                let mut sums = vec![0.0f64; cols];
                for g in band.chunks(cols) {
                    sums.iter_mut().zip(g).for_each(|(sum, g)| *sum += c.square(*g));
                }
                sums
            })
            .collect();
        for (j, col) in col.iter_mut().enumerate() {
            let sum: f64 = bands.iter().map(|band| band[j]).sum();
            *col = c.average(*col, sum / rows as f64);
            col_factor[j] = inverse_root(*col);
        }
        let mean = (row.iter().map(|r| f64::from(*r)).sum::<f64>() / rows as f64) as f32;
        row_factor.iter_mut().zip(&*row).for_each(|(f, r)| *f = inverse_root(r / mean));
        let update = |i: usize, g: f32| row_factor[i / cols] * col_factor[i % cols] * (g * c.scale);
        self.apply(param, grad, c, update);
        Ok(())
    }

    /// Updates a vector and the running mean `v` of its squared gradient: `u = g / √v`, the rest as for matrices.
    ///
    /// # Errors
    /// When the slices have different lengths, or `step` is 0.
    pub fn update_vector(&self, param: &mut [f32], grad: &[f32], v: &mut [f32]) -> Result<()> {
        for (what, len) in [("the gradient", grad.len()), ("v", v.len())] {
            same_length(NAME, param.len(), what, len)?;
        }
        let c = self.constants()?;
        v.iter_mut().zip(grad).for_each(|(v, g)| *v = c.average(*v, c.square(*g)));
        let v = &*v;
        self.apply(param, grad, c, |i, g| inverse_root(v[i]) * (g * c.scale));
        Ok(())
    }

    /// The clipped update, `update` giving element i's before clipping.
    fn apply(
        &self,
        param: &mut [f32],
        grad: &[f32],
        c: Constants,
        update: impl Fn(usize, f32) -> f32 + Sync,
    ) {
        let squares: Vec<f64> = grad
            .par_chunks(CHUNK)
            .enumerate()
            .map(|(chunk, g)| {
                let first = chunk * CHUNK;
                g.iter().enumerate().map(|(i, g)| f64::from(update(first + i, *g)).powi(2)).sum()
            })
            .collect();
        let rms = (squares.iter().sum::<f64>() / param.len().max(1) as f64).sqrt() as f32;
        let divisor = (rms / self.clip_threshold as f32).max(1.0);
        (param.par_chunks_mut(CHUNK), grad.par_chunks(CHUNK)).into_par_iter().enumerate().for_each(
            |(chunk, (p, g))| {
                let first = chunk * CHUNK;
                for (i, (p, g)) in p.iter_mut().zip(g).enumerate() {
                    *p = *p * c.decay - update(first + i, *g) / divisor * c.lr;
                }
            },
        );
    }

    fn constants(&self) -> Result<Constants> {
        if self.step == 0 {
            return Err(Error::value(NAME, "step is 0; updates are counted from 1"));
        }
        let beta2 = beta2(self.step, self.decay_rate);
        Ok(Constants {
            beta2: beta2 as f32,
            rest2: (1.0 - beta2) as f32,
            eps: self.eps as f32,
            scale: self.grad_scale,
            decay: (1.0 - self.lr * self.lr_scale * self.weight_decay) as f32,
            lr: self.lr as f32 * self.lr_scale as f32,
        })
    }
}

/// `1 − tᶜ`.
fn beta2(step: u64, decay_rate: f64) -> f64 {
    1.0 - (step as f64).powf(decay_rate)
}

/// A step's constants as the loops use them.
#[derive(Clone, Copy)]
struct Constants {
    beta2: f32,
    rest2: f32,
    eps: f32,
    scale: f32,
    decay: f32,
    lr: f32,
}

impl Constants {
    #[inline(always)]
    fn square(&self, g: f32) -> f64 {
        let g = g * self.scale;
        f64::from(g * g + self.eps)
    }

    #[inline(always)]
    fn average(&self, old: f32, new: f64) -> f32 {
        old * self.beta2 + self.rest2 * new as f32
    }
}

/// The running means of one parameter's squared gradient, f32, on its device.
#[derive(Debug, Clone)]
pub enum SecondMoment {
    /// Of a matrix: by rows and by columns.
    Factored {
        /// \[rows\].
        row: Tensor,
        /// \[columns\].
        col: Tensor,
    },
    /// Of anything else: of its shape.
    Full {
        /// The mean of each element.
        v: Tensor,
    },
}

impl SecondMoment {
    /// Zeros for a parameter of `shape`.
    ///
    /// # Errors
    /// When device memory runs out.
    pub fn zeros(device: &Device, shape: &[usize]) -> Result<Self> {
        let zeros = |shape: &[usize]| Tensor::zeros_on(device, shape, DType::F32);
        match shape {
            [rows, cols] => Ok(SecondMoment::Factored { row: zeros(&[*rows])?, col: zeros(&[*cols])? }),
            _ => Ok(SecondMoment::Full { v: zeros(shape)? }),
        }
    }
}

impl State for SecondMoment {
    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        match self {
            SecondMoment::Factored { row, col } => vec![("exp_avg_sq_row", row), ("exp_avg_sq_col", col)],
            SecondMoment::Full { v } => vec![("exp_avg_sq", v)],
        }
    }

    fn parts_mut(&mut self) -> Vec<(&'static str, &mut Tensor)> {
        match self {
            SecondMoment::Factored { row, col } => vec![("exp_avg_sq_row", row), ("exp_avg_sq_col", col)],
            SecondMoment::Full { v } => vec![("exp_avg_sq", v)],
        }
    }
}

/// The settings of one step over all parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub lr: f64,
    /// c in `β₂ₜ = 1 − tᶜ`.
    pub decay_rate: f64,
    /// Added to the squared gradient.
    pub eps: f64,
    /// Largest root mean square of a parameter's update, before the learning rate.
    pub clip_threshold: f64,
    /// Clipping of the gradients, and loss scale.
    pub clip: Clip,
}

impl Step {
    /// Updates all parameters, or none when a gradient is not finite.
    ///
    /// # Errors
    /// When shapes, dtypes or devices do not fit, and when device memory runs out.
    pub fn run(
        &self,
        parameters: &mut [Parameter<SecondMoment>],
        progress: &mut Progress,
    ) -> Result<StepReport> {
        step::run(self, self.clip, parameters, progress)
    }
}

impl Update<SecondMoment> for Step {
    const NAME: &'static str = NAME;

    fn on_cpu(&self, parameters: &mut [Parameter<SecondMoment>], step: u64, grad_scale: f32) -> Result<()> {
        for p in parameters {
            let update = Adafactor {
                lr: self.lr,
                lr_scale: p.lr_scale,
                decay_rate: self.decay_rate,
                eps: self.eps,
                clip_threshold: self.clip_threshold,
                weight_decay: p.weight_decay,
                step,
                grad_scale,
            };
            let grad = p.grad.contiguous()?;
            let (value, grad) = (p.value.as_mut_slice::<f32>()?, grad.as_slice::<f32>()?);
            match &mut *p.state {
                SecondMoment::Factored { row, col } => {
                    update.update_matrix(value, grad, row.as_mut_slice()?, col.as_mut_slice()?)?;
                }
                SecondMoment::Full { v } => update.update_vector(value, grad, v.as_mut_slice()?)?,
            }
        }
        Ok(())
    }

    fn on_cuda(
        &self,
        device: &CudaDevice,
        parameters: &mut [Parameter<SecondMoment>],
        step: u64,
        clip: Clip,
        control: &control::State,
    ) -> Result<()> {
        cuda::step(self, device, parameters, step, clip, control)
    }
}
