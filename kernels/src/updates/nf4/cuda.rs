//! NF4 on a GPU, the same bits as on the CPU. See `nf4.cu`.

use crate::cuda::gemm;
use crate::cuda::{blocks_for, launch, ptr, ptx, suffix, upload};
use medley_tensor::device::{CudaAbsmax, CudaDevice, CudaNf4, KernelArg, Ptx};
use medley_tensor::quant::nf4::{BLOCK, NESTED_BLOCK, dynamic_map};
use medley_tensor::{DType, Error, Result, Tensor, quant};

static PTX: Ptx = ptx!("nf4.ptx");

const NAME: &str = "nf4";

/// The matrix `t` [rows, cols] (f32, bf16 or f16, contiguous) in NF4; with `double_quant` the block scales too.
///
/// # Errors
/// When a value is not finite (the first one's index is named), and when device memory runs out.
pub(super) fn quantize(device: &CudaDevice, t: &Tensor, double_quant: bool) -> Result<Tensor> {
    let [rows, cols] = *t.shape() else { return Err(Error::shape(NAME, "a matrix [rows, cols]", t.shape())) };
    let n = t.numel();
    let blocks = n.div_ceil(BLOCK);
    let codes = device.alloc(n.div_ceil(2))?;
    let absmax = device.alloc(blocks * 4)?;
    let bad = upload(device, &[u64::MAX])?;
    let arguments = [
        ptr(NAME, device, t)?,
        KernelArg::Ptr(codes.ptr()),
        KernelArg::Ptr(absmax.ptr()),
        KernelArg::Ptr(bad.ptr()),
        KernelArg::U64(n as u64),
    ];
    let entry = format!("nf4_quantize_{}", suffix(NAME, t.dtype())?);
    launch(device, &PTX, &entry, [blocks_for(NAME, blocks, 16)?, 1, 1], [256, 1, 1], 0, &arguments)?;
    let mut index = [u64::MAX];
    device.download(&bad, 0, bytemuck::cast_slice_mut(&mut index))?;
    if let Ok(index) = usize::try_from(index[0])
        && index < n
    {
        let value = t.reshape(&[n])?.narrow(0, index, 1)?.to_vec_f32()?[0];
        return Err(quant::Error::NotFinite { rows, cols, index, value }.into());
    }
    let absmax = if double_quant {
        let nested_blocks = blocks.div_ceil(NESTED_BLOCK);
        let table = upload(device, dynamic_map())?;
        let (nested_codes, scales) = (device.alloc(blocks)?, device.alloc(nested_blocks * 4)?);
        let mean = upload(device, &[0.0f32])?;
        if blocks > 0 {
            let count = KernelArg::U64(blocks as u64);
            let arguments = [KernelArg::Ptr(absmax.ptr()), KernelArg::Ptr(mean.ptr()), count];
            launch(device, &PTX, "nf4_absmax_mean", [1, 1, 1], [256, 1, 1], 0, &arguments)?;
            let buffers = [&absmax, &mean, &table, &nested_codes, &scales];
            let mut arguments: Vec<KernelArg> = buffers.iter().map(|b| KernelArg::Ptr(b.ptr())).collect();
            arguments.push(count);
            let grid = [blocks_for(NAME, nested_blocks, 1)?, 1, 1];
            launch(device, &PTX, "nf4_quantize_absmax", grid, [256, 1, 1], 0, &arguments)?;
        }
        let mut offset = [0.0f32];
        device.download(&mean, 0, bytemuck::cast_slice_mut(&mut offset))?;
        CudaAbsmax::Double { codes: nested_codes, table, scales, offset: offset[0] }
    } else {
        CudaAbsmax::F32(absmax)
    };
    Tensor::from_cuda_nf4(CudaNf4 { rows, cols, codes, absmax })
}

/// A whole NF4 matrix in f32, bf16 or f16.
///
/// # Errors
/// For other dtypes, and when device memory runs out.
pub(super) fn dequantize(device: &CudaDevice, matrix: &CudaNf4, dtype: DType) -> Result<Tensor> {
    gemm::dequantize(NAME, device, matrix, dtype)
}
