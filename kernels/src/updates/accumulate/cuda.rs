//! Launch of `accumulate.cu`.

use crate::cuda::{blocks_for, cast, launch, ptr, ptx, suffix};
use medley_tensor::device::{CudaDevice, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("accumulate.ptx");
const NAME: &str = "accumulate";
const THREADS: u32 = 256;
/// Elements a thread adds.
const PER_THREAD: usize = 4;

pub(super) fn add_into(device: &CudaDevice, acc: &mut Tensor, g: &Tensor) -> Result<()> {
    if acc.dtype() != DType::F32 && acc.dtype() != g.dtype() {
        return Err(Error::dtype(NAME, format!("{} as the sum has", acc.dtype()), g.dtype()));
    }
    let g = &cast(g, acc.dtype())?;
    let entry = format!("accumulate_{}", suffix(NAME, acc.dtype())?);
    let n = g.numel();
    let g = ptr(NAME, device, g)?;
    // Refuses a sum that lies elsewhere.
    ptr(NAME, device, &acc.contiguous()?)?;
    let sum = KernelArg::Ptr(acc.device_ptr_mut()?);
    let grid = [blocks_for(NAME, n, THREADS as usize * PER_THREAD)?, 1, 1];
    launch(device, &PTX, &entry, grid, [THREADS, 1, 1], 0, &[sum, g, KernelArg::U64(n as u64)])
}
