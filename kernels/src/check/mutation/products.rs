//! The launches of the GEMM modules.

use super::subjects::{BF16, F32, NAME, Run};
use crate::check::random;
use crate::cuda::gemm::{
    LowRank, Matrix, Nf4Schedule, Options, Target, Tile, column_sums, nf4_product, product,
};
use medley_tensor::quant::Nf4Matrix;
use medley_tensor::{DType, Result, Tensor};

impl Run {
    /// A matrix `[rows, cols]`, by columns where asked.
    fn matrix(&self, [rows, cols]: [usize; 2], columns: bool, seed: u64, dtype: DType) -> Result<Tensor> {
        let t = self.tensor(&if columns { [cols, rows] } else { [rows, cols] }, seed, dtype)?;
        if columns { t.transpose(0, 1) } else { Ok(t) }
    }

    /// Products `[m, k] x [k, n]` with bias, beta, a second pair of depth `k2`, in `splits`.
    fn product(
        &mut self,
        [m, n, k, k2]: [usize; 4],
        [a_columns, b_columns]: [bool; 2],
        plan: (Tile, usize),
        out: DType,
        dtype: DType,
    ) -> Result<()> {
        let (a, b) = (self.matrix([m, k], a_columns, 1, dtype)?, self.matrix([k, n], b_columns, 2, dtype)?);
        let pair = [self.matrix([m, k2], a_columns, 4, dtype)?, self.matrix([k2, n], b_columns, 5, dtype)?];
        let (c, bias) = (self.tensor(&[m, n], 3, out)?, self.tensor(&[n], 6, F32)?);
        let second = match k2 {
            0 => None,
            _ => Some((Matrix::of(NAME, &pair[0])?, Matrix::of(NAME, &pair[1])?)),
        };
        let options =
            Options { bias: Some(&bias), beta: 2.0, second, plan: Some(plan), ..Options::default() };
        product(
            NAME,
            &self.device,
            0.5,
            Matrix::of(NAME, &a)?,
            Matrix::of(NAME, &b)?,
            Target::of(&c)?,
            options,
        )?;
        self.keep(&c)
    }

    /// The product with its low-rank path.
    fn low_rank(&mut self, [m, n, k, rank]: [usize; 4], columns: bool) -> Result<()> {
        let (a, b) = (self.matrix([m, k], false, 1, BF16)?, self.matrix([k, n], columns, 2, BF16)?);
        let (low, up) =
            (self.matrix([k, rank], columns, 4, BF16)?, self.matrix([rank, n], columns, 5, BF16)?);
        let (c, h) = (self.tensor(&[m, n], 3, F32)?, self.tensor(&[m, rank], 6, BF16)?);
        let (low, up) = (Matrix::of(NAME, &low)?, Matrix::of(NAME, &up)?);
        let path = LowRank { low, up, h: h.device_ptr()?, scale: 0.25 };
        let options = Options { low: Some(path), ..Options::default() };
        product(
            NAME,
            &self.device,
            1.0,
            Matrix::of(NAME, &a)?,
            Matrix::of(NAME, &b)?,
            Target::of(&c)?,
            options,
        )?;
        self.keep(&h)?;
        self.keep(&c)
    }

    /// Two products of a batch.
    fn batch(&mut self, [m, n, k]: [usize; 3], b_columns: bool, dtype: DType) -> Result<()> {
        let pool = self.tensor(&[1, 8192], 1, dtype)?;
        let whole = Matrix::of(NAME, &pool)?;
        let view = |rows, cols| Matrix { rows, cols, row_stride: cols, col_stride: 1, ..whole };
        let turned =
            |m: Matrix| Matrix { rows: m.cols, cols: m.rows, row_stride: 1, col_stride: m.row_stride, ..m };
        let b = if b_columns { turned(view(n, k)) } else { view(k, n) };
        let c = self.tensor(&[2 * m, n], 3, dtype)?;
        let options = Options { batch: Some((&[0, 640], &[2048, 4096], m * n)), ..Options::default() };
        product(NAME, &self.device, 1.0, view(m, k), b, Target::of(&c)?, options)?;
        self.keep(&c)
    }

    pub(super) fn nf4_matrix(&self, rows: usize, cols: usize, double: bool) -> Result<Tensor> {
        let values = random(&[rows, cols], 7, 1.0);
        let matrix = Nf4Matrix::quantize(values.as_slice()?, rows, cols, double);
        Tensor::from_nf4(matrix.expect("random numbers are finite")).to_device(&self.on())
    }
}

pub(super) fn gemm_f32(run: &mut Run) -> Result<()> {
    for columns in [[false, true], [true, false], [false, false]] {
        run.product([70, 67, 37, 0], columns, (Tile::Large, 2), F32, F32)?;
    }
    run.product([65, 64, 32, 0], [false, true], (Tile::Large, 1), F32, F32)?;
    // More than eight tiles of rows: the order of blocks has a second group.
    run.product([580, 70, 8, 0], [false, true], (Tile::Large, 1), F32, F32)?;
    run.product([9, 12, 0, 0], [false, true], (Tile::Large, 1), F32, F32)?;
    run.batch([9, 12, 24], false, F32)
}

