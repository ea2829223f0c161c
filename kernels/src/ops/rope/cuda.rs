//! The rotation on a GPU. See `rope.cu`.

use super::{Rope, RopeTable};
use crate::cuda::{blocks_for, launch, on_16_bytes, ptx, suffix, u32_arg, upload};
use medley_tensor::device::{CudaDevice, Device, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{Op, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

static PTX: Ptx = ptx!("rope.ptx");
const THREADS: usize = 128;
/// Heads one thread turns with the cosines and sines it has read.
const HEADS: usize = 4;

/// What a [`RopeTable`] has on devices. It goes with the table.
#[derive(Debug, Default)]
pub(crate) struct OnDevices(Mutex<Vec<OnDevice>>);

#[derive(Debug)]
struct OnDevice {
    device: CudaDevice,
    /// Cosines, then sines, f32 `[max_position, rot_dim / 2]` each.
    table: Arc<DeviceBuffer>,
    /// The positions last used, which all layers of a step share.
    positions: Option<(Arc<[u32]>, Arc<DeviceBuffer>)>,
}

impl OnDevices {
    /// The table and the positions on `device`, uploaded where they are not there yet.
    fn get(
        &self,
        device: &CudaDevice,
        table: &RopeTable,
        positions: &Arc<[u32]>,
    ) -> Result<[Arc<DeviceBuffer>; 2]> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = match all.iter().position(|o| o.device == *device) {
            Some(at) => at,
            None => {
                let both = [table.cos.as_slice(), table.sin.as_slice()].concat();
                let table = Arc::new(upload(device, &both)?);
                all.push(OnDevice { device: device.clone(), table, positions: None });
                all.len() - 1
            }
        };
        let on = &mut all[at];
        let known = on.positions.as_ref().filter(|(of, _)| Arc::ptr_eq(of, positions));
        let buffer = match known {
            Some((_, buffer)) => buffer.clone(),
            None => {
                let buffer = Arc::new(upload(device, positions)?);
                on.positions = Some((positions.clone(), buffer.clone()));
                buffer
            }
        };
        Ok([on.table.clone(), buffer])
    }
}

/// `x [T, H, D]` (features adjacent) turned, or turned back, in x's dtype.
pub(crate) fn rotate(device: &CudaDevice, op: &Rope, x: &Tensor, inverse: bool) -> Result<Tensor> {
    let suffix = suffix(Rope::NAME, x.dtype())?;
    let y = Tensor::empty_on(&Device::Cuda(device.clone()), x.shape(), x.dtype())?;
    if y.numel() == 0 {
        return Ok(y);
    }
    let table = &op.table;
    let [angles, positions] = table.on_devices.get(device, table, &op.positions)?;
    let &[t, heads, d] = x.shape() else { return Ok(y) };
    let (half, rot) = (table.half, table.rot_dim());
    let (token_stride, head_stride) = (x.strides()[0], x.strides()[1]);
    let (from, to) = (x.device_ptr()?, y.device_ptr()?);
    let per = 16 / x.dtype().bytes_for(1);
    let turned = if table.interleaved { rot } else { half };
    // The interleaved f32 kernel reads two cosines at a time, the others at least four.
    let vectors = on_16_bytes(&[from, to])
        && [turned, d, rot].into_iter().all(|n| n.is_multiple_of(per))
        && half.is_multiple_of(4)
        && (heads == 1 || head_stride.is_multiple_of(per))
        && (t == 1 || token_stride.is_multiple_of(per));
    let width = if vectors { per } else { 1 };
    let turning = match (table.interleaved, vectors) {
        (true, true) => rot / per,
        (true, false) => half,
        (false, _) => half / width,
    };
    let threads = t * heads.div_ceil(HEADS) * (turning + (d - rot) / width);
    let arguments = [
        KernelArg::Ptr(to),
        KernelArg::Ptr(from),
        KernelArg::Ptr(angles.ptr()),
        KernelArg::Ptr(positions.ptr()),
        KernelArg::U64(t as u64),
        u32_arg(Rope::NAME, "the number of heads", heads)?,
        u32_arg(Rope::NAME, "the head dimension", d)?,
        u32_arg(Rope::NAME, "half of rot_dim", half)?,
        u32_arg(Rope::NAME, "max_position", table.max_position)?,
        KernelArg::U64(token_stride as u64),
        KernelArg::U64(head_stride as u64),
        KernelArg::U32(HEADS as u32),
        KernelArg::U32(u32::from(table.interleaved)),
        KernelArg::U32(u32::from(vectors)),
        KernelArg::F32(if inverse { -1.0 } else { 1.0 }),
    ];
    let grid = [blocks_for(Rope::NAME, threads, THREADS)?, 1, 1];
    launch(device, &PTX, &format!("rope_fwd_{suffix}"), grid, [THREADS as u32, 1, 1], 0, &arguments)?;
    Ok(y)
}
