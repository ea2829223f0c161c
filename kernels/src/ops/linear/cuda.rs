//! The linear layer on a GPU. The kernels are `crate::cuda::gemm`'s; here weights find the right one.

use super::{Linear, Saved, Sizes, with_last};
use crate::cuda::gemm::{Matrix, Nf4Schedule, Options, Target, column_sums, nf4_product, product};
use crate::cuda::{cast, on_device, to_f32};
use medley_tensor::device::{CudaDevice, CudaNf4, Device};
use medley_tensor::{DType, Error, Op, Result, Tensor};

const NAME: &str = Linear::NAME;

/// A weight `[N, K]` as a product can use it.
pub(crate) enum Weight<'a> {
    /// In the activations' dtype, cast if it was stored in another.
    Dense(Tensor),
    /// In NF4 blocks.
    Nf4(&'a CudaNf4),
}

impl<'a> Weight<'a> {
    /// `weight` for activations in `dtype`.
    ///
    /// # Errors
    /// When it lies elsewhere, is part of an NF4 matrix, or device memory runs out.
    pub(crate) fn of(op: &'static str, device: &CudaDevice, weight: &'a Tensor, dtype: DType) -> Result<Self> {
        on_device(op, device, weight)?;
        match weight.nf4_on_device() {
            Some(nf4) if weight.is_contiguous() && weight.shape() == [nf4.rows, nf4.cols] => Ok(Weight::Nf4(nf4)),
            Some(_) => Err(Error::value(op, "an NF4 weight is used whole; this is a view into one")),
            None => Ok(Weight::Dense(cast(weight, dtype)?)),
        }
    }

    /// `C = alpha · x·Wᵀ` (`transposed`) or `alpha · x·W`, `+ beta · C (+ bias)`.
    ///
    /// # Errors
    /// When shapes do not fit or device memory runs out.
    #[expect(clippy::too_many_arguments)]
    pub(crate) fn multiply(
        &self,
        op: &'static str,
        device: &CudaDevice,
        x: Matrix,
        transposed: bool,
        c: Target,
        options: Options,
        schedule: Option<Nf4Schedule>,
    ) -> Result<()> {
        match self {
            Weight::Nf4(nf4) => nf4_product(op, device, 1.0, x, nf4, transposed, c, options, schedule),
            Weight::Dense(w) => {
                let w = Matrix::of(op, w)?;
                product(op, device, 1.0, x, if transposed { w.t() } else { w }, c, options)
            }
        }
    }
}

/// A bias as the kernels read it.
///
/// # Errors
/// When it lies elsewhere, or device memory runs out.
pub(crate) fn f32_bias(op: &'static str, device: &CudaDevice, bias: Option<&Tensor>) -> Result<Option<Tensor>> {
    let Some(bias) = bias else { return Ok(None) };
    on_device(op, device, bias)?;
    to_f32(bias).map(Some)
}

/// `x · Wᵀ + b` in x's dtype; x is contiguous.
pub(crate) fn forward(
    device: &CudaDevice,
    size: Sizes,
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let on = Device::Cuda(device.clone());
    let y = Tensor::empty_on(&on, &with_last(x.shape(), size.n), x.dtype())?;
    let bias = f32_bias(NAME, device, bias)?;
    let options = Options { bias: bias.as_ref(), ..Options::default() };
    let weight = Weight::of(NAME, device, weight, x.dtype())?;
    weight.multiply(NAME, device, Matrix::rows_of(NAME, x)?, true, Target::of(&y)?, options, None)?;
    Ok(y)
}

/// `dyᵀ · x` in f32: the gradient of a weight.
///
/// # Errors
/// When device memory runs out.
pub(crate) fn weight_gradient(op: &'static str, device: &CudaDevice, dy: Matrix, x: Matrix) -> Result<Tensor> {
    let dw = Tensor::empty_on(&Device::Cuda(device.clone()), &[dy.cols, x.cols], DType::F32)?;
    product(op, device, 1.0, dy.t(), x, Target::of(&dw)?, Options::default())?;
    Ok(dw)
}

/// Gradients of x (in dy's dtype), the weight and the bias (f32).
pub(crate) fn backward(
    device: &CudaDevice,
    saved: &Saved,
    dy: &Tensor,
    bias: bool,
) -> Result<[Option<Tensor>; 3]> {
    let rows = Matrix::rows_of(NAME, dy)?;
    let dx = match &saved.weight {
        Some(weight) => {
            let k = weight.shape()[1];
            let dx = Tensor::empty_on(&Device::Cuda(device.clone()), &with_last(dy.shape(), k), dy.dtype())?;
            let weight = Weight::of(NAME, device, weight, dy.dtype())?;
            weight.multiply(NAME, device, rows, false, Target::of(&dx)?, Options::default(), None)?;
            Some(dx)
        }
        None => None,
    };
    let dw = match &saved.x {
        Some(x) => Some(weight_gradient(NAME, device, rows, Matrix::rows_of(NAME, x)?)?),
        None => None,
    };
    let db = if bias { Some(column_sums(NAME, device, dy)?) } else { None };
    Ok([dx, dw, db])
}
