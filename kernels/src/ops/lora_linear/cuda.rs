//! The LoRA layer on a GPU. Dense bases take one of two schedules ([`LoraSchedule`]); both read and write y and dx once:
//!
//! ```text
//! Fused     one kernel: y tile and h = s·x·Aᵀ in one pass over x, then h·Bᵀ into the tile (`dense.cuh`, LOW_RANK)
//! TwoStep   h = s·drop(x)·Aᵀ, then y = [x | h]·[W | B]ᵀ as one product over K + r
//! ```
//! With dropout, with ranks over 64 and in f32 there is no fused kernel. With dropout dx cannot be one product either
//! (the mask lies between dh·A and dx): dh·A is masked, then dy·W is added to it. A base in NF4 that is multiplied from
//! its codes gets the low-rank part added by a second product of depth r.
//!
//! h is kept as s·h, rounded to x's dtype, as the tensor cores read it.

use super::{LoraLinear, Saved};
use crate::cuda::{cast, on_device};
use crate::cuda::gemm::{
    LoraSchedule, LowRank, Matrix, Nf4Schedule, Options, Target, column_sums, dequantize, product,
};
use crate::ops::linear::cuda::{Weight, f32_bias, weight_gradient};
use crate::ops::linear::{Sizes, with_last};
use medley_tensor::device::{CudaDevice, Device};
use medley_tensor::{DType, Error, Op, Result, Tensor};

const NAME: &str = LoraLinear::NAME;

/// A base ready for a product of `rows` rows: NF4 that the cost rule dequantises is dense from here on.
fn base<'a>(device: &CudaDevice, weight: &'a Tensor, rows: usize, dtype: DType) -> Result<Weight<'a>> {
    let weight = Weight::of(NAME, device, weight, dtype)?;
    if let Weight::Nf4(nf4) = weight {
        let fused = dtype != DType::F32
            && Nf4Schedule::choose(rows, nf4.cols, device.info().compute_capability) == Nf4Schedule::Fused;
        return Ok(if fused { weight } else { Weight::Dense(dequantize(NAME, device, nf4, dtype)?) });
    }
    Ok(weight)
}

/// The low-rank path of one direction: `h = scale · from·down`, `out += h·up`.
struct Path {
    /// `[K, r]`.
    down: Matrix,
    /// `[r, N]`.
    up: Matrix,
    scale: f32,
    /// `[rows, r]`, written.
    h: Tensor,
}

/// `c = x·W' (+ bias) + h·up` with h made from `source` (x, or x after dropout).
#[expect(clippy::too_many_arguments)]
fn adapted(
    device: &CudaDevice,
    x: Matrix,
    source: Option<Matrix>,
    weight: &Weight,
    transposed: bool,
    path: &Path,
    c: Target,
    bias: Option<&Tensor>,
    schedule: Option<LoraSchedule>,
) -> Result<()> {
    let options = Options { bias, ..Options::default() };
    let (n, rank) = (path.up.cols, path.up.rows);
    let dense = match weight {
        Weight::Dense(w) if x.dtype != DType::F32 => {
            let w = Matrix::of(NAME, w)?;
            Some(if transposed { w.t() } else { w })
        }
        _ => None,
    };
    let can_fuse = dense.is_some() && source.is_none() && rank <= crate::cuda::gemm::FUSED_RANK;
    if schedule == Some(LoraSchedule::Fused) && !can_fuse {
        let message = "the fused kernel takes bf16 or f16, a dense base, no dropout and ranks up to 64";
        return Err(Error::value(NAME, message));
    }
    let chosen = schedule.unwrap_or_else(|| LoraSchedule::choose(x.rows, n, x.cols, rank));
    if let (Some(w), true, LoraSchedule::Fused) = (dense, can_fuse, chosen) {
        let low = LowRank { low: path.down, up: path.up, h: path.h.device_ptr()?, scale: path.scale };
        return product(NAME, device, 1.0, x, w, c, Options { low: Some(low), ..options });
    }
    let h = Target::of(&path.h)?;
    product(NAME, device, path.scale, source.unwrap_or(x), path.down, h, Options::default())?;
    let h = Matrix::of(NAME, &path.h)?;
    if let Some(w) = dense {
        return product(NAME, device, 1.0, x, w, c, Options { second: Some((h, path.up)), ..options });
    }
    weight.multiply(NAME, device, x, transposed, c, options, None)?;
    product(NAME, device, 1.0, h, path.up, c, Options { beta: 1.0, ..Options::default() })
}

impl LoraLinear {
    /// The forward pass on a GPU by a given schedule, for measuring one against the other: inputs as for the op.
    ///
    /// # Errors
    /// As the op's forward; when x is not on a GPU; for [`LoraSchedule::Fused`] where there is no fused kernel.
    pub fn forward_scheduled(&self, inputs: &[&Tensor], schedule: LoraSchedule) -> Result<Tensor> {
        LoraLinear::check_arity(inputs.len())?;
        let Some(device) = inputs[0].cuda_device() else {
            return Err(Error::value(NAME, "a schedule is for activations on a GPU"));
        };
        let bias = inputs.get(4).copied();
        let size = crate::ops::linear::sizes(NAME, inputs[0], inputs[1], bias)?;
        let weights = [inputs[1], inputs[2], inputs[3]];
        let x = inputs[0].contiguous()?;
        Ok(self.forward_on(device, size, &x, weights, bias, Some(schedule))?.0)
    }

