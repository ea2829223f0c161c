//! Matrix products on a GPU. The kernels are described in the headers beside this file: `dense.cuh` (tensor cores),
//! `gemm_f32.cu`, `gemv.cu`, `gemm_nf4.cu`, `gemm_parts.cu`; the rules that choose among them in `schedule.rs`.

mod nf4;
mod operand;
mod schedule;
#[cfg(test)]
mod tests;

pub use nf4::linear_nf4;
pub(crate) use nf4::{dequantize, nf4_product};
pub(crate) use operand::Matrix;
pub(crate) use schedule::{FUSED_RANK, Tile};
pub use schedule::{LoraSchedule, Nf4Schedule};

use super::{blocks_for, launch, ptx, suffix, u32_arg, upload};
use medley_tensor::device::{CudaDevice, Device, DeviceBuffer, KernelArg, Ptx};
use medley_tensor::{DType, Error, Result, Tensor};
use operand::{Aligned, Order, PARTS, aligned};
use schedule::{DEPTH, Plan, plan};

static NT: Ptx = ptx!("gemm_nt.ptx");
static NN: Ptx = ptx!("gemm_nn.ptx");
static TN: Ptx = ptx!("gemm_tn.ptx");
static F32: Ptx = ptx!("gemm_f32.ptx");
static GEMV: Ptx = ptx!("gemv.ptx");

/// Rows of x up to which products are done two weight rows a warp. With more, a tensor-core tile's padding costs less
/// than decoding or reading the weight again.
pub(crate) const GEMV_ROWS: usize = 2;

const NULL: KernelArg = KernelArg::Ptr(0);

/// Everything a product has beside its operands.
#[derive(Default, Clone, Copy)]
pub(crate) struct Options<'a> {
    /// f32 `[N]`, contiguous.
    pub(crate) bias: Option<&'a Tensor>,
    /// Factor of what C held before; 0 unless given.
    pub(crate) beta: f32,
    /// A second pair of operands `[M, K2]`, `[K2, N]` that continues the contraction (16-bit dtypes).
    pub(crate) second: Option<(Matrix, Matrix)>,
    /// First elements of A, of B and the number of elements between the Cs.
    pub(crate) batch: Option<(&'a [usize], &'a [usize], usize)>,
    /// The low-rank path in the same pass (16-bit dtypes).
    pub(crate) low: Option<LowRank>,
    /// Instead of the cost rule's.
    pub(crate) plan: Option<(Tile, usize)>,
}

/// `h [M, r] = scale · A·low`, then `C += h · up`.
#[derive(Clone, Copy)]
pub(crate) struct LowRank {
    /// `[K, r]`, r at most 64.
    pub(crate) low: Matrix,
    /// `[r, N]`.
    pub(crate) up: Matrix,
    /// `[M, r]` contiguous, in A's dtype: written.
    pub(crate) h: u64,
    pub(crate) scale: f32,
}

/// Where a product goes: rows of f32 or of the operands' dtype.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    pub(crate) address: u64,
    pub(crate) dtype: DType,
    /// Elements from row to row, N or more; `None`: N. Up to three elements past a row's end, where it is padded
    /// to whole fours, are overwritten.
    pub(crate) ld: Option<usize>,
}

impl Target {
    /// A whole tensor.
    ///
    /// # Errors
    /// When it is not on a GPU.
    pub(crate) fn of(t: &Tensor) -> Result<Target> {
        Ok(Target { address: t.device_ptr()?, dtype: t.dtype(), ld: None })
    }

    /// Elements from row to row of N elements.
    fn ld(&self, n: usize) -> usize {
        self.ld.unwrap_or(n)
    }
}

