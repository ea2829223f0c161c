//! Quantised weights: NF4 exactly as bitsandbytes stores it, and the block formats GGUF files carry.

pub mod bitsandbytes;
pub mod ggml;
pub mod nf4;
mod segment;

pub use ggml::GgmlType;
pub use nf4::{Absmax, AbsmaxRef, Nf4Matrix, Nf4Ref};
pub use segment::Segment;

/// What can be wrong with quantised data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The number of values or bytes of a part does not fit the matrix's shape.
    #[error("nf4 [{rows}, {cols}]: {part} holds {got} elements, expected {expected}")]
    Length {
        /// Which part: `data`, `codes`, `absmax`, `nested_absmax`, `output`.
        part: &'static str,
        /// Rows of the matrix (output features).
        rows: usize,
        /// Columns of the matrix (input features).
        cols: usize,
        /// Elements the shape asks for.
        expected: usize,
        /// Elements given.
        got: usize,
    },
    /// rows × cols overflows the address space.
    #[error("nf4: shape [{rows}, {cols}] has more elements than can be addressed")]
    Overflow {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// A row past the end.
    #[error("nf4 [{rows}, {cols}]: row {row} does not exist")]
    Row {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// The row asked for.
        row: usize,
    },
    /// A weight that is infinite or not a number cannot be quantised.
    #[error(
        "nf4 [{rows}, {cols}]: element {index} (row-major) is {value}; only finite weights can be quantised"
    )]
    NotFinite {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Flat row-major index of the offending weight.
        index: usize,
        /// The value found there.
        value: f32,
    },
    /// Bytes that are not exactly the blocks of that many weights.
    #[error("{format}: {bytes} bytes are not the blocks of {weights} weights")]
    Blocks {
        /// The block format's name.
        format: &'static str,
        /// Bytes given.
        bytes: usize,
        /// Weights asked for.
        weights: usize,
    },
    /// A part's byte range does not lie in its file.
    #[error(
        "{file}: byte range {start}..{end} is outside the file ({len} bytes) or no multiple of the element size"
    )]
    Range {
        /// Path of the mapped file.
        file: String,
        /// First byte.
        start: usize,
        /// One past the last byte.
        end: usize,
        /// Length of the file in bytes.
        len: usize,
    },
}

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;
