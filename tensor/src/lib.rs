//! What data is and where it lives: dtypes, shapes, storage, the memory ledger, counter-based
//! random numbers and the [`op::Op`] contract. No arithmetic lives here.

pub mod alloc;
pub mod device;
pub mod dtype;
pub mod error;
pub mod io;
pub mod layout;
pub mod ledger;
pub mod op;
pub mod quant;
pub mod rng;
pub mod storage;
pub mod tensor;

pub use device::Device;
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use layout::Layout;
pub use op::{Cost, Op};
pub use tensor::Tensor;
