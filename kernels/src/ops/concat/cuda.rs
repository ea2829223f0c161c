//! Copies between a tensor and a range of one dimension of a larger one, on a GPU. See `concat.cu` and
//! `../slice/slice.cu`.

use super::Concat;
use crate::cuda::{blocks_for, launch, ptx, suffix};
use crate::ops::permute;
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Error, Op, Result, Tensor};

static PTX: Ptx = ptx!("concat.ptx");
const THREADS: usize = 256;

/// Where a smaller row-major tensor lies in a larger one: `narrow` of every `wide` bytes from `start`.
pub(crate) struct Bytes {
    narrow: usize,
    wide: usize,
    start: usize,
}

impl Bytes {
    /// Indices `start..start + len` of dimension `dim` of a tensor of `shape` with elements of `size` bytes.
    pub(crate) fn new(shape: &[usize], dim: usize, start: usize, len: usize, size: usize) -> Self {
        let inner = shape[dim + 1..].iter().product::<usize>() * size;
        Bytes { narrow: len * inner, wide: shape[dim] * inner, start: start * inner }
    }

    /// The kernels' last arguments, counted in the largest unit of 16, 4 or 2 bytes that fits everything,
    /// for a kernel over `bytes` bytes; and its number of units.
    pub(crate) fn arguments(&self, bytes: usize, pointers: [u64; 2]) -> (usize, [KernelArg; 5]) {
        let all = pointers.iter().fold(self.narrow | self.wide | self.start, |all, p| all | *p as usize);
        let unit = if all.is_multiple_of(16) {
            4
        } else if all.is_multiple_of(4) {
            2
        } else {
            1
        };
        let count = |bytes: usize| KernelArg::U64((bytes >> unit) as u64);
        let arguments =
            [count(bytes), count(self.narrow), count(self.wide), count(self.start), KernelArg::U32(unit)];
        (bytes >> unit, arguments)
    }
}

/// `inputs` one after another along `dim` in a tensor of `shape`.
pub(crate) fn forward(device: &CudaDevice, dim: usize, inputs: &[&Tensor], shape: &[usize]) -> Result<Tensor> {
    let dtype = inputs[0].dtype();
    suffix(Concat::NAME, dtype)?;
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), shape, dtype)?;
    let mut start = 0;
    for x in inputs {
        if x.dtype() != dtype {
            return Err(Error::dtype(Concat::NAME, format!("inputs of one dtype, the first is {dtype}"), x.dtype()));
        }
        let len = x.shape()[dim];
        let place = Bytes::new(shape, dim, start, len, dtype.bytes_for(1));
        start += len;
        if x.numel() == 0 {
            continue;
        }
        let x = permute::cuda::dense(x)?;
        let (to, from) = (y.device_ptr()?, crate::cuda::ptr(Concat::NAME, device, &x)?);
        let (units, rest) = place.arguments(dtype.bytes_for(x.numel()), [to, x.device_ptr()?]);
        let mut arguments = vec![KernelArg::Ptr(to), from];
        arguments.extend(rest);
        let grid = [blocks_for(Concat::NAME, units, THREADS)?, 1, 1];
        launch(device, &PTX, "concat_fwd_any", grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    }
    Ok(y)
}
