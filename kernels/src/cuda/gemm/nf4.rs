//! Products with NF4 matrices.

use super::operand::{Order, aligned};
use super::schedule::{Nf4Schedule, thin_splits};
use super::{
    GEMV, GEMV_ROWS, Matrix, NULL, Options, Output, Target, gemv_arguments, is_gemv, product, writes_whole,
    z_extent,
};
use crate::cuda::{blocks_for, launch, on_device, ptx, suffix, u32_arg};
use medley_tensor::device::{CudaAbsmax, CudaDevice, CudaNf4, Device, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static NF4: Ptx = ptx!("gemm_nf4.ptx");
static QUANT: Ptx = ptx!("../../updates/nf4/nf4.ptx");

/// The five arguments `NF4_SCALE_PARAMETERS`.
fn scale_arguments(matrix: &CudaNf4) -> [KernelArg; 5] {
    match &matrix.absmax {
        CudaAbsmax::F32(absmax) => [KernelArg::Ptr(absmax.ptr()), NULL, NULL, NULL, KernelArg::F32(0.0)],
        CudaAbsmax::Double { codes, table, scales, offset } => [
            NULL,
            KernelArg::Ptr(codes.ptr()),
            KernelArg::Ptr(table.ptr()),
            KernelArg::Ptr(scales.ptr()),
            KernelArg::F32(*offset),
        ],
    }
}

/// The whole matrix `[rows, cols]` in f32, bf16 or f16.
///
/// # Errors
/// For other dtypes, and when device memory runs out.
pub(crate) fn dequantize(
    op: &'static str,
    device: &CudaDevice,
    matrix: &CudaNf4,
    dtype: DType,
) -> Result<Tensor> {
    let out = Tensor::empty_on(&Device::Cuda(device.clone()), &[matrix.rows, matrix.cols], dtype)?;
    let n = matrix.rows * matrix.cols;
    let mut arguments = vec![KernelArg::Ptr(matrix.codes.ptr())];
    arguments.extend(scale_arguments(matrix));
    arguments.extend([KernelArg::Ptr(out.device_ptr()?), KernelArg::U64(n as u64)]);
    let entry = format!("nf4_dequantize_{}", suffix(op, dtype)?);
    launch(device, &QUANT, &entry, [blocks_for(op, n, 2048)?, 1, 1], [256, 1, 1], 0, &arguments)?;
    Ok(out)
}

/// `x · Wᵀ` for contiguous x `[.., K]` on a GPU and W `[N, K]` in NF4 there, by a given schedule, for measuring one against
/// the other. In x's dtype.
///
/// # Errors
/// When shapes or devices do not fit, and where the fused kernel does not exist (f32, K no multiple of 64).
pub fn linear_nf4(x: &Tensor, weight: &Tensor, schedule: Nf4Schedule) -> Result<Tensor> {
    const NAME: &str = "linear_nf4";
    let (Some(device), Some(matrix)) = (x.cuda_device(), weight.nf4_on_device()) else {
        return Err(Error::value(NAME, "x and an NF4 weight on one GPU are needed"));
    };
    on_device(NAME, device, weight)?;
    if !weight.is_contiguous() || weight.shape() != [matrix.rows, matrix.cols] {
        return Err(Error::value(NAME, "an NF4 weight is used whole; this is a view into one"));
    }
    let mut shape = x.shape().to_vec();
    if let Some(last) = shape.last_mut() {
        *last = matrix.rows;
    }
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), &shape, x.dtype())?;
    let (rows, target) = (Matrix::rows_of(NAME, x)?, Target::of(&y)?);
    nf4_product(NAME, device, 1.0, rows, matrix, true, target, Options::default(), Some(schedule))?;
    Ok(y)
}

