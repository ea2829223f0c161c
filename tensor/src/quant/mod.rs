//! NF4 blocks.

/// Block scales.
#[derive(Debug, Clone, Copy)]
pub enum AbsmaxRef<'a> {
    /// Plain.
    F32(&'a [f32]),
}

/// Borrowed NF4 matrix.
#[derive(Debug, Clone, Copy)]
pub struct Nf4Ref<'a> {
    /// Codes.
    pub codes: &'a [u8],
    /// Scales.
    pub absmax: AbsmaxRef<'a>,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
}

/// An NF4 matrix.
#[derive(Debug, Clone)]
pub struct Nf4Matrix {
    rows: usize,
    cols: usize,
}

impl Nf4Matrix {
    /// Quantises.
    pub fn quantize(_data: &[f32], rows: usize, cols: usize, _double: bool) -> Self {
        Nf4Matrix { rows, cols }
    }
    /// Borrows.
    pub fn as_ref(&self) -> Nf4Ref<'_> {
        Nf4Ref { codes: &[], absmax: AbsmaxRef::F32(&[]), rows: self.rows, cols: self.cols }
    }
    /// Size.
    pub fn bytes(&self) -> usize {
        0
    }
    /// Dequantises.
    pub fn dequantize_into(&self, _out: &mut [f32]) {}
}
