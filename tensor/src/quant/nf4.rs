//! NF4: 4-bit NormalFloat weights (QLoRA, arXiv 2305.14314), bit for bit as bitsandbytes stores them.
//!
//! ```text
//! flat row-major weights   w0 w1 w2 … w63 | w64 … w127 | …          blocks of 64 run across rows
//! codes (2 a byte)         [w0·16 + w1] [w2·16 + w3] …              element 2i is the HIGH nibble
//! absmax (1 a block)       f32, or double quantised:
//!                          u8 code into a 256-entry dynamic map, scaled per 256 blocks, plus one offset
//! w[i] = NF4_CODE[nibble] · absmax[i / 64]
//! absmax[b] = map[codes[b]] · nested[b / 256] + offset
//! ```
//!
//! Layout and arithmetic follow bitsandbytes 0.50: `functional.py` (`quantize_4bit`, `QuantState`) and
//! its CPU kernels. Its CPU code maps absmax values to 8-bit codes through a table of 65,536 steps
//! over [-1, 1], which differs from the nearest code within one step of a midpoint; we do the same,
//! so that files come out identical. Its CUDA kernels search exactly and may differ there by one code.
//! The offset is the mean of absmax: torch sums in an order that depends on the machine, we
//! round the exact mean, so the last bit may differ for weights that were f32.

use super::{Error, Result, Segment};
use std::sync::Arc;
use std::sync::LazyLock;

/// Weights that share one absmax.
pub const BLOCK: usize = 64;
/// absmax values that share one nested absmax under double quantisation.
pub const NESTED_BLOCK: usize = 256;

/// The sixteen NF4 values: quantiles of N(0, 1) scaled to [-1, 1], with an exact zero at index 7.
pub const NF4_CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Encoding thresholds: the code of x is the number of thresholds below it (`x > t`).
pub const NF4_THRESHOLDS: [f32; 15] = [
    -0.848_096_4,
    -0.610_632_9,
    -0.459_995_27,
    -0.339_679_43,
    -0.234_607_41,
    -0.137_911_73,
    -0.045_525_018,
    0.039_790_15,
    0.120_255_25,
    0.203_521_25,
    0.292_013_77,
    0.389_312_54,
    0.501_663_4,
    0.642_786_9,
    0.861_478_4,
];

/// bitsandbytes divides by at least this, so that a block of zeros encodes as zeros.
const SMALLEST_ABSMAX: f32 = 1e-38;

/// The 256-entry "dynamic" 8-bit code book (bitsandbytes `create_dynamic_map`, arXiv 1511.04561):
/// seven decades, each split twice as finely as the one below, both signs, 0 and 1.
pub fn dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| build_map(true));
    &MAP
}

/// The code book of values that are never negative (`create_dynamic_map(signed=False)`): the sign's bit
/// splits every decade twice as finely.
pub fn unsigned_dynamic_map() -> &'static [f32; 256] {
    static MAP: LazyLock<[f32; 256]> = LazyLock::new(|| build_map(false));
    &MAP
}

fn build_map(signed: bool) -> [f32; 256] {
    let mut map = [0.0f32; 256];
    let mut next = 0;
    for decade in 0..7i32 {
        let parts = 1usize << (decade + i32::from(!signed));
        let scale = 10f64.powi(decade - 6) as f32;
        for i in 0..parts {
            let mean = scale * ((linspace(i, parts) + linspace(i + 1, parts)) / 2.0);
            map[next] = mean;
            next += 1;
            if signed {
                map[next] = -mean;
                next += 1;
            }
        }
    }
    // 2 · (1 + 2 + … + 64) = 254 entries, or 2 + 4 + … + 128; map[254] stays 0.
    map[255] = 1.0;
    map.sort_by(f32::total_cmp);
    map
}