pub(super) fn gemm_nf4(run: &mut Run) -> Result<()> {
    // Two groups of row tiles in the order of blocks, ragged K and N, splits of one tile less.
    for (double, m, transposed, splits, [rows, cols]) in [
        (true, 37, true, 1, [140, 192]),
        (false, 3, true, 2, [140, 192]),
        (true, 70, false, 2, [140, 192]),
        (false, 33, false, 1, [77, 128]),
        (true, 290, true, 1, [136, 64]),
        (true, 290, false, 1, [24, 192]),
    ] {
        let weight = run.nf4_matrix(rows, cols, double)?;
        let (k, n) = if transposed { (cols, rows) } else { (rows, cols) };
        let (x, bias) = (run.tensor(&[m, k], 1, BF16)?, run.tensor(&[n], 6, F32)?);
        for out in [F32, BF16] {
            let c = run.tensor(&[m, n], 3, out)?;
            let options = Options {
                bias: Some(&bias),
                beta: 2.0,
                plan: Some((Tile::Large, splits)),
                ..Options::default()
            };
            let nf4 = weight.nf4_on_device().expect("an NF4 matrix on the device");
            let (x, target, fused) = (Matrix::of(NAME, &x)?, Target::of(&c)?, Some(Nf4Schedule::Fused));
            nf4_product(NAME, &run.device, 0.5, x, nf4, transposed, target, options, fused)?;
            run.keep(&c)?;
        }
    }
    Ok(())
}

/// Both tiles, two blocks in each direction, splits, second pairs, odd leading dimensions, batches.
fn dense(run: &mut Run, columns: [bool; 2]) -> Result<()> {
    for tile in [Tile::Large, Tile::Small] {
        run.product([136, 136, 200, 40], columns, (tile, 2), F32, BF16)?;
        run.product([67, 140, 168, 5], columns, (tile, 2), BF16, BF16)?;
        // The last k in each quarter of a tile, where reads past it would leave the operand.
        for k in [79, 87, 95] {
            run.product([72, 136, k, 0], columns, (tile, 1), BF16, BF16)?;
        }
        run.product(
            [if tile == Tile::Large { 1090 } else { 580 }, 136, 8, 0],
            columns,
            (tile, 1),
            BF16,
            BF16,
        )?;
        run.product([9, 12, 0, 0], columns, (tile, 1), F32, BF16)?;
    }
    Ok(())
}

pub(super) fn gemm_nt(run: &mut Run) -> Result<()> {
    dense(run, [false, true])?;
    for (k, rank) in [(104, 33), (96, 16), (87, 64), (40, 16)] {
        run.low_rank([70, 136, k, rank], true)?;
    }
    run.batch([20, 24, 32], true, BF16)
}

pub(super) fn gemm_nn(run: &mut Run) -> Result<()> {
    dense(run, [false, false])?;
    for (k, rank) in [(104, 33), (79, 16), (95, 8), (40, 5), (40, 24), (40, 31), (40, 47), (40, 55), (40, 63)]
    {
        run.low_rank([70, 136, k, rank], false)?;
    }
    run.batch([20, 24, 32], false, BF16)
}

pub(super) fn gemm_tn(run: &mut Run) -> Result<()> {
    run.product([136, 136, 200, 40], [true, false], (Tile::Large, 2), F32, BF16)?;
    run.product([70, 140, 168, 5], [true, false], (Tile::Large, 2), BF16, BF16)?;
    for k in [79, 87, 95] {
        run.product([72, 136, k, 0], [true, false], (Tile::Large, 1), BF16, BF16)?;
    }
    run.product([1090, 136, 8, 0], [true, false], (Tile::Large, 1), BF16, BF16)?;
    run.product([9, 12, 0, 0], [true, false], (Tile::Large, 1), F32, BF16)
}

/// Padding of odd rows, sums of splits into f32 and bf16, column sums.
pub(super) fn gemm_parts(run: &mut Run) -> Result<()> {
    run.product([37, 45, 61, 0], [false, true], (Tile::Small, 2), BF16, BF16)?;
    run.product([70, 132, 72, 0], [false, true], (Tile::Small, 2), F32, BF16)?;
    for (rows, n) in [(75, 69), (8, 32), (3, 5), (30, 40)] {
        let sums = column_sums(NAME, &run.device, &run.tensor(&[rows, n], 1, BF16)?)?;
        run.keep(&sums)?;
    }
    Ok(())
}

pub(super) fn gemv(run: &mut Run) -> Result<()> {
    for (m, n, k) in [(1, 13, 328), (2, 16, 1024), (2, 9, 72), (1, 9, 1352), (2, 5, 1096)] {
        let (x, w) = (run.tensor(&[m, k], 1, BF16)?, run.matrix([k, n], true, 2, BF16)?);
        let (y, bias) = (run.tensor(&[m, n], 3, BF16)?, run.tensor(&[n], 6, F32)?);
        let options = Options { bias: Some(&bias), beta: 1.0, ..Options::default() };
        product(
            NAME,
            &run.device,
            2.0,
            Matrix::of(NAME, &x)?,
            Matrix::of(NAME, &w)?,
            Target::of(&y)?,
            options,
        )?;
        run.keep(&y)?;
    }
    for (m, n, k, double) in [(1, 13, 320, true), (2, 9, 1088, false), (2, 16, 2112, true)] {
        let (x, y) = (run.tensor(&[m, k], 1, BF16)?, run.tensor(&[m, n], 3, BF16)?);
        let weight = run.nf4_matrix(n, k, double)?;
        let nf4 = weight.nf4_on_device().expect("an NF4 matrix on the device");
        let bias = run.tensor(&[n], 6, F32)?;
        let options = Options { bias: Some(&bias), beta: 1.0, ..Options::default() };
        nf4_product(
            NAME,
            &run.device,
            2.0,
            Matrix::of(NAME, &x)?,
            nf4,
            true,
            Target::of(&y)?,
            options,
            None,
        )?;
        run.keep(&y)?;
    }
    Ok(())
}