/// `C = alpha · A·B + beta · C (+ bias)`, C row-major `[M, N]` in f32 or in the dtype that A `[M, K]` and B `[K, N]`
/// share, accumulated in f32.
///
/// # Errors
/// When shapes or dtypes do not fit or device memory runs out.
pub(crate) fn product(
    op: &'static str,
    device: &CudaDevice,
    alpha: f32,
    a: Matrix,
    b: Matrix,
    c: Target,
    options: Options,
) -> Result<()> {
    let name = suffix(op, a.dtype)?;
    if a.cols != b.rows {
        return Err(Error::shape(op, format!("a matrix [{}, N]", a.cols), &[b.rows, b.cols]));
    }
    if a.dtype != b.dtype {
        return Err(Error::dtype(op, format!("operands of one dtype, the first being {name}"), b.dtype));
    }
    if ![a.dtype, DType::F32].contains(&c.dtype) {
        return Err(Error::dtype(op, format!("an output in {name} or f32"), c.dtype));
    }
    if a.rows == 0 || b.cols == 0 || options.batch.is_some_and(|(starts, ..)| starts.is_empty()) {
        return Ok(());
    }
    let plain = options.second.is_none() && options.batch.is_none() && options.low.is_none();
    if plain && options.plan.is_none() && a.rows <= GEMV_ROWS && c.dtype == a.dtype && is_gemv(a, b.t()) {
        return gemv(op, device, alpha, a, b.t(), c, options);
    }
    if a.dtype == DType::F32 {
        return f32_product(op, device, alpha, a, b, c, options);
    }
    dense(op, device, alpha, a, b.t(), c, options)
}

/// Both operands `[rows, K]` with aligned rows along k.
fn is_gemv(a: Matrix, b: Matrix) -> bool {
    let per = 16 / a.dtype.bytes_for(1);
    let lines = |m: Matrix| {
        m.col_stride == 1 && (m.row_stride.is_multiple_of(per) || m.rows <= 1) && m.address.is_multiple_of(16)
    };
    a.cols > 0 && a.cols.is_multiple_of(8) && lines(a) && lines(b)
}

fn bias_arg(op: &'static str, options: &Options) -> Result<KernelArg> {
    match options.bias {
        None => Ok(NULL),
        Some(bias) if bias.dtype() == DType::F32 && bias.is_contiguous() => {
            Ok(KernelArg::Ptr(bias.device_ptr()?))
        }
        Some(bias) => Err(Error::dtype(op, "a contiguous f32 bias", bias.dtype())),
    }
}

/// Arguments that `gemv_*` and `gemv_nf4_*` share, and the grid.
fn gemv_arguments(
    op: &'static str,
    alpha: f32,
    a: Matrix,
    n: usize,
    c: Target,
    options: &Options,
) -> Result<(Vec<KernelArg>, [u32; 3])> {
    let arguments = vec![
        KernelArg::Ptr(a.address),
        KernelArg::Ptr(c.address),
        bias_arg(op, options)?,
        u32_arg(op, "M", a.rows)?,
        u32_arg(op, "N", n)?,
        u32_arg(op, "K", a.cols)?,
        u32_arg(op, "the leading dimension of A", a.row_stride)?,
        u32_arg(op, "the leading dimension of C", c.ld(n))?,
        KernelArg::F32(alpha),
        KernelArg::F32(options.beta),
    ];
    Ok((arguments, [blocks_for(op, n, 8)?, 1, 1]))
}

fn gemv(
    op: &'static str,
    device: &CudaDevice,
    alpha: f32,
    a: Matrix,
    b: Matrix,
    c: Target,
    options: Options,
) -> Result<()> {
    let (mut arguments, grid) = gemv_arguments(op, alpha, a, b.rows, c, &options)?;
    arguments.extend([KernelArg::Ptr(b.address), u32_arg(op, "the leading dimension of B", b.row_stride)?]);
    launch(device, &GEMV, &format!("gemv_{}", suffix(op, a.dtype)?), grid, [128, 1, 1], 0, &arguments)
}

/// First elements of each batch entry's A and B, interleaved, on the device; nothing without a batch.
fn upload_starts(device: &CudaDevice, a: &[u64], b: &[u64]) -> Result<Option<DeviceBuffer>> {
    if a.is_empty() {
        return Ok(None);
    }
    let starts: Vec<u64> = a.iter().zip(b).flat_map(|(a, b)| [*a, *b]).collect();
    Ok(Some(upload(device, &starts)?))
}

/// C, or f32 partials of it that `gemm_reduce` adds up.
struct Output<'a> {
    op: &'static str,
    device: &'a CudaDevice,
    m: usize,
    n: usize,
    batch: usize,
    c: Target,
    alpha: f32,
    beta: f32,
    bias: KernelArg,
    /// Elements between the Cs of a batch.
    c_stride: usize,
    splits: usize,
    /// Rows of partials, padded to the kernel's stores.
    partials: Option<(DeviceBuffer, usize)>,
}

