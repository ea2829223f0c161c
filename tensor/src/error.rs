//! One error type for the tensor layer and the ops built on it.

use crate::DType;

/// What can go wrong with shapes, dtypes, storage and the ops over them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes (or a shape and a rule) that do not fit together.
    #[error("{op}: shape {got:?} does not fit: expected {expected}")]
    Shape {
        /// The op or method that refused.
        op: &'static str,
        /// What would have been accepted, in words.
        expected: String,
        /// The offending shape.
        got: Vec<usize>,
    },
    /// A dtype the op has no kernel for.
    #[error("{op}: dtype {got} is not supported: expected {expected}")]
    DType {
        /// The op or method that refused.
        op: &'static str,
        /// What would have been accepted, in words.
        expected: String,
        /// The offending dtype.
        got: DType,
    },
    /// A value out of its range: an index past the vocabulary, a dropout of 1.5, …
    #[error("{op}: {message}")]
    Value {
        /// The op or method that refused.
        op: &'static str,
        /// The value, the bound and the remedy.
        message: String,
    },
    /// The wrong number of inputs.
    #[error("{op}: {got} inputs given, {expected} expected")]
    Arity {
        /// The op that refused.
        op: &'static str,
        /// How many it takes, in words.
        expected: String,
        /// How many it got.
        got: usize,
    },
    /// A view was asked for where only contiguous data serves.
    #[error("{op}: needs contiguous data, got strides {strides:?} for shape {shape:?}; call contiguous()")]
    NotContiguous {
        /// The method that refused.
        op: &'static str,
        /// Shape of the view.
        shape: Vec<usize>,
        /// Strides of the view, in elements.
        strides: Vec<usize>,
    },
    /// A method that reads host memory was called on a tensor that lies on a GPU.
    #[error("{op}: the tensor lies on {device}; copy it first: to_device(&Device::Cpu)")]
    OnDevice {
        /// The method that refused.
        op: &'static str,
        /// Where the tensor lies.
        device: String,
    },
    /// Two tensors that do not lie on the same device.
    #[error("{op}: a tensor on {expected} was expected, got one on {got}; move it with to_device")]
    DeviceMismatch {
        /// The op or method that refused.
        op: &'static str,
        /// Where the others lie.
        expected: String,
        /// Where this one lies.
        got: String,
    },
    /// An op without a kernel for the device its inputs lie on.
    #[error("{op}: there is no kernel for tensors on a GPU; copy them to the CPU with to_device")]
    NoDeviceKernel {
        /// The op.
        op: &'static str,
    },
    /// Device memory is used up.
    #[error("{0}")]
    OutOfMemory(Box<crate::device::OutOfMemory>),
    /// A GPU driver, real or simulated, refused.
    #[error(transparent)]
    Driver(#[from] crate::device::DriverError),
    /// Quantised data that does not fit its shape.
    #[error(transparent)]
    Quant(#[from] crate::quant::Error),
    /// A file that cannot be read or written.
    #[error(transparent)]
    Io(#[from] crate::io::Error),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A [`Error::Shape`] in one line.
    pub fn shape(op: &'static str, expected: impl Into<String>, got: &[usize]) -> Self {
        Error::Shape { op, expected: expected.into(), got: got.to_vec() }
    }

    /// A [`Error::Value`] in one line.
    pub fn value(op: &'static str, message: impl Into<String>) -> Self {
        Error::Value { op, message: message.into() }
    }

    /// A [`Error::DType`] in one line.
    pub fn dtype(op: &'static str, expected: impl Into<String>, got: DType) -> Self {
        Error::DType { op, expected: expected.into(), got }
    }
}
