//! Where elements are kept: owned vectors or ranges of mapped files.

use crate::device::{CudaDevice, CudaNf4, DeviceBuffer};
use crate::io::MappedFile;
use crate::ledger::Charge;
use crate::quant::Nf4Matrix;
use crate::{DType, Element, Error, Result};
use std::sync::Arc;

/// Elements of one type, owned or mapped from a file, charged to the memory ledger.
#[derive(Debug)]
pub struct Buffer<T: Element> {
    data: Data<T>,
    _charge: Charge,
}

#[derive(Debug)]
enum Data<T> {
    Owned(Vec<T>),
    /// `bytes` of the file are the elements, aligned for `T` (checked when made).
    Mapped {
        file: Arc<MappedFile>,
        start: usize,
        len: usize,
    },
}

impl<T: Element> Buffer<T> {
    /// Takes a vector, charging the thread's current ledger category.
    pub fn owned(data: Vec<T>) -> Self {
        let bytes = std::mem::size_of_val(data.as_slice());
        Buffer { data: Data::Owned(data), _charge: Charge::new(bytes) }
    }

    /// `len` elements of `file` from byte `start`: used in place when aligned, copied otherwise.
    ///
    /// # Errors
    /// When the range lies outside the file.
    pub fn mapped(file: Arc<MappedFile>, start: usize, len: usize) -> Result<Self> {
        let size = len * size_of::<T>();
        let bytes =
            start.checked_add(size).and_then(|end| file.bytes().get(start..end)).ok_or_else(|| {
                Error::value(
                    "from_mapped",
                    format!(
                        "bytes {start}..{start}+{size} lie outside {} ({} bytes); the file is truncated",
                        file.path().display(),
                        file.bytes().len()
                    ),
                )
            })?;
        if bytemuck::try_cast_slice::<u8, T>(bytes).is_ok() {
            return Ok(Buffer { data: Data::Mapped { file, start, len }, _charge: Charge::new(size) });
        }
        // Legal in the format, if unusual: an element start that is not a multiple of its size.
        Ok(Buffer::owned(bytes.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()))
    }

    /// The elements.
    pub fn as_slice(&self) -> &[T] {
        match &self.data {
            Data::Owned(v) => v,
            // The cast was checked when the buffer was made; a map neither moves nor shrinks.
            Data::Mapped { file, start, len } => {
                bytemuck::cast_slice(&file.bytes()[*start..*start + *len * size_of::<T>()])
            }
        }
    }

    /// The elements, to be written. A mapped buffer is copied into memory first.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        if let Data::Mapped { .. } = self.data {
            self.data = Data::Owned(self.as_slice().to_vec());
        }
        match &mut self.data {
            Data::Owned(v) => v,
            Data::Mapped { .. } => &mut [],
        }
    }

    /// True when the elements are a range of a mapped file.
    pub fn is_mapped(&self) -> bool {
        matches!(self.data, Data::Mapped { .. })
    }
}

impl<T: Element> Drop for Buffer<T> {
    fn drop(&mut self) {
        if let Data::Owned(v) = &mut self.data {
            T::recycle(std::mem::take(v));
        }
    }
}

/// Elements in host memory, by type.
#[derive(Debug)]
pub enum CpuStorage {
    /// 32-bit floats.
    F32(Buffer<f32>),
    /// 16-bit floats.
    F16(Buffer<half::f16>),
    /// bfloat16.
    BF16(Buffer<half::bf16>),
    /// Unsigned 32-bit integers.
    U32(Buffer<u32>),
    /// Bytes.
    U8(Buffer<u8>),
    /// A matrix in NF4 blocks; no views into it but whole rows.
    Nf4 {
        /// Codes and block scales.
        matrix: Nf4Matrix,
        /// What it holds of the ledger.
        charge: Charge,
    },
}

impl CpuStorage {
    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            CpuStorage::F32(_) => DType::F32,
            CpuStorage::F16(_) => DType::F16,
            CpuStorage::BF16(_) => DType::BF16,
            CpuStorage::U32(_) => DType::U32,
            CpuStorage::U8(_) => DType::U8,
            CpuStorage::Nf4 { .. } => DType::Nf4,
        }
    }

    /// True when the elements are used in place from a mapped file.
    pub fn is_mapped(&self) -> bool {
        match self {
            CpuStorage::F32(b) => b.is_mapped(),
            CpuStorage::F16(b) => b.is_mapped(),
            CpuStorage::BF16(b) => b.is_mapped(),
            CpuStorage::U32(b) => b.is_mapped(),
            CpuStorage::U8(b) => b.is_mapped(),
            CpuStorage::Nf4 { .. } => false,
        }
    }
}

/// Elements in device memory.
#[derive(Debug)]
pub enum CudaStorage {
    /// Elements of a plain dtype, one after another.
    Plain {
        /// The bytes.
        buffer: DeviceBuffer,
        /// What they are.
        dtype: DType,
    },
    /// A matrix in NF4 blocks.
    Nf4(CudaNf4),
}

impl CudaStorage {
    /// The dtype of the elements.
    pub fn dtype(&self) -> DType {
        match self {
            CudaStorage::Plain { dtype, .. } => *dtype,
            CudaStorage::Nf4(_) => DType::Nf4,
        }
    }

    /// The device they lie on.
    pub fn device(&self) -> &CudaDevice {
        match self {
            CudaStorage::Plain { buffer, .. } => buffer.device(),
            CudaStorage::Nf4(matrix) => matrix.device(),
        }
    }
}

/// Where a tensor's elements live.
#[derive(Debug)]
pub enum Storage {
    /// Host memory.
    Cpu(CpuStorage),
    /// Device memory.
    Cuda(CudaStorage),
}