impl<'a> Output<'a> {
    /// `direct` says whether the kernel can write C itself when K is not split.
    #[expect(clippy::too_many_arguments)]
    fn new(
        op: &'static str,
        device: &'a CudaDevice,
        [m, n]: [usize; 2],
        c: Target,
        alpha: f32,
        options: &Options,
        splits: usize,
        direct: bool,
    ) -> Result<Self> {
        let (batch, c_stride) =
            options.batch.map_or((1, m * n), |(starts, _, stride)| (starts.len(), stride));
        let bias = bias_arg(op, options)?;
        let ld = n.next_multiple_of(4);
        let partials =
            if splits > 1 || !direct { Some((device.alloc(batch * splits * m * ld * 4)?, ld)) } else { None };
        Ok(Output { op, device, m, n, batch, c, alpha, beta: options.beta, bias, c_stride, splits, partials })
    }

    /// What the kernel is given: (C, bias, alpha, beta, ldc, c_stride, f32).
    fn kernel(&self) -> (KernelArg, KernelArg, f32, f32, usize, usize, bool) {
        match &self.partials {
            Some((buffer, ld)) => (KernelArg::Ptr(buffer.ptr()), NULL, 1.0, 0.0, *ld, self.m * ld, true),
            None => {
                let f32 = self.c.dtype == DType::F32;
                (
                    KernelArg::Ptr(self.c.address),
                    self.bias,
                    self.alpha,
                    self.beta,
                    self.c.ld(self.n),
                    self.c_stride,
                    f32,
                )
            }
        }
    }

    /// Adds the partials up, if there are any.
    fn finish(self) -> Result<()> {
        let Some((buffer, ld)) = &self.partials else { return Ok(()) };
        let arguments = [
            KernelArg::Ptr(buffer.ptr()),
            KernelArg::Ptr(self.c.address),
            self.bias,
            u32_arg(self.op, "M", self.m)?,
            u32_arg(self.op, "N", self.n)?,
            u32_arg(self.op, "N", *ld)?,
            u32_arg(self.op, "the leading dimension of C", self.c.ld(self.n))?,
            KernelArg::U64(self.c_stride as u64),
            u32_arg(self.op, "the number of splits", self.splits)?,
            KernelArg::F32(self.alpha),
            KernelArg::F32(self.beta),
        ];
        let entry = format!("gemm_reduce_{}", suffix(self.op, self.c.dtype)?);
        let grid = [blocks_for(self.op, self.m * self.n, 256)?, 1, self.batch as u32];
        launch(self.device, &PARTS, &entry, grid, [256, 1, 1], 0, &arguments)
    }
}

/// Whether 16-byte (f32) and 8-byte stores of four neighbours are aligned everywhere in C.
fn writes_whole(c: Target, n: usize, options: &Options) -> Result<bool> {
    let bias_aligned = match options.bias {
        Some(bias) => bias.device_ptr()?.is_multiple_of(16),
        None => true,
    };
    let stride = options.batch.map_or(0, |(_, _, stride)| stride);
    let unit = 4 * c.dtype.bytes_for(1) as u64;
    // Rows padded to whole fours take the elements past their end.
    let whole = c.ld(n).is_multiple_of(4) && (n.is_multiple_of(4) || options.bias.is_none());
    Ok(whole && c.address.is_multiple_of(unit) && bias_aligned && stride.is_multiple_of(4))
}

