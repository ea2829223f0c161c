//! Launches of `embedding.cu`, and the grouping that makes its backward deterministic.

use super::Embedding;
use crate::cuda::{blocks_for, cast, launch, ptr, ptx, suffix, u32_arg, upload};
use medley_tensor::device::{CudaAbsmax, CudaDevice, Device, KernelArg, Ptx};
use medley_tensor::{DType, Error, Op, Result, Tensor};

static PTX: Ptx = ptx!("embedding.ptx");
const NAME: &str = Embedding::NAME;
const BLOCK: [u32; 3] = [256, 1, 1];
/// Columns a thread moves at once where the rows allow it.
const COLUMNS: usize = 4;

/// Rows `ids` of `table` [V, h] as [T, h] of `dtype`.
pub(crate) fn gather(device: &CudaDevice, table: &Tensor, ids: &[u32], dtype: DType) -> Result<Tensor> {
    let h = table.shape()[1];
    // NF4 rows are decoded in f32 and cast; an embedding in NF4 is a rarity.
    let nf4 = table.nf4_on_device();
    let decoded = if nf4.is_some() { DType::F32 } else { dtype };
    let out = Tensor::empty_on(&Device::Cuda(device.clone()), &[ids.len(), h], decoded)?;
    if out.numel() == 0 {
        return cast(&out, dtype);
    }
    let grid = [blocks_for(NAME, ids.len(), 1)?, 1, 1];
    let ids = upload(device, ids)?;
    let (to, ids) = (ptr(NAME, device, &out)?, KernelArg::Ptr(ids.ptr()));
    let (out_dtype, columns) = (suffix(NAME, dtype)?, u32_arg(NAME, "the row length", h)?);
    if let Some(matrix) = nf4 {
        if h > 1 && table.strides()[1] != 1 {
            return Err(Error::dtype(NAME, "an NF4 weight by rows, not a transposed view", DType::Nf4));
        }
        let (nested, map, scales, offset) = match &matrix.absmax {
            CudaAbsmax::F32(scales) => (0, 0, scales.ptr(), 0.0),
            CudaAbsmax::Double { codes, table, scales, offset } => {
                (codes.ptr(), table.ptr(), scales.ptr(), *offset)
            }
        };
        let arguments = [
            to,
            KernelArg::Ptr(matrix.codes.ptr()),
            KernelArg::Ptr(nested),
            KernelArg::Ptr(map),
            KernelArg::Ptr(scales),
            KernelArg::F32(offset),
            ids,
            columns,
            KernelArg::U64(table.offset() as u64),
        ];
        launch(device, &PTX, "embedding_fwd_nf4_f32", grid, BLOCK, 0, &arguments)?;
        return cast(&out, dtype);
    }
    let code = match table.dtype() {
        DType::F32 => 0,
        DType::BF16 => 1,
        DType::F16 => 2,
        other => return Err(Error::dtype(NAME, "a float dtype", other)),
    };
    let (row_stride, column_stride) = (table.strides()[0], table.strides()[1]);
    let start = table.device_ptr()?;
    let vector = start.is_multiple_of(16)
        && column_stride == 1
        && h.is_multiple_of(COLUMNS)
        && row_stride.is_multiple_of(COLUMNS);
    let arguments = [
        to,
        KernelArg::Ptr(start),
        KernelArg::U32(code),
        ids,
        columns,
        KernelArg::U64(row_stride as u64),
        KernelArg::U64(column_stride as u64),
        KernelArg::U32(u32::from(vector)),
    ];
    launch(device, &PTX, &format!("embedding_fwd_{out_dtype}"), grid, BLOCK, 0, &arguments)?;
    Ok(out)
}

/// Tokens by the row they name: `tokens[first[g]..first[g + 1]]`, ascending, all have id `rows[g]`.
#[derive(Debug, PartialEq)]
struct Groups {
    rows: Vec<u32>,
    first: Vec<u32>,
    tokens: Vec<u32>,
}

fn group(ids: &[u32]) -> Groups {
    let mut order: Vec<(u32, u32)> = ids.iter().copied().zip(0..).collect();
    order.sort_unstable();
    let mut groups = Groups { rows: vec![], first: vec![], tokens: Vec::with_capacity(order.len()) };
    for (id, token) in order {
        if groups.rows.last() != Some(&id) {
            groups.rows.push(id);
            groups.first.push(groups.tokens.len() as u32);
        }
        groups.tokens.push(token);
    }
    groups.first.push(groups.tokens.len() as u32);
    groups
}

/// What the sums of [`scatter`] are multiplied with: an f32 scalar on the device over a number.
pub(crate) struct Scale<'a> {
    pub(crate) upstream: &'a Tensor,
    pub(crate) expected: f32,
}

/// `out[id, :] = scale · Σ dy[t, :]` over the tokens t with that id, zero for the other rows; `out` is
/// [rows, h] of `dtype`, which is f32 or dy's.
pub(crate) fn scatter(
    device: &CudaDevice,
    dy: &Tensor,
    ids: &[u32],
    rows: usize,
    dtype: DType,
    scale: Option<Scale>,
) -> Result<Tensor> {
    let h = dy.shape().last().copied().unwrap_or(0);
    let out = Tensor::zeros_on(&Device::Cuda(device.clone()), &[rows, h], dtype)?;
    if dy.numel() == 0 {
        return Ok(out);
    }
    if dtype != DType::F32 && dtype != dy.dtype() {
        return Err(Error::dtype(NAME, "f32 or the gradient's dtype", dtype));
    }
    let dy = dy.contiguous()?;
    let groups = group(ids);
    let (row, first, tokens) =
        (upload(device, &groups.rows)?, upload(device, &groups.first)?, upload(device, &groups.tokens)?);
    let vector = h.is_multiple_of(COLUMNS) && dy.device_ptr()?.is_multiple_of(16);
    let (upstream, expected) = match &scale {
        Some(scale) => (ptr(NAME, device, scale.upstream)?, scale.expected),
        None => (KernelArg::Ptr(0), 1.0),
    };
    let grid = [
        blocks_for(NAME, groups.rows.len(), 1)?,
        blocks_for(NAME, h, BLOCK[0] as usize * COLUMNS)?,
        1,
    ];
    let arguments = [
        ptr(NAME, device, &out)?,
        KernelArg::U32(u32::from(dtype == DType::F32)),
        ptr(NAME, device, &dy)?,
        KernelArg::Ptr(row.ptr()),
        KernelArg::Ptr(first.ptr()),
        KernelArg::Ptr(tokens.ptr()),
        u32_arg(NAME, "the row length", h)?,
        KernelArg::U32(u32::from(vector)),
        upstream,
        KernelArg::F32(expected),
    ];
    let entry = format!("embedding_bwd_{}", suffix(NAME, dy.dtype())?);
    launch(device, &PTX, &entry, grid, BLOCK, 0, &arguments)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_grouped_in_order() {
        let got = group(&[7, 2, 7, 0, 2, 7]);
        let want = Groups { rows: vec![0, 2, 7], first: vec![0, 1, 3, 6], tokens: vec![3, 1, 4, 0, 2, 5] };
        assert_eq!(got, want);
        assert_eq!(group(&[]), Groups { rows: vec![], first: vec![0], tokens: vec![] });
    }
}
