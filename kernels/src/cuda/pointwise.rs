//! Launches the element-by-element kernels. See `pointwise.cuh`.

use super::{blocks_for, launch, on_device, upload};
use medley_tensor::device::{CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{Error, Result, Tensor};

const THREADS: usize = 256;

/// A dimension of the results and the strides with which the operands are walked along it.
struct Dimension {
    extent: usize,
    strides: Vec<usize>,
}

/// An element-by-element kernel: its op, its PTX, its name without the dtype.
pub(crate) struct Kernel {
    pub(crate) op: &'static str,
    pub(crate) ptx: &'static Ptx,
    pub(crate) entry: &'static str,
}

/// The kernel applied to every element of `shape`, to which each operand is broadcast. The result is
/// row-major, in the operands' dtype. `extra` follows the arguments that all such kernels take.
///
/// # Errors
/// When operands differ in dtype or device, do not broadcast to `shape`, or memory runs out.
pub(crate) fn pointwise(
    device: &CudaDevice,
    kernel: &Kernel,
    shape: &[usize],
    operands: &[&Tensor],
    extra: &[KernelArg],
) -> Result<Tensor> {
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), shape, operands[0].dtype())?;
    run(device, kernel, shape, operands, &[Some(&y)], extra)?;
    Ok(y)
}

/// [`pointwise`] of a kernel with two results, of which those not `wanted` are not stored.
pub(crate) fn pointwise_pair(
    device: &CudaDevice,
    kernel: &Kernel,
    shape: &[usize],
    operands: &[&Tensor],
    wanted: &[bool],
    extra: &[KernelArg],
) -> Result<[Option<Tensor>; 2]> {
    let on = Device::Cuda(device.clone());
    let result = |i: usize| wanted[i].then(|| Tensor::empty_on(&on, shape, operands[0].dtype())).transpose();
    let (a, b) = (result(0)?, result(1)?);
    run(device, kernel, shape, operands, &[a.as_ref(), b.as_ref()], extra)?;
    Ok([a, b])
}

fn run(
    device: &CudaDevice,
    &Kernel { op, ptx, entry }: &Kernel,
    shape: &[usize],
    operands: &[&Tensor],
    results: &[Option<&Tensor>],
    extra: &[KernelArg],
) -> Result<()> {
    let dtype = operands[0].dtype();
    let suffix = super::suffix(op, dtype)?;
    for t in operands {
        if t.dtype() != dtype {
            return Err(Error::dtype(op, format!("operands of one dtype, the first is {dtype}"), t.dtype()));
        }
        on_device(op, device, t)?;
    }
    let layouts = operands.iter().map(|t| t.layout().broadcast_to(shape)).collect::<Result<Vec<_>>>()?;
    let n: usize = shape.iter().product();
    if n == 0 {
        return Ok(());
    }
    let strides: Vec<&[usize]> = layouts.iter().map(|l| l.strides()).collect();
    let dimensions = collapse(shape, &strides);
    let per = 16 / dtype.bytes_for(1);
    let addresses = operands.iter().map(|t| t.device_ptr()).collect::<Result<Vec<_>>>()?;
    let straight = dimensions.iter().take(1).all(|d| d.strides.iter().all(|s| *s == 1));
    let whole = straight && dimensions.len() <= 1;
    let rows_fit = whole
        || dimensions[0].extent.is_multiple_of(per)
            && dimensions[1..].iter().all(|d| d.strides.iter().all(|s| s.is_multiple_of(per)));
    let vectors =
        if straight && rows_fit && addresses.iter().all(|a| a.is_multiple_of(16)) { n / per } else { 0 };
    // In the stream's order, the layout may go back to the pool as soon as the kernel is launched.
    let layout = if whole {
        None
    } else {
        let numbers =
            dimensions.iter().flat_map(|d| std::iter::once(d.extent).chain(d.strides.iter().copied()));
        Some(upload(device, &numbers.map(|v| v as u64).collect::<Vec<u64>>())?)
    };
    let mut arguments = Vec::with_capacity(results.len() + addresses.len() + 4 + extra.len());
    for r in results {
        arguments.push(KernelArg::Ptr(r.map_or(Ok(0), Tensor::device_ptr)?));
    }
    arguments.extend(addresses.into_iter().map(KernelArg::Ptr));
    arguments.push(KernelArg::Ptr(layout.as_ref().map_or(0, |l| l.ptr())));
    arguments.push(KernelArg::U32(if whole { 0 } else { dimensions.len() as u32 }));
    arguments.push(KernelArg::U64(vectors as u64));
    arguments.push(KernelArg::U64(n as u64));
    arguments.extend(extra);
    let grid = [blocks_for(op, n - vectors * (per - 1), THREADS)?, 1, 1];
    launch(device, ptx, &format!("{entry}_{suffix}"), grid, [THREADS as u32, 1, 1], 0, &arguments)
}

/// The dimensions from the innermost on: those of extent 1 dropped, and neighbours merged that every
/// operand walks as one.
fn collapse(shape: &[usize], strides: &[&[usize]]) -> Vec<Dimension> {
    let mut out: Vec<Dimension> = vec![];
    for (d, &extent) in shape.iter().enumerate().rev().filter(|(_, n)| **n != 1) {
        match out.last_mut() {
            Some(inner) if inner.strides.iter().zip(strides).all(|(i, s)| s[d] == i * inner.extent) => {
                inner.extent *= extent;
            }
            _ => out.push(Dimension { extent, strides: strides.iter().map(|s| s[d]).collect() }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_collapse() {
        let of = |shape: &[usize], strides: &[&[usize]]| -> Vec<(usize, Vec<usize>)> {
            collapse(shape, strides).into_iter().map(|d| (d.extent, d.strides)).collect()
        };
        assert_eq!(of(&[2, 3, 4], &[&[12, 4, 1], &[12, 4, 1]]), [(24, vec![1, 1])]);
        assert_eq!(of(&[2, 3, 4], &[&[12, 4, 1], &[0, 0, 1]]), [(4, vec![1, 1]), (6, vec![4, 0])]);
        assert_eq!(of(&[5, 1, 4], &[&[9, 7, 1]]), [(4, vec![1]), (5, vec![9])]);
        assert!(of(&[1, 1], &[&[1, 1]]).is_empty() && of(&[], &[&[]]).is_empty());
    }
}