/// `C = alpha · x·Wᵀ` (`transposed`) or `alpha · x·W`, `+ beta · C (+ bias)`, for contiguous rows x and W in NF4.
///
/// # Errors
/// When shapes do not fit or device memory runs out.
#[expect(clippy::too_many_arguments)]
pub(crate) fn nf4_product(
    op: &'static str,
    device: &CudaDevice,
    alpha: f32,
    x: Matrix,
    weight: &CudaNf4,
    transposed: bool,
    c: Target,
    options: Options,
    schedule: Option<Nf4Schedule>,
) -> Result<()> {
    let (n, k) = if transposed { (weight.rows, weight.cols) } else { (weight.cols, weight.rows) };
    if x.cols != k {
        return Err(Error::shape(
            op,
            format!("rows of {k} for a weight {:?}", [weight.rows, weight.cols]),
            &[x.rows, x.cols],
        ));
    }
    if x.rows == 0 || n == 0 {
        return Ok(());
    }
    let name = suffix(op, x.dtype)?;
    let whole_blocks = weight.cols.is_multiple_of(64);
    if schedule.is_none()
        && transposed
        && whole_blocks
        && x.rows <= GEMV_ROWS
        && c.dtype == x.dtype
        && is_gemv(x, Matrix { rows: 1, ..x })
    {
        let (mut arguments, grid) = gemv_arguments(op, alpha, x, n, c, &options)?;
        arguments.push(KernelArg::Ptr(weight.codes.ptr()));
        arguments.extend(scale_arguments(weight));
        return launch(device, &GEMV, &format!("gemv_nf4_{name}"), grid, [128, 1, 1], 0, &arguments);
    }
    let chosen = match schedule {
        Some(Nf4Schedule::Fused) if x.dtype == DType::F32 || !whole_blocks => {
            let message = format!(
                "the fused NF4 kernel takes bf16 or f16 and columns in multiples of 64, this is {name} and {}",
                weight.cols
            );
            return Err(Error::value(op, message));
        }
        Some(schedule) => schedule,
        None if x.dtype == DType::F32 => Nf4Schedule::Dequantize,
        None => Nf4Schedule::choose(x.rows, weight.cols, device.info().compute_capability),
    };
    if chosen == Nf4Schedule::Dequantize {
        let dense = dequantize(op, device, weight, x.dtype)?;
        let w = Matrix::of(op, &dense)?;
        return product(op, device, alpha, x, if transposed { w.t() } else { w }, c, options);
    }

    let x = (aligned(op, device, x, Order::KMajor, &[])?, x.rows);
    let (x, m) = x;
    let (rows, layout, shared) = if transposed { (32, "nt", 32 << 10) } else { (32, "nn", 18 << 10) };
    let depth = if transposed { k / 64 } else { k.div_ceil(32) };
    let blocks = m.div_ceil(rows) * n.div_ceil(128);
    let splits = match options.plan {
        Some((_, splits)) => splits.clamp(1, depth.max(1)),
        None => thin_splits(blocks, depth, device.info().multiprocessors as usize),
    };
    let per_split = depth.div_ceil(splits).max(1);
    let splits = depth.div_ceil(per_split).max(1);
    let output = Output::new(op, device, [m, n], c, alpha, &options, splits, writes_whole(c, n, &options)?)?;
    let (c, bias, alpha, beta, ldc, c_stride, f32) = output.kernel();
    let mut arguments = vec![KernelArg::Ptr(x.address), KernelArg::Ptr(weight.codes.ptr()), c, bias];
    arguments.extend(scale_arguments(weight));
    arguments.extend([
        u32_arg(op, "M", m)?,
        u32_arg(op, "N", n)?,
        u32_arg(op, "K", k)?,
        u32_arg(op, "the leading dimension of x", x.ld)?,
        u32_arg(op, "N", ldc)?,
        KernelArg::U64(c_stride as u64),
        u32_arg(op, "the number of splits", splits)?,
        u32_arg(op, "the tiles of a split", per_split)?,
        KernelArg::F32(alpha),
        KernelArg::F32(beta),
        KernelArg::U32(u32::from(f32)),
    ]);
    let grid = [blocks_for(op, blocks, 1)?, 1, z_extent(op, splits)?];
    let entry = format!("gemm_nf4_{layout}_{rows}_{name}");
    launch(device, &NF4, &entry, grid, [128, 1, 1], shared, &arguments)?;
    output.finish()
}
