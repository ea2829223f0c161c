//! Matrix products with NumPy's broadcasting of the batch dimensions, over the CPU's matrix engine or a GPU's.
//!
//! Floor: compute-bound, 2·M·K·N operations a matrix forward, twice that backward.

mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use super::reduce::sum_to;
use crate::cpu::gemm::{MatData, MatMut, MatRef, gemm};
use medley_tensor::layout::broadcast_shape;
use medley_tensor::{Cost, DType, Error, Layout, Op, Result, Tensor, alloc};
use rayon::prelude::*;
use std::ops::RangeInclusive;

/// `(a [.., M, K], b [.., K, N]) f32, f16 or bf16 → [.., M, N]`. Views are read in place, whatever their strides. Output
/// and gradients are f32; on a GPU they have the operands' dtype where both share it.
#[derive(Debug, Clone, Copy)]
pub struct Matmul {}

/// What the backward pass reads: the operands that a gradient needs, and both shapes.
pub struct Saved {
    a: Option<Tensor>,
    b: Option<Tensor>,
    shapes: [Vec<usize>; 2],
}

/// A tensor seen as a batch of matrices.
struct Batch<'a> {
    data: MatData<'a>,
    /// Storage index of the first element of each matrix.
    starts: Vec<usize>,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Batch<'a> {
    /// `t` with its leading dimensions broadcast to `batch`; no dimension may be empty.
    fn new(t: &'a Tensor, batch: &[usize]) -> Result<Self> {
        let data = match t.dtype() {
            DType::F32 => MatData::F32(t.storage_slice()?),
            DType::F16 => MatData::F16(t.storage_slice()?),
            DType::BF16 => MatData::Bf16(t.storage_slice()?),
            dtype => return Err(Error::dtype(Matmul::NAME, "f32, f16 or bf16", dtype)),
        };
        let r = t.rank();
        let (rows, cols) = (t.shape()[r - 2], t.shape()[r - 1]);
        let full: Vec<usize> = batch.iter().copied().chain([rows, cols]).collect();
        let layout: Layout = t.layout().broadcast_to(&full)?;
        let (row_stride, col_stride) = (layout.strides()[batch.len()], layout.strides()[batch.len() + 1]);
        let firsts = layout.narrow(batch.len(), 0, 1)?.narrow(batch.len() + 1, 0, 1)?;
        Ok(Batch { data, starts: firsts.indices().collect(), rows, cols, row_stride, col_stride })
    }

    fn matrix(&self, i: usize) -> Result<MatRef<'a>> {
        let start = self.starts[i];
        let data = match self.data {
            MatData::F32(d) => MatData::F32(&d[start..]),
            MatData::F16(d) => MatData::F16(&d[start..]),
            MatData::Bf16(d) => MatData::Bf16(&d[start..]),
            // Never made above; an NF4 matrix has no views to start inside of.
            MatData::Nf4(d) => MatData::Nf4(d),
        };
        MatRef::new(data, self.rows, self.cols, self.row_stride, self.col_stride).map_err(engine)
    }
}

fn engine(e: crate::cpu::gemm::GemmError) -> Error {
    Error::value(Matmul::NAME, e.to_string())
}

/// `a · b` over all matrices of the batch; shapes are known to fit.
fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if let Some(device) = a.cuda_device() {
        return cuda::product_on(device, a, b);
    }
    let (ra, rb) = (a.rank(), b.rank());
    let mut shape = broadcast_shape(Matmul::NAME, &a.shape()[..ra - 2], &b.shape()[..rb - 2])?;
    let (m, k, n) = (a.shape()[ra - 2], a.shape()[ra - 1], b.shape()[rb - 1]);
    let batch = shape.clone();
    shape.extend([m, n]);
    let numel = shape.iter().product();
    if numel == 0 || k == 0 {
        return Tensor::zeros(&shape, DType::F32);
    }
    let (a, b) = (Batch::new(a, &batch)?, Batch::new(b, &batch)?);
    let mut out = alloc::take(numel);
    out.par_chunks_mut(m * n).enumerate().try_for_each(|(i, out)| {
        let mut c = MatMut::row_major(out, m, n).map_err(engine)?;
        gemm(1.0, a.matrix(i)?, b.matrix(i)?, 0.0, &mut c).map_err(engine)
    })?;
    Tensor::from_vec(out, &shape)
}

/// `[.., M, N]` as one matrix `[.. · M, N]`.
fn flatten(t: &Tensor) -> Result<Tensor> {
    let (rows, cols) = (t.shape()[..t.rank() - 1].iter().product(), t.shape()[t.rank() - 1]);
    t.reshape(&[rows, cols])
}

fn transposed(t: &Tensor) -> Result<Tensor> {
    t.transpose(t.rank() - 2, t.rank() - 1)
}

impl Op for Matmul {
    const NAME: &'static str = "matmul";
    const ARITY: RangeInclusive<usize> = 2..=2;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Compute;
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        let (a, b) = (inputs[0], inputs[1]);
        let (sa, sb) = (a.shape(), b.shape());
        if sa.len() < 2 || sb.len() < 2 || sa[sa.len() - 1] != sb[sb.len() - 2] {
            let expected = format!("b [.., K, N] for a [.., M, K] {sa:?}");
            return Err(Error::shape(Self::NAME, expected, sb));
        }
        let shapes = [sa.to_vec(), sb.to_vec()];
        // One matrix for every matrix of a: their rows form one tall product.
        let (y, a) = if sb.len() == 2 && sa.len() > 2 {
            let mut shape = sa.to_vec();
            shape[sa.len() - 1] = sb[1];
            let a = flatten(a)?;
            (product(&a, b)?.reshape(&shape)?, a)
        } else {
            (product(a, b)?, a.clone())
        };
        Ok((vec![y], Saved { a: needs[1].then_some(a), b: needs[0].then(|| b.clone()), shapes }))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(dy) = &grads[0] else { return Ok(vec![None, None]) };
        let Saved { a, b, shapes: [sa, sb] } = saved;
        let tall = sb.len() == 2 && sa.len() > 2;
        let dy = if tall { flatten(dy)? } else { dy.clone() };
        let da = b.map(|b| {
            let da = product(&dy, &transposed(&b)?)?;
            if tall { da.reshape(&sa) } else { sum_to(&da, &sa) }
        });
        let db = a.map(|a| sum_to(&product(&transposed(&a)?, &dy)?, &sb));
        Ok(vec![da.transpose()?, db.transpose()?])
    }
}