/// Point i of `torch.linspace(0.1, 1, parts + 1)`: counted from the nearer end, fused multiply-add.
fn linspace(i: usize, parts: usize) -> f32 {
    let step = (1.0f32 - 0.1) / parts as f32;
    if i < parts.div_ceil(2) { step.mul_add(i as f32, 0.1) } else { (-step).mul_add((parts - i) as f32, 1.0) }
}

/// bitsandbytes' table from `round((x + 1) / 2 · 65535)` to the 8-bit code of x.
fn nearest_code_table() -> &'static [u8] {
    const STEPS: usize = 65_536;
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let map = dynamic_map();
        let mut code = 0usize;
        (0..STEPS)
            .map(|i| {
                let x = -1.0 + (2.0 * i as f32) / (STEPS - 1) as f32;
                while code < 255 && 0.5 * (map[code] + map[code + 1]) < x {
                    code += 1;
                }
                code as u8
            })
            .collect()
    });
    &TABLE
}

/// An NF4 matrix [rows, cols] = [out, in], borrowed: what kernels work on.
#[derive(Clone, Copy, Debug)]
pub struct Nf4Ref<'a> {
    /// ⌈rows·cols / 2⌉ bytes; element 2i is the high nibble of byte i.
    pub codes: &'a [u8],
    /// One scale for every [`BLOCK`] weights of the flat row-major data.
    pub absmax: AbsmaxRef<'a>,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// The block scales of an [`Nf4Ref`].
#[derive(Clone, Copy, Debug)]
pub enum AbsmaxRef<'a> {
    /// One f32 a block.
    F32(&'a [f32]),
    /// Double quantised: absmax[b] = map[codes[b]] · nested[b / 256] + offset.
    Double {
        /// One byte a block.
        codes: &'a [u8],
        /// `nested_quant_map`.
        map: &'a [f32; 256],
        /// One f32 for every [`NESTED_BLOCK`] blocks.
        nested: &'a [f32],
        /// `nested_offset`.
        offset: f32,
    },
}

impl AbsmaxRef<'_> {
    /// Scale of a block.
    #[inline]
    pub fn get(&self, block: usize) -> f32 {
        match *self {
            AbsmaxRef::F32(absmax) => absmax[block],
            AbsmaxRef::Double { codes, map, nested, offset } => {
                map[codes[block] as usize] * nested[block / NESTED_BLOCK] + offset
            }
        }
    }
}

impl Nf4Ref<'_> {
    /// Writes elements `start .. start + out.len()` of the flat row-major data as f32.
    ///
    /// # Panics
    /// When the range leaves the matrix.
    pub fn dequantize_range(&self, start: usize, out: &mut [f32]) {
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / BLOCK;
            let take = ((block + 1) * BLOCK - at).min(rest.len());
            let scale = self.absmax.get(block);
            let values = NF4_CODE.map(|code| code * scale);
            let (head, tail) = rest.split_at_mut(take);
            if at.is_multiple_of(2) && take.is_multiple_of(2) {
                let bytes = &self.codes[at / 2..(at + take) / 2];
                for (pair, &byte) in head.chunks_exact_mut(2).zip(bytes) {
                    pair[0] = values[(byte >> 4) as usize];
                    pair[1] = values[(byte & 15) as usize];
                }
            } else {
                for (offset, value) in head.iter_mut().enumerate() {
                    let i = at + offset;
                    let shift = if i.is_multiple_of(2) { 4 } else { 0 };
                    *value = values[((self.codes[i / 2] >> shift) & 15) as usize];
                }
            }
            at += take;
            rest = tail;
        }
    }
}

/// The block scales of an [`Nf4Matrix`]: see [`AbsmaxRef`].
#[derive(Clone, Debug)]
pub enum Absmax {
    /// One f32 a block.
    F32(Segment<f32>),
    /// Double quantised.
    Double {
        /// One byte a block.
        codes: Segment<u8>,
        /// `nested_quant_map`.
        map: Box<[f32; 256]>,
        /// One f32 for every [`NESTED_BLOCK`] blocks.
        nested: Segment<f32>,
        /// `nested_offset`.
        offset: f32,
    },
}

