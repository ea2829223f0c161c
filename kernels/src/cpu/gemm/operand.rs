//! Borrowed matrices of any storage type, as the matrix engine takes them.

use half::{bf16, f16};

use medley_tensor::quant::nf4::{BLOCK, NESTED_BLOCK, NF4_CODE};
use medley_tensor::quant::{AbsmaxRef, Nf4Ref};

use super::{GemmError, Result};

/// The elements of a borrowed matrix.
#[derive(Clone, Copy)]
pub enum MatData<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16, widened to f32 while panels are packed.
    Bf16(&'a [bf16]),
    /// IEEE half precision, widened to f32 while panels are packed.
    F16(&'a [f16]),
    /// 4-bit NormalFloat blocks, decoded while panels are packed.
    Nf4(Nf4Ref<'a>),
}

impl MatData<'_> {
    /// Number of elements held.
    fn len(&self) -> usize {
        match self {
            MatData::F32(data) => data.len(),
            MatData::Bf16(data) => data.len(),
            MatData::F16(data) => data.len(),
            MatData::Nf4(data) => data.rows.saturating_mul(data.cols),
        }
    }

    /// Element `index` of the flat storage, in f32.
    #[inline]
    pub(super) fn get(&self, index: usize) -> f32 {
        match self {
            MatData::F32(data) => data[index],
            MatData::Bf16(data) => data[index].to_f32(),
            MatData::F16(data) => data[index].to_f32(),
            MatData::Nf4(data) => {
                let pair = data.codes[index / 2];
                let code = if index.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
                NF4_CODE[usize::from(code)] * data.absmax.get(index / BLOCK)
            }
        }
    }
}

/// A borrowed `rows` × `cols` matrix: element (i, j) is element `i·row_stride + j·col_stride` of `data`.
/// Strides count elements, so a transpose or a slice is a view.
#[derive(Clone, Copy)]
pub struct MatRef<'a> {
    pub(super) data: MatData<'a>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A matrix over `data` with strides in elements (NF4 included: its elements are the flat row-major
    /// 4-bit codes).
    ///
    /// # Errors
    /// [`GemmError::OutOfBounds`] where the last element lies outside `data`, or where an NF4 operand has
    /// too few codes or scales for its shape.
    pub fn new(
        data: MatData<'a>,
        rows: usize,
        cols: usize,
        row_stride: usize,
        col_stride: usize,
    ) -> Result<MatRef<'a>> {
        if let MatData::Nf4(nf4) = &data {
            check_nf4(nf4)?;
        }
        check_bounds("operand", data.len(), rows, cols, row_stride, col_stride)?;
        Ok(MatRef { data, rows, cols, row_stride, col_stride })
    }

    /// A contiguous row-major matrix.
    ///
    /// # Errors
    /// As [`MatRef::new`].
    pub fn row_major(data: MatData<'a>, rows: usize, cols: usize) -> Result<MatRef<'a>> {
        MatRef::new(data, rows, cols, cols, 1)
    }

    /// The transpose, as a view.
    #[must_use]
    pub fn t(self) -> MatRef<'a> {
        MatRef {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

/// A mutable `rows` × `cols` matrix of f32 whose rows are contiguous: element (i, j) is element
/// `i·row_stride + j` of the slice.
pub struct MatMut<'a> {
    pub(super) data: &'a mut [f32],
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) row_stride: usize,
}

impl<'a> MatMut<'a> {
    /// A matrix over `data` whose rows start `row_stride` elements apart.
    ///
    /// # Errors
    /// [`GemmError::OutOfBounds`] where the last element lies outside `data`, or where rows overlap
    /// (`row_stride < cols`).
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Result<MatMut<'a>> {
        check_bounds("result", data.len(), rows, cols, row_stride, 1)?;
        if rows > 1 && row_stride < cols {
            return Err(GemmError::Overlap { cols, row_stride });
        }
        Ok(MatMut { data, rows, cols, row_stride })
    }

    /// A contiguous row-major matrix.
    ///
    /// # Errors
    /// As [`MatMut::new`].
    pub fn row_major(data: &'a mut [f32], rows: usize, cols: usize) -> Result<MatMut<'a>> {
        MatMut::new(data, rows, cols, cols)
    }
}

fn check_nf4(nf4: &Nf4Ref) -> Result<()> {
    let (rows, cols) = (nf4.rows, nf4.cols);
    let expect = |part, need: usize, have: usize| {
        if have < need { Err(GemmError::Nf4 { part, need, have, rows, cols }) } else { Ok(()) }
    };
    let Some(len) = rows.checked_mul(cols) else {
        return expect("codes", usize::MAX, nf4.codes.len());
    };
    let blocks = len.div_ceil(BLOCK);
    expect("codes", len.div_ceil(2), nf4.codes.len())?;
    match nf4.absmax {
        AbsmaxRef::F32(scales) => expect("absmax", blocks, scales.len()),
        AbsmaxRef::Double { codes, nested, .. } => {
            expect("absmax", blocks, codes.len())?;
            expect("nested absmax", blocks.div_ceil(NESTED_BLOCK), nested.len())
        }
    }
}

fn check_bounds(
    what: &'static str,
    len: usize,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
) -> Result<()> {
    let extent = if rows == 0 || cols == 0 {
        Some(0)
    } else {
        (|| {
            let last_row = (rows - 1).checked_mul(row_stride)?;
            let last_col = (cols - 1).checked_mul(col_stride)?;
            last_row.checked_add(last_col)?.checked_add(1)
        })()
    };
    match extent {
        Some(extent) if extent <= len => Ok(()),
        _ => Err(GemmError::OutOfBounds { what, rows, cols, row_stride, col_stride, len }),
    }
}
