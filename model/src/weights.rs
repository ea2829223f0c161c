//! Weights from a Hugging Face folder, by memory map.

use crate::projection::Weight;
use crate::{Error, Result};
use medley_autograd::Param;
use medley_tensor::io::{StoredDType, WeightFiles};
use medley_tensor::ledger::{self, Category};
use medley_tensor::quant::Nf4Matrix;
use medley_tensor::{DType, Tensor};
use std::cell::Cell;
use std::path::Path;

/// How the base model's weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BaseStorage {
    /// As the file has them, used in place, frozen.
    #[default]
    Mapped,
    /// Linear layers quantised to NF4 as they are read (QLoRA); the rest as the file has it.
    Nf4 {
        /// Quantise the block scales too: 4.127 instead of 4.5 bits a weight.
        double_quantization: bool,
    },
    /// Everything trained, in f32.
    Trainable,
}

/// Reads weights by name and checks their shapes.
pub struct WeightReader {
    files: WeightFiles,
    storage: BaseStorage,
    next_index: Cell<u64>,
}

impl WeightReader {
    /// Opens `model.safetensors` or the sharded index in `folder`.
    ///
    /// # Errors
    /// When there are no weights or a file is damaged.
    pub fn open(folder: &Path, storage: BaseStorage) -> Result<Self> {
        Ok(WeightReader { files: WeightFiles::open_folder(folder)?, storage, next_index: Cell::new(0) })
    }

    /// True when the files hold a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.files.get(name).is_some()
    }

    /// The tensor as the file has it, without copying.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is not a float tensor.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let info = self.files.info(name)?;
        if info.shape != shape {
            return Err(Error::file(
                self.files.path(),
                format!("tensor `{name}` has shape {:?}; config.json asks for {shape:?}", info.shape),
            ));
        }
        let dtype = match info.dtype {
            StoredDType::F32 => DType::F32,
            StoredDType::F16 => DType::F16,
            StoredDType::BF16 => DType::BF16,
            other => {
                return Err(Error::file(
                    self.files.path(),
                    format!("tensor `{name}` is {}; expected F32, F16 or BF16", other.name()),
                ));
            }
        };
        let _scope = ledger::scope(Category::Weights);
        Ok(Tensor::from_mapped(info.file.clone(), info.bytes.start, dtype, shape)?)
    }

    /// A vector or embedding: never quantised.
    pub(crate) fn plain(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        let tensor = self.tensor(name, shape)?;
        if self.storage == BaseStorage::Trainable {
            return self.trainable(name, &tensor);
        }
        Ok(Weight::Frozen(tensor))
    }

    /// A linear layer's weight `[out, in]`: quantised when the base is.
    pub(crate) fn linear(&self, name: &str, out: usize, input: usize) -> Result<Weight> {
        let tensor = self.tensor(name, &[out, input])?;
        match self.storage {
            BaseStorage::Mapped => Ok(Weight::Frozen(tensor)),
            BaseStorage::Trainable => self.trainable(name, &tensor),
            BaseStorage::Nf4 { double_quantization } => {
                let _scope = ledger::scope(Category::Weights);
                let values = tensor.to_vec_f32()?;
                let matrix = Nf4Matrix::quantize(&values, out, input, double_quantization)
                    .map_err(medley_tensor::Error::from)?;
                Ok(Weight::Frozen(Tensor::from_nf4(matrix)))
            }
        }
    }

    fn trainable(&self, name: &str, tensor: &Tensor) -> Result<Weight> {
        let _scope = ledger::scope(Category::Weights);
        let value = Tensor::from_vec(tensor.to_vec_f32()?, tensor.shape())?;
        Ok(Weight::Trainable(Param::new(name, value)?))
    }

    /// Numbers the projections in reading order.
    pub(crate) fn next_index(&self) -> u64 {
        self.next_index.replace(self.next_index.get() + 1)
    }
}
