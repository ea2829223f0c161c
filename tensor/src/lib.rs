//! What data is and where it lives: dtypes, shapes, storage, mapped files, NF4 blocks; no arithmetic.

pub mod io;
pub mod quant;