/// An NF4 matrix [rows, cols] = [out, in], owned or mapped; cloning shares it.
#[derive(Clone, Debug)]
pub struct Nf4Matrix(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    codes: Segment<u8>,
    absmax: Absmax,
    rows: usize,
    cols: usize,
}

impl Nf4Matrix {
    /// Quantises row-major `data` [rows, cols]; with `double_quant` the absmax values too.
    ///
    /// # Errors
    /// [`Error::Length`] when `data` has not rows·cols values, [`Error::NotFinite`] on NaN or infinity.
    pub fn quantize(data: &[f32], rows: usize, cols: usize, double_quant: bool) -> Result<Self> {
        let n = numel(rows, cols)?;
        check_length("data", rows, cols, n, data.len())?;
        let mut codes = Vec::with_capacity(n.div_ceil(2));
        let mut absmax = Vec::with_capacity(n.div_ceil(BLOCK));
        for (block, values) in data.chunks(BLOCK).enumerate() {
            let largest = block_absmax(values);
            if !largest.is_finite() {
                let inside = values.iter().position(|v| !v.is_finite()).unwrap_or(0);
                let (index, value) = (block * BLOCK + inside, values[inside]);
                return Err(Error::NotFinite { rows, cols, index, value });
            }
            let mut quantised = [7u8; BLOCK]; // 7 is the code of 0: the padding of an odd tail
            if values.len() == BLOCK {
                let inverse = 1.0 / largest.max(SMALLEST_ABSMAX);
                for (code, &v) in quantised.iter_mut().zip(values) {
                    *code = encode((v * inverse).clamp(-1.0, 1.0));
                }
                absmax.push(largest);
            } else {
                // bitsandbytes divides in the ragged last block and keeps the raised absmax.
                let largest = largest.max(SMALLEST_ABSMAX);
                for (code, &v) in quantised.iter_mut().zip(values) {
                    *code = encode((v / largest).clamp(-1.0, 1.0));
                }
                absmax.push(largest);
            }
            codes.extend(
                quantised.chunks_exact(2).take(values.len().div_ceil(2)).map(|pair| (pair[0] << 4) | pair[1]),
            );
        }
        let absmax = if double_quant { quantize_absmax(&absmax) } else { Absmax::F32(absmax.into()) };
        Ok(Nf4Matrix(Arc::new(Parts { codes: codes.into(), absmax, rows, cols })))
    }

    /// A matrix [rows, cols] from parts read elsewhere, for example mapped from a file.
    ///
    /// # Errors
    /// [`Error::Length`] when a part does not fit the shape.
    pub fn from_parts(codes: Segment<u8>, absmax: Absmax, rows: usize, cols: usize) -> Result<Self> {
        let n = numel(rows, cols)?;
        let blocks = n.div_ceil(BLOCK);
        check_length("codes", rows, cols, n.div_ceil(2), codes.as_slice().len())?;
        match &absmax {
            Absmax::F32(values) => check_length("absmax", rows, cols, blocks, values.as_slice().len())?,
            Absmax::Double { codes, nested, .. } => {
                check_length("absmax", rows, cols, blocks, codes.as_slice().len())?;
                let expected = blocks.div_ceil(NESTED_BLOCK);
                check_length("nested_absmax", rows, cols, expected, nested.as_slice().len())?;
            }
        }
        Ok(Nf4Matrix(Arc::new(Parts { codes, absmax, rows, cols })))
    }

    /// The borrowed view kernels take.
    pub fn as_ref(&self) -> Nf4Ref<'_> {
        let absmax = match &self.0.absmax {
            Absmax::F32(values) => AbsmaxRef::F32(values.as_slice()),
            Absmax::Double { codes, map, nested, offset } => {
                AbsmaxRef::Double { codes: codes.as_slice(), map, nested: nested.as_slice(), offset: *offset }
            }
        };
        Nf4Ref { codes: self.0.codes.as_slice(), absmax, rows: self.0.rows, cols: self.0.cols }
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// Input features.
    pub fn cols(&self) -> usize {
        self.0.cols
    }