/// The tensor-core kernels; `b` is `[N, K]`.
fn dense(
    op: &'static str,
    device: &CudaDevice,
    alpha: f32,
    a: Matrix,
    b: Matrix,
    c: Target,
    options: Options,
) -> Result<()> {
    let name = suffix(op, a.dtype)?;
    let (m, n, k) = (a.rows, b.rows, a.cols);
    let b_order = b.order().unwrap_or(Order::KMajor);
    // There is no kernel for A along rows and B along k: A is copied.
    let a_order = match a.order() {
        Some(Order::RowMajor) if b_order == Order::RowMajor && options.low.is_none() => Order::RowMajor,
        _ => Order::KMajor,
    };
    let (ptx, layout) = match (a_order, b_order) {
        (Order::KMajor, Order::KMajor) => (&NT, "nt"),
        (Order::KMajor, Order::RowMajor) => (&NN, "nn"),
        (Order::RowMajor, _) => (&TN, "tn"),
    };
    let (a_starts, b_starts, _) = options.batch.unwrap_or((&[], &[], 0));
    let a = aligned(op, device, a, a_order, a_starts)?;
    let b = aligned(op, device, b, b_order, b_starts)?;
    let starts = upload_starts(device, &a.starts, &b.starts)?;

    // The second pair: given, or (fused) `up` alone, whose A the kernel makes.
    let mut second: [Option<Aligned>; 2] = [None, None];
    let mut k2 = 0;
    if let Some((a2, b2)) = options.second {
        if (a2.rows, b2.rows, b2.cols) != (m, a2.cols, n) {
            let got = [b2.rows, b2.cols];
            return Err(Error::shape(
                op,
                format!("a second pair [{m}, K2], [K2, {n}], the first being [{}, {}]", a2.rows, a2.cols),
                &got,
            ));
        }
        k2 = a2.cols;
        second =
            [Some(aligned(op, device, a2, a_order, &[])?), Some(aligned(op, device, b2.t(), b_order, &[])?)];
    }
    let mut low_arguments = vec![NULL, KernelArg::U32(0), NULL, KernelArg::F32(0.0)];
    let mut low_copy = None;
    if let Some(low) = options.low {
        k2 = low.up.rows;
        second[1] = Some(aligned(op, device, low.up.t(), b_order, &[])?);
        let matrix = low_copy.insert(aligned(op, device, low.low.t(), b_order, &[])?);
        low_arguments = vec![
            KernelArg::Ptr(matrix.address),
            u32_arg(op, "the leading dimension of the low-rank matrix", matrix.ld)?,
            KernelArg::Ptr(low.h),
            KernelArg::F32(low.scale),
        ];
    }

    let tiles: &[Tile] = match (layout, options.low.is_some()) {
        ("tn", _) => &[Tile::Large],
        (_, true) => &[Tile::Small],
        _ => &[Tile::Large, Tile::Small],
    };
    let depth = k.div_ceil(DEPTH) + k2.div_ceil(DEPTH);
    let batch = a_starts.len().max(1);
    let plan = match options.plan {
        Some((tile, splits)) => Plan { tile, splits: splits.clamp(1, depth.max(1)) },
        None => plan(m, n, depth, batch, device.info().multiprocessors as usize, tiles),
    };
    let splits = if options.low.is_some() { 1 } else { plan.splits };
    let per_split = depth.div_ceil(splits).max(1);
    // Rounding up may leave the last split without work.
    let splits = depth.div_ceil(per_split).max(1);
    let output = Output::new(op, device, [m, n], c, alpha, &options, splits, writes_whole(c, n, &options)?)?;
    let (c, bias, alpha, beta, ldc, c_stride, f32) = output.kernel();
    let at = |o: &Option<Aligned>| o.as_ref().map_or((NULL, 0), |o| (KernelArg::Ptr(o.address), o.ld));
    let ((a2, lda2), (b2, ldb2)) = (at(&second[0]), at(&second[1]));
    let mut arguments = vec![
        KernelArg::Ptr(a.address),
        KernelArg::Ptr(b.address),
        c,
        bias,
        a2,
        b2,
        starts.as_ref().map_or(NULL, |s| KernelArg::Ptr(s.ptr())),
        u32_arg(op, "M", m)?,
        u32_arg(op, "N", n)?,
        u32_arg(op, "K", k)?,
        u32_arg(op, "K2", k2)?,
        u32_arg(op, "the leading dimension of A", a.ld)?,
        u32_arg(op, "the leading dimension of B", b.ld)?,
        u32_arg(op, "N", ldc)?,
        u32_arg(op, "the leading dimension of the second A", lda2)?,
        u32_arg(op, "the leading dimension of the second B", ldb2)?,
        KernelArg::U64(c_stride as u64),
        u32_arg(op, "the number of splits", splits)?,
        u32_arg(op, "the tiles of a split", per_split)?,
        KernelArg::F32(alpha),
        KernelArg::F32(beta),
        KernelArg::U32(u32::from(f32)),
    ];
    let size = match plan.tile {
        Tile::Large => 128,
        Tile::Small => 64,
    };
    if plan.tile == Tile::Small {
        arguments.extend(low_arguments);
    }
    let blocks = m.div_ceil(plan.tile.rows()) * n.div_ceil(Tile::COLUMNS);
    let grid = [blocks_for(op, blocks, 1)?, 1, z_extent(op, batch * splits)?];
    launch(device, ptx, &format!("gemm_{layout}_{size}_{name}"), grid, [128, 1, 1], 48 << 10, &arguments)?;
    output.finish()
}

