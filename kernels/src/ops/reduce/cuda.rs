//! Reductions on a GPU. See `reduce.cu`.

use super::{Reduce, ReduceKind};
use crate::cuda::{blocks_for, cast, launch, on_16_bytes, ptr, ptx, suffix, u32_arg};
use crate::ops::{Affine, affine, permute};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{DType, Op, Result, Tensor};

static PTX: Ptx = ptx!("reduce.ptx");
const THREADS: usize = 256;
/// Elements of a row that one group of threads folds.
const ROW_CHUNK: usize = 8192;
/// Rows of columns that one block folds.
const COLUMN_CHUNK: usize = 256;
/// Up to this length a row is folded by part of a warp.
const SHORT: usize = 2048;

/// Threads for rows of `n`.
fn lanes(n: usize) -> usize {
    if n > SHORT { THREADS } else { n.div_ceil(8).next_power_of_two().min(32) }
}

/// What a fold computes, and what becomes of its last stage.
#[derive(Clone, Copy)]
struct Fold {
    max: bool,
    scale: f32,
    out: DType,
}

/// Every dimension of `dims` (ascending) folded to extent 1 in f32: the sum times `scale`, or the maximum.
/// The result has x's dtype.
pub(crate) fn over_dims(device: &CudaDevice, x: &Tensor, dims: &[usize], kind: ReduceKind) -> Result<Tensor> {
    let out = x.dtype();
    suffix(Reduce::NAME, out)?;
    let on = Device::Cuda(device.clone());
    let mut shape = x.shape().to_vec();
    let count: usize = dims.iter().map(|d| shape[*d]).product();
    let scale = if kind == ReduceKind::Mean { 1.0 / count as f32 } else { 1.0 };
    let fold = Fold { max: kind == ReduceKind::Max, scale, out };
    if x.numel() == 0 {
        dims.iter().for_each(|d| shape[*d] = 1);
        let zeros = Tensor::zeros_on(&on, &shape, out)?;
        // 0 · ∞: the mean of nothing is NaN.
        return affine::cuda::forward(device, Affine { mul: scale, add: 0.0 }, &zeros, &shape);
    }
    let mut x = permute::cuda::dense(x)?;
    let runs = super::runs(&shape, dims);
    for (i, run) in runs.iter().enumerate() {
        let last = i + 1 == runs.len();
        let fold = if last { fold } else { Fold { scale: 1.0, out: DType::F32, ..fold } };
        x = fold.run(device, &x, run.extents, &run.shape)?;
    }
    if x.dtype() == out { Ok(x) } else { cast(&x, out) }
}

impl Fold {
    /// Folds the middle of contiguous `x` to a tensor of `shape`, stage by stage.
    fn run(self, device: &CudaDevice, x: &Tensor, sizes: [usize; 3], shape: &[usize]) -> Result<Tensor> {
        let on = Device::Cuda(device.clone());
        let [outer, mid, inner] = sizes;
        let chunks = mid.div_ceil(if inner == 1 { ROW_CHUNK } else { COLUMN_CHUNK });
        if chunks == 1 {
            let y = Tensor::empty_on(&on, shape, self.out)?;
            self.stage(device, x, sizes, &y)?;
            return Ok(y);
        }
        let partial = Tensor::empty_on(&on, &[outer, chunks, inner], DType::F32)?;
        Fold { scale: 1.0, out: DType::F32, ..self }.stage(device, x, sizes, &partial)?;
        self.run(device, &partial, [outer, chunks, inner], shape)
    }

    fn stage(self, device: &CudaDevice, x: &Tensor, [outer, mid, inner]: [usize; 3], y: &Tensor) -> Result<()> {
        let op = Reduce::NAME;
        let suffix = suffix(op, x.dtype())?;
        let aligned = on_16_bytes(&[x.device_ptr()?]);
        let mut arguments = vec![ptr(op, device, y)?, ptr(op, device, x)?];
        let (pass, blocks) = if inner == 1 {
            let lanes = lanes(mid.min(ROW_CHUNK));
            arguments.extend([
                KernelArg::U64(outer as u64),
                KernelArg::U64(mid as u64),
                KernelArg::U32(ROW_CHUNK as u32),
                KernelArg::U32(lanes as u32),
                KernelArg::U32(u32::from(aligned && mid.is_multiple_of(8))),
            ]);
            ("row", blocks_for(op, outer * mid.div_ceil(ROW_CHUNK) * lanes, THREADS)?)
        } else {
            let vectors = aligned && inner.is_multiple_of(8);
            let chunks = mid.div_ceil(COLUMN_CHUNK);
            let tiles = inner.div_ceil(if vectors { 256 } else { 32 });
            arguments.extend([
                KernelArg::U64(mid as u64),
                KernelArg::U64(inner as u64),
                KernelArg::U32(COLUMN_CHUNK as u32),
                u32_arg(op, "the number of partial results", chunks)?,
                u32_arg(op, "the number of tiles of a row", tiles)?,
                KernelArg::U32(u32::from(vectors)),
            ]);
            ("col", blocks_for(op, outer * chunks * tiles, 1)?)
        };
        let out = match self.out {
            DType::BF16 => 1,
            DType::F16 => 2,
            _ => 0,
        };
        arguments.extend([KernelArg::U32(u32::from(self.max)), KernelArg::F32(self.scale), KernelArg::U32(out)]);
        let entry = format!("reduce_fwd_{pass}_{suffix}");
        launch(device, &PTX, &entry, [blocks, 1, 1], [THREADS as u32, 1, 1], 0, &arguments)
    }
}

/// The gradient of a maximum `y` of `x` over `dims`; `y` and `dy` have those dimensions at extent 1. It is a
/// view whose reduced dimensions lie innermost.
pub(crate) fn maximum_gradient(
    device: &CudaDevice,
    x: &Tensor,
    y: &Tensor,
    dy: &Tensor,
    dims: &[usize],
) -> Result<Tensor> {
    let op = Reduce::NAME;
    let suffix = suffix(op, x.dtype())?;
    let mut order: Vec<usize> = (0..x.rank()).filter(|d| !dims.contains(d)).collect();
    order.extend(dims);
    let rows = permute::cuda::dense(&x.permute(&order)?)?;
    let dx = Tensor::empty_on(&Device::Cuda(device.clone()), rows.shape(), rows.dtype())?;
    if dx.numel() > 0 {
        let (y, dy) = (permute::cuda::dense(y)?, permute::cuda::dense(&cast(dy, x.dtype())?)?);
        let mid = x.numel() / y.numel();
        let vectors = mid.is_multiple_of(8) && on_16_bytes(&[rows.device_ptr()?, dx.device_ptr()?]);
        let lanes = lanes(mid);
        let arguments = [
            ptr(op, device, &dx)?,
            ptr(op, device, &rows)?,
            ptr(op, device, &y)?,
            ptr(op, device, &dy)?,
            KernelArg::U64(y.numel() as u64),
            KernelArg::U64(mid as u64),
            KernelArg::U32(lanes as u32),
            KernelArg::U32(u32::from(vectors)),
        ];
        let grid = [blocks_for(op, y.numel() * lanes, THREADS)?, 1, 1];
        let entry = format!("reduce_bwd_max_{suffix}");
        launch(device, &PTX, &entry, grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    }
    let mut back = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, d)| back[*d] = i);
    dx.permute(&back)
}
