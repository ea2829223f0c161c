//! Launches of `adafactor.cu`.

use super::{BAND, NAME, SecondMoment, Step, beta2};
use crate::cuda::{launch, ptx, upload};
use crate::updates::CHUNK;
use crate::updates::control::{self, Corrections, address_mut};
use crate::updates::grad_norm::cuda::address;
use crate::updates::step::{Clip, Parameter};
use crate::updates::table::{self, Entry};
use medley_tensor::device::{CudaDevice, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};

static PTX: Ptx = ptx!("adafactor.ptx");
const BLOCK: [u32; 3] = [256, 1, 1];
/// Rows a block of `adafactor_rows_f32` takes.
const GROUP: usize = 8;
/// Columns a block of `adafactor_columns_f32` takes.
const TILE: usize = 32;

/// One parameter, by `adafactor.cu`'s layout.
#[derive(Debug, Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Matrix {
    p: u64,
    g: u64,
    row: u64,
    col: u64,
    row_factor: u64,
    col_factor: u64,
    partial: u64,
    n: u64,
    rows: u32,
    cols: u32,
    first_group: u32,
    first_tile: u32,
    first_chunk: u32,
    decay: f32,
    lr: f32,
    unused: u32,
}

/// A grid extent or index, counted in a wider type.
fn narrow(n: usize) -> Result<u32> {
    match i32::try_from(n) {
        Ok(n) => Ok(n as u32),
        Err(_) => {
            Err(Error::value(NAME, format!("{n} rows, columns or blocks are more than the kernels count")))
        }
    }
}

/// Launches `step`, the update number `number`, over `parameters` on `device`.
pub(super) fn step(
    step: &Step,
    device: &CudaDevice,
    parameters: &mut [Parameter<SecondMoment>],
    number: u64,
    clip: Clip,
    state: &control::State,
) -> Result<()> {
    let grads = parameters.iter().map(|p| p.grad.contiguous()).collect::<Result<Vec<Tensor>>>()?;
    let (mut entries, mut table) = (vec![], vec![]);
    // Counts of everything before, over all parameters.
    let (mut groups, mut tiles, mut chunks, mut factors, mut partials) =
        (0usize, 0usize, 0usize, 0usize, 0usize);
    for (p, g) in parameters.iter_mut().zip(&grads).filter(|(_, g)| g.numel() > 0) {
        let n = g.numel();
        entries.push(Entry { g: address(device, g)?, n: n as u64, ..Entry::default() });
        let mut matrix = Matrix {
            p: address_mut(NAME, device, p.value, DType::F32, n)?,
            g: address(device, g)?,
            // Offsets until the scratch is there.
            row_factor: factors as u64,
            partial: partials as u64,
            n: n as u64,
            first_group: narrow(groups)?,
            first_tile: narrow(tiles)?,
            first_chunk: narrow(chunks)?,
            decay: p.decay(step.lr),
            lr: step.lr as f32 * p.lr_scale as f32,
            ..Matrix::default()
        };
        chunks += n.div_ceil(CHUNK);
        match &mut *p.state {
            SecondMoment::Factored { row, col } => {
                let (rows, cols) = (row.numel(), col.numel());
                if p.value.shape() != [rows, cols] {
                    return Err(Error::shape(NAME, format!("a matrix [{rows}, {cols}]"), p.value.shape()));
                }
                matrix.row = address_mut(NAME, device, row, DType::F32, rows)?;
                matrix.col = address_mut(NAME, device, col, DType::F32, cols)?;
                (matrix.rows, matrix.cols) = (narrow(rows)?, narrow(cols)?);
                let bands = rows.div_ceil(BAND);
                groups += rows.div_ceil(GROUP);
                tiles += bands * cols.div_ceil(TILE);
                factors += rows + cols;
                partials += bands * cols;
            }
            SecondMoment::Full { v } => {
                matrix.col = address_mut(NAME, device, v, DType::F32, n)?;
                (matrix.rows, matrix.cols) = (1, narrow(n)?);
            }
        }
        table.push(matrix);
    }
    let norm_chunks = table::number_chunks(NAME, &mut entries)?;
    state.decide(
        &table::upload(device, &entries)?,
        entries.len(),
        norm_chunks,
        clip,
        Corrections::default(),
    )?;
    if table.is_empty() {
        return Ok(());
    }
    let factor_scratch = device.alloc(4 * factors.max(1))?;
    let partial_scratch = device.alloc(8 * partials.max(1))?;
    let squares = device.alloc(8 * chunks)?;
    for matrix in &mut table {
        matrix.row_factor = factor_scratch.ptr() + 4 * matrix.row_factor;
        matrix.col_factor = matrix.row_factor + 4 * u64::from(matrix.rows);
        matrix.partial = partial_scratch.ptr() + 8 * matrix.partial;
    }
    let on_device = upload(device, &table)?;
    let (at, count) = (KernelArg::Ptr(on_device.ptr()), KernelArg::U32(narrow(table.len())?));
    let (control, squares) = (state.control(), KernelArg::Ptr(squares.ptr()));
    let beta2 = beta2(number, step.decay_rate);
    let (beta, rest) = (KernelArg::F32(beta2 as f32), KernelArg::F32((1.0 - beta2) as f32));
    let eps = KernelArg::F32(step.eps as f32);
    let run = |kernel: &str, grid: usize, arguments: &[KernelArg]| match grid {
        0 => Ok(()),
        grid => launch(device, &PTX, kernel, [narrow(grid)?, 1, 1], BLOCK, 0, arguments),
    };
    run("adafactor_rows_f32", groups, &[at, count, control, beta, rest, eps])?;
    run("adafactor_columns_f32", tiles, &[at, count, control, eps])?;
    run("adafactor_factors_f32", table.len(), &[at, control, beta, rest])?;
    run("adafactor_squares_f32", chunks, &[at, count, control, squares, beta, rest, eps])?;
    let threshold = KernelArg::F32(step.clip_threshold as f32);
    run("adafactor_f32", chunks, &[at, count, control, squares, threshold])
}
