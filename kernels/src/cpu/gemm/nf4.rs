//! NF4 operands: 4-bit codes in blocks of 64 that share a scale.

use super::{GemmError, Result};

/// Elements that share one scale.
pub const BLOCK: usize = 64;

/// The sixteen levels of NormalFloat 4 (Dettmers et al., QLoRA, 2023, appendix E).
pub const LEVELS: [f32; 16] = [
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

/// A borrowed NF4 matrix of `rows` × `cols`, row-major, quantised in blocks of 64 over the flat data.
#[derive(Clone, Copy)]
pub struct Nf4Ref<'a> {
    /// Two codes a byte, element 2i in the high nibble of byte i.
    pub codes: &'a [u8],
    /// One scale a block.
    pub absmax: AbsmaxRef<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns; need not be a multiple of 64.
    pub cols: usize,
}

/// The scales of the blocks.
#[derive(Clone, Copy)]
pub enum AbsmaxRef<'a> {
    /// Plain scales.
    F32(&'a [f32]),
    /// Scales quantised to 8 bits (double quantisation): `map[codes[b]] * nested[b / 256] + offset`.
    Double {
        /// One code a block.
        codes: &'a [u8],
        /// The value of each code.
        map: &'a [f32; 256],
        /// One scale for 256 codes.
        nested: &'a [f32],
        /// Added to every scale.
        offset: f32,
    },
}

impl Nf4Ref<'_> {
    /// The scale of block `block`.
    #[inline]
    pub(super) fn absmax(&self, block: usize) -> f32 {
        match self.absmax {
            AbsmaxRef::F32(scales) => scales[block],
            AbsmaxRef::Double { codes, map, nested, offset } => {
                map[usize::from(codes[block])] * nested[block / 256] + offset
            }
        }
    }

    /// Element `index` of the flat matrix.
    #[inline]
    pub(super) fn get(&self, index: usize) -> f32 {
        let pair = self.codes[index / 2];
        let code = if index.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
        LEVELS[usize::from(code)] * self.absmax(index / BLOCK)
    }

    pub(super) fn check(&self) -> Result<()> {
        let fault =
            |part, need, have| Err(GemmError::Nf4 { part, need, have, rows: self.rows, cols: self.cols });
        let Some(len) = self.rows.checked_mul(self.cols) else {
            return fault("codes", usize::MAX, self.codes.len());
        };
        if self.codes.len() < len.div_ceil(2) {
            return fault("codes", len.div_ceil(2), self.codes.len());
        }
        let blocks = len.div_ceil(BLOCK);
        match self.absmax {
            AbsmaxRef::F32(scales) if scales.len() < blocks => fault("absmax", blocks, scales.len()),
            AbsmaxRef::Double { codes, .. } if codes.len() < blocks => fault("absmax", blocks, codes.len()),
            AbsmaxRef::Double { nested, .. } if nested.len() < blocks.div_ceil(256) => {
                fault("nested absmax", blocks.div_ceil(256), nested.len())
            }
            _ => Ok(()),
        }
    }
}
