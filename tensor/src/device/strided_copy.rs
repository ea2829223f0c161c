//! Makes strided views on a device contiguous. See `strided_copy.cu`.

use super::{CudaDevice, DeviceBuffer, KernelArg, LaunchConfig, Ptx};
use crate::{Error, Layout, Result};

static PTX: Ptx = Ptx { name: "strided_copy.ptx", source: include_str!("strided_copy.ptx") };

/// Dimensions the kernel takes, after merging.
const RANK: usize = 8;
const THREADS: usize = 256;

/// Copies the view `layout` of `source` (elements of `size` bytes) to a new contiguous buffer.
///
/// # Errors
/// When the view has more than 8 dimensions that cannot be merged, or 2³¹ elements or more.
pub(crate) fn strided_copy(
    device: &CudaDevice,
    source: &DeviceBuffer,
    layout: &Layout,
    size: usize,
) -> Result<DeviceBuffer> {
    let n = layout.numel();
    let target = device.alloc(n * size)?;
    if n == 0 {
        return Ok(target);
    }
    let start = source.ptr() + (layout.offset() * size) as u64;
    let mut dimensions = merged(layout);
    let width = widen(&mut dimensions, size, start);
    if dimensions.len() > RANK {
        let expected = format!("at most {RANK} dimensions after merging contiguous ones");
        return Err(Error::shape("strided_copy", expected, layout.shape()));
    }
    let n = n * size / width;
    let too_many = || Error::shape("strided_copy", "less than 2^31 elements", layout.shape());
    // The kernel's 32-bit counter must not wrap past the last element.
    let count = i32::try_from(n).map_err(|_| too_many())? as u32;
    let mut arguments = vec![KernelArg::Ptr(start), KernelArg::Ptr(target.ptr()), KernelArg::U32(count)];
    let at = |d: usize| dimensions.get(d).copied().unwrap_or((1, 0));
    for d in 0..RANK {
        arguments.push(KernelArg::U32(u32::try_from(at(d).0).map_err(|_| too_many())?));
    }
    arguments.extend((0..RANK).map(|d| KernelArg::U64(at(d).1 as u64)));
    let blocks = n.div_ceil(THREADS).min(device.info().multiprocessors as usize * 32).max(1);
    let config = LaunchConfig { grid: [blocks as u32, 1, 1], block: [THREADS as u32, 1, 1], shared_bytes: 0 };
    device.launch(&PTX, &format!("strided_copy_{width}"), config, &arguments)?;
    Ok(target)
}

/// `(extent, stride)` from the innermost dimension outwards, contiguous neighbours merged.
fn merged(layout: &Layout) -> Vec<(usize, usize)> {
    let mut out: Vec<(usize, usize)> = Vec::new();
    for (&n, &stride) in layout.shape().iter().zip(layout.strides()).rev() {
        match out.last_mut() {
            _ if n == 1 => {}
            Some((inner, inner_stride)) if stride == *inner * *inner_stride => *inner *= n,
            _ => out.push((n, stride)),
        }
    }
    out
}

/// Counts in elements of 16 bytes where the innermost run allows it, and says how many bytes an element
/// has now.
fn widen(dimensions: &mut [(usize, usize)], size: usize, start: u64) -> usize {
    let per = 16 / size;
    let fits = |d: &(usize, usize)| d.1.is_multiple_of(per);
    match dimensions {
        [(inner, 1), outer @ ..]
            if inner.is_multiple_of(per) && start.is_multiple_of(16) && outer.iter().all(fits) =>
        {
            *inner /= per;
            outer.iter_mut().for_each(|d| d.1 /= per);
            16
        }
        _ => size,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dimensions_merge_and_widen() {
        let layout = Layout::contiguous(&[2, 3, 8, 4]);
        assert_eq!(merged(&layout), [(192, 1)]);
        let view = layout.narrow(2, 0, 4).unwrap();
        assert_eq!(merged(&view), [(16, 1), (6, 32)]);
        let mut dimensions = merged(&view);
        assert_eq!((widen(&mut dimensions, 4, 32), dimensions), (16, vec![(4, 1), (6, 8)]));
        let mut dimensions = merged(&view);
        assert_eq!(widen(&mut dimensions, 4, 8), 4, "not aligned");
        let mut dimensions = merged(&layout.permute(&[3, 1, 2, 0]).unwrap());
        assert_eq!(widen(&mut dimensions, 2, 0), 2, "not contiguous inside");
        assert_eq!(merged(&Layout::contiguous(&[3]).broadcast_to(&[5, 3]).unwrap()), [(3, 1), (5, 0)]);
    }
}