/// The third extent of a grid, at most 65,535.
fn z_extent(op: &'static str, n: usize) -> Result<u32> {
    if n <= 65_535 {
        return Ok(n as u32);
    }
    Err(Error::value(op, format!("a batch of {n} matrices; 65535 can be multiplied at once")))
}

fn f32_product(
    op: &'static str,
    device: &CudaDevice,
    alpha: f32,
    a: Matrix,
    b: Matrix,
    c: Target,
    options: Options,
) -> Result<()> {
    if options.second.is_some() || options.low.is_some() {
        return Err(Error::dtype(op, "bf16 or f16 operands for a product in two parts", a.dtype));
    }
    const SIDE: usize = 64;
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let (a_starts, b_starts, _) = options.batch.unwrap_or((&[], &[], 0));
    let wide = |starts: &[usize]| starts.iter().map(|&s| s as u64).collect::<Vec<_>>();
    let starts = upload_starts(device, &wide(a_starts), &wide(b_starts))?;
    let batch = a_starts.len().max(1);
    let depth = k.div_ceil(16);
    let blocks = m.div_ceil(SIDE) * n.div_ceil(SIDE);
    let splits = match options.plan {
        Some((_, splits)) => splits.clamp(1, depth.max(1)),
        None => schedule::thin_splits(blocks * batch, depth / 4, device.info().multiprocessors as usize),
    };
    let per_split = depth.div_ceil(splits).max(1);
    let splits = depth.div_ceil(per_split).max(1);
    let output = Output::new(op, device, [m, n], c, alpha, &options, splits, true)?;
    let (c, bias, alpha, beta, ldc, c_stride, _) = output.kernel();
    let arguments = [
        KernelArg::Ptr(a.address),
        KernelArg::Ptr(b.address),
        c,
        bias,
        starts.as_ref().map_or(NULL, |s| KernelArg::Ptr(s.ptr())),
        u32_arg(op, "M", m)?,
        u32_arg(op, "N", n)?,
        u32_arg(op, "K", k)?,
        KernelArg::U64(a.row_stride as u64),
        KernelArg::U64(a.col_stride as u64),
        KernelArg::U64(b.col_stride as u64),
        KernelArg::U64(b.row_stride as u64),
        u32_arg(op, "N", ldc)?,
        KernelArg::U64(c_stride as u64),
        u32_arg(op, "the number of splits", splits)?,
        u32_arg(op, "the tiles of a split", per_split)?,
        KernelArg::F32(alpha),
        KernelArg::F32(beta),
    ];
    let grid = [blocks_for(op, blocks, 1)?, 1, z_extent(op, batch * splits)?];
    launch(device, &F32, "gemm_f32", grid, [256, 1, 1], 0, &arguments)?;
    output.finish()
}

/// Column sums of the contiguous rows of `t`, in f32 `[n]`.
///
/// # Errors
/// When `t` is not contiguous or device memory runs out.
pub(crate) fn column_sums(op: &'static str, device: &CudaDevice, t: &Tensor) -> Result<Tensor> {
    let rows = Matrix::rows_of(op, t)?;
    let sums = Tensor::empty_on(&Device::Cuda(device.clone()), &[rows.cols], DType::F32)?;
    let arguments = [
        KernelArg::Ptr(rows.address),
        KernelArg::Ptr(sums.device_ptr()?),
        u32_arg(op, "the number of rows", rows.rows)?,
        u32_arg(op, "the row length", rows.cols)?,
    ];
    let entry = format!("column_sums_{}", suffix(op, t.dtype())?);
    launch(device, &PARTS, &entry, [blocks_for(op, rows.cols, 32)?, 1, 1], [256, 1, 1], 0, &arguments)?;
    Ok(sums)
}
