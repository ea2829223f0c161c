//! Element types.

use crate::storage::{Buffer, CpuStorage};
use half::{bf16, f16};

/// How an element is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// 32-bit IEEE float: activations, gradients, optimizer state.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16: the usual dtype of released weights.
    BF16,
    /// Unsigned 32-bit integer: token ids, positions.
    U32,
    /// Bytes.
    U8,
    /// 4-bit NormalFloat in blocks of 64 with an absmax each (QLoRA, arXiv 2305.14314).
    Nf4,
}

impl DType {
    /// Bytes `numel` elements take, block scales of NF4 not counted.
    pub fn bytes_for(self, numel: usize) -> usize {
        match self {
            DType::F32 | DType::U32 => numel * 4,
            DType::F16 | DType::BF16 => numel * 2,
            DType::U8 => numel,
            DType::Nf4 => numel.div_ceil(2),
        }
    }

    /// True for dtypes that hold real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16 | DType::Nf4)
    }

    /// The name used in messages and in safetensors files (upper case there).
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::U32 => "u32",
            DType::U8 => "u8",
            DType::Nf4 => "nf4",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for u32 {}
    impl Sealed for u8 {}
}

/// A Rust type that can be an element of a [`crate::Tensor`].
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + PartialEq + std::fmt::Debug {
    /// The dtype it is stored as.
    const DTYPE: DType;
    /// Wraps a buffer of this type into the storage enum.
    fn wrap(buffer: Buffer<Self>) -> CpuStorage;
    /// The buffer of this type inside the storage, if that is what it holds.
    fn unwrap(storage: &CpuStorage) -> Option<&Buffer<Self>>;
    /// Mutable twin of [`Element::unwrap`].
    fn unwrap_mut(storage: &mut CpuStorage) -> Option<&mut Buffer<Self>>;
    /// Gives a vector back to the allocator's cache.
    fn recycle(data: Vec<Self>) {
        drop(data);
    }
}

macro_rules! element {
    ($type:ty, $variant:ident, $dtype:ident $(, $recycle:path)?) => {
        impl Element for $type {
            const DTYPE: DType = DType::$dtype;
            fn wrap(buffer: Buffer<Self>) -> CpuStorage {
                CpuStorage::$variant(buffer)
            }
            fn unwrap(storage: &CpuStorage) -> Option<&Buffer<Self>> {
                match storage {
                    CpuStorage::$variant(b) => Some(b),
                    _ => None,
                }
            }
            fn unwrap_mut(storage: &mut CpuStorage) -> Option<&mut Buffer<Self>> {
                match storage {
                    CpuStorage::$variant(b) => Some(b),
                    _ => None,
                }
            }
            $(fn recycle(data: Vec<Self>) {
                $recycle(data);
            })?
        }
    };
}

element!(f32, F32, F32, crate::alloc::recycle);
element!(f16, F16, F16);
element!(bf16, BF16, BF16);
element!(u32, U32, U32);
element!(u8, U8, U8);