    /// `y` and the `s·h` that the backward pass reads; x is contiguous.
    pub(super) fn forward_on(
        &self,
        device: &CudaDevice,
        size: Sizes,
        x: &Tensor,
        [weight, a, b]: [&Tensor; 3],
        bias: Option<&Tensor>,
        schedule: Option<LoraSchedule>,
    ) -> Result<(Tensor, Tensor)> {
        let (on, dtype) = (Device::Cuda(device.clone()), x.dtype());
        on_device(NAME, device, a)?;
        on_device(NAME, device, b)?;
        let (a, b, bias) = (cast(a, dtype)?, cast(b, dtype)?, f32_bias(NAME, device, bias)?);
        let y = Tensor::empty_on(&on, &with_last(x.shape(), size.n), dtype)?;
        let path = Path {
            down: Matrix::of(NAME, &a)?.t(),
            up: Matrix::of(NAME, &b)?.t(),
            scale: self.scale,
            h: Tensor::empty_on(&on, &[size.rows, a.shape()[0]], dtype)?,
        };
        let dropped = if self.drops() { Some(self.dropped(x)?) } else { None };
        let source = dropped.as_ref().map(|x| Matrix::rows_of(NAME, x)).transpose()?;
        let base = base(device, weight, size.rows, dtype)?;
        let rows = Matrix::rows_of(NAME, x)?;
        adapted(device, rows, source, &base, true, &path, Target::of(&y)?, bias.as_ref(), schedule)?;
        Ok((y, path.h))
    }

    /// Whether the mask drops anything.
    fn drops(&self) -> bool {
        self.dropout.is_some_and(|dropout| dropout.p != 0.0)
    }

    /// Gradients as the CPU's backward names them; `saved.h` is s·h.
    pub(super) fn backward_on(
        &self,
        device: &CudaDevice,
        saved: &Saved,
        dy: &Tensor,
        needs: &[bool],
        schedule: Option<LoraSchedule>,
    ) -> Result<Vec<Option<Tensor>>> {
        let (on, dtype) = (Device::Cuda(device.clone()), dy.dtype());
        let mut out = vec![None; needs.len()];
        let rows = Matrix::rows_of(NAME, dy)?;
        let mut dh = None;
        if let Some(b) = &saved.b {
            let b = cast(b, dtype)?;
            let h = Tensor::empty_on(&on, &[rows.rows, b.shape()[1]], dtype)?;
            let b = Matrix::of(NAME, &b)?;
            match (&saved.weight, &saved.a) {
                (Some(weight), Some(a)) => {
                    let a = cast(a, dtype)?;
                    let k = a.shape()[1];
                    let path = Path { down: b, up: Matrix::of(NAME, &a)?, scale: self.scale, h };
                    let base = base(device, weight, rows.rows, dtype)?;
                    let shape = with_last(dy.shape(), k);
                    let dx = if self.drops() {
                        let low = Tensor::empty_on(&on, &shape, dtype)?;
                        product(NAME, device, path.scale, rows, path.down, Target::of(&path.h)?, Options::default())?;
                        let h = Matrix::of(NAME, &path.h)?;
                        product(NAME, device, 1.0, h, path.up, Target::of(&low)?, Options::default())?;
                        let dx = self.dropped(&low)?;
                        let options = Options { beta: 1.0, ..Options::default() };
                        base.multiply(NAME, device, rows, false, Target::of(&dx)?, options, None)?;
                        dx
                    } else {
                        let dx = Tensor::empty_on(&on, &shape, dtype)?;
                        adapted(device, rows, None, &base, false, &path, Target::of(&dx)?, None, schedule)?;
                        dx
                    };
                    out[0] = Some(dx);
                    dh = Some(path.h);
                }
                _ => {
                    product(NAME, device, self.scale, rows, b, Target::of(&h)?, Options::default())?;
                    dh = Some(h);
                }
            }
        }
        if let Some(x) = &saved.x {
            if needs[1] {
                out[1] = Some(weight_gradient(NAME, device, rows, Matrix::rows_of(NAME, x)?)?);
            }
            if let (true, Some(dh)) = (needs[2], &dh) {
                let dropped = self.dropped(x)?;
                let (dh, x) = (Matrix::of(NAME, dh)?, Matrix::rows_of(NAME, &dropped)?);
                out[2] = Some(weight_gradient(NAME, device, dh, x)?);
            }
        }
        if let Some(h) = &saved.h {
            out[3] = Some(weight_gradient(NAME, device, rows, Matrix::of(NAME, h)?)?);
        }
        if needs.get(4) == Some(&true) {
            out[4] = Some(column_sums(NAME, device, dy)?);
        }
        Ok(out)
    }
}