    /// True when the absmax values are quantised as well.
    pub fn is_double_quantised(&self) -> bool {
        matches!(self.0.absmax, Absmax::Double { .. })
    }

    /// Writes the whole matrix, row-major, as f32.
    ///
    /// # Errors
    /// [`Error::Length`] unless `out` holds rows·cols values.
    pub fn dequantize_into(&self, out: &mut [f32]) -> Result<()> {
        let (rows, cols) = (self.0.rows, self.0.cols);
        check_length("output", rows, cols, rows * cols, out.len())?;
        self.as_ref().dequantize_range(0, out);
        Ok(())
    }

    /// Writes one row as f32.
    ///
    /// # Errors
    /// [`Error::Row`] past the last row, [`Error::Length`] unless `out` holds `cols` values.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let (rows, cols) = (self.0.rows, self.0.cols);
        if row >= rows {
            return Err(Error::Row { rows, cols, row });
        }
        check_length("output", rows, cols, cols, out.len())?;
        self.as_ref().dequantize_range(row * cols, out);
        Ok(())
    }

    /// Bytes of codes and scales together, owned or mapped: 4.127 bits a weight when double quantised.
    pub fn bytes(&self) -> usize {
        let scales = match &self.0.absmax {
            Absmax::F32(values) => size_of_val(values.as_slice()),
            Absmax::Double { codes, map, nested, offset } => {
                codes.as_slice().len()
                    + size_of_val(map.as_slice())
                    + size_of_val(nested.as_slice())
                    + size_of_val(offset)
            }
        };
        self.0.codes.as_slice().len() + scales
    }
}

fn numel(rows: usize, cols: usize) -> Result<usize> {
    rows.checked_mul(cols).ok_or(Error::Overflow { rows, cols })
}

fn check_length(part: &'static str, rows: usize, cols: usize, expected: usize, got: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(Error::Length { part, rows, cols, expected, got }) }
}

/// Largest magnitude of a block; NaN if any value is NaN.
fn block_absmax(values: &[f32]) -> f32 {
    let largest = values.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    if values.iter().any(|v| v.is_nan()) { f32::NAN } else { largest }
}

#[inline]
fn encode(x: f32) -> u8 {
    NF4_THRESHOLDS.iter().map(|&t| u8::from(x > t)).sum()
}

impl Absmax {
    /// Double quantisation of the scales of a whole matrix: absmax minus its mean, in blocks of 256,
    /// against the dynamic map. [`Nf4Matrix::quantize`] does it by itself; this is for code that
    /// quantises a matrix in parts.
    pub fn double_quantize(absmax: &[f32]) -> Absmax {
        quantize_absmax(absmax)
    }
}

fn quantize_absmax(absmax: &[f32]) -> Absmax {
    let count = absmax.len().max(1) as f64;
    let offset = (absmax.iter().map(|&v| f64::from(v)).sum::<f64>() / count) as f32;
    let table = nearest_code_table();
    let mut codes = Vec::with_capacity(absmax.len());
    let mut nested = Vec::with_capacity(absmax.len().div_ceil(NESTED_BLOCK));
    for block in absmax.chunks(NESTED_BLOCK) {
        let largest = block.iter().fold(0.0f32, |m, v| m.max((v - offset).abs()));
        nested.push(largest);
        if largest == 0.0 {
            codes.extend(std::iter::repeat_n(0u8, block.len()));
            continue;
        }
        let inverse = 1.0 / largest;
        codes.extend(block.iter().map(|v| {
            let x = ((v - offset) * inverse).clamp(-1.0, 1.0);
            table[((x + 1.0) * 0.5 * 65_535.0 + 0.5) as usize]
        }));
    }
    Absmax::Double { codes: codes.into(), map: Box::new(*dynamic_map()), nested: nested.into(), offset }
}

#[cfg(test)]
mod tests;
