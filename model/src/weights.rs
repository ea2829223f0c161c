//! Weights from a Hugging Face folder, by memory map.

use crate::placement::Placement;
use crate::projection::Weight;
use crate::trained::TrainedWeights;
use crate::{Error, Result};
use medley_autograd::Param;
use medley_kernels::updates::nf4;
use medley_tensor::io::WeightFiles;
use medley_tensor::ledger::{self, Category};
use medley_tensor::rng::Philox;
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

enum Source {
    Files(WeightFiles),
    /// Fresh weights: matrices normal with this standard deviation, norms one, biases zero.
    Random {
        seed: u64,
        std: f32,
    },
}

/// Reads weights by name and checks their shapes.
pub struct WeightReader {
    source: Source,
    storage: BaseStorage,
    placement: Placement,
    /// Trained although `storage` says otherwise.
    trained: TrainedWeights,
    next_index: Cell<u64>,
}

impl WeightReader {
    /// Opens `model.safetensors` or the sharded index in `folder`.
    ///
    /// # Errors
    /// When there are no weights or a file is damaged.
    pub fn open(folder: &Path, storage: BaseStorage) -> Result<Self> {
        let source = Source::Files(WeightFiles::open_folder(folder)?);
        Ok(Self::new(source, storage))
    }

    /// Fresh weights to train from scratch, as transformers initialises LLaMA: matrices normal
    /// with standard deviation `std`, norms one, biases zero. Each depends on its name and `seed`.
    pub fn random(seed: u64, std: f32) -> Self {
        let source = Source::Random { seed, std };
        Self::new(source, BaseStorage::Trainable)
    }

    fn new(source: Source, storage: BaseStorage) -> Self {
        let (placement, trained) = (Placement::default(), TrainedWeights::default());
        WeightReader { source, storage, placement, trained, next_index: Cell::new(0) }
    }

    /// The same weights, handed out on another device; on the CPU unless this is called.
    #[must_use]
    pub fn on(self, placement: Placement) -> Self {
        WeightReader { placement, ..self }
    }

    /// The same weights, those of `trained` trained.
    #[must_use]
    pub fn training(self, trained: TrainedWeights) -> Self {
        WeightReader { trained, ..self }
    }

    /// Whether a tied head is read as a weight of its own.
    pub(crate) fn unties(&self) -> bool {
        self.trained.untie
    }

    fn trains(&self, name: &str) -> bool {
        self.storage == BaseStorage::Trainable || self.trained.names.contains(name)
    }

    /// Where the weights are handed out.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// The tensor as the file has it, without copying.
    ///
    /// # Errors
    /// When it is missing, has another shape, or is not a float tensor.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let files = match &self.source {
            Source::Files(files) => files,
            Source::Random { seed, std } => return random_tensor(name, shape, *seed, *std),
        };
        let _scope = ledger::scope(Category::Weights);
        let tensor = files.tensor(name)?;
        if tensor.shape() != shape {
            return Err(Error::file(
                files.path(),
                format!("tensor `{name}` has shape {:?}; config.json asks for {shape:?}", tensor.shape()),
            ));
        }
        if !tensor.dtype().is_float() {
            let message = format!("tensor `{name}` is {}; expected f32, f16, bf16 or nf4", tensor.dtype());
            return Err(Error::file(files.path(), message));
        }
        Ok(tensor)
    }

    /// The dtype the file keeps a tensor in; f32 for fresh weights.
    pub(crate) fn stored_dtype(&self, name: &str) -> Result<DType> {
        match &self.source {
            Source::Files(files) => Ok(files.tensor(name)?.dtype()),
            Source::Random { .. } => Ok(DType::F32),
        }
    }

    /// A vector or embedding: never quantised.
    pub(crate) fn plain(&self, name: &str, shape: &[usize]) -> Result<Weight> {
        self.plain_from(name, name, shape)
    }

    /// The weight `name`, which the file has as `stored`.
    pub(crate) fn plain_from(&self, name: &str, stored: &str, shape: &[usize]) -> Result<Weight> {
        let tensor = self.tensor(stored, shape)?;
        if self.trains(name) {
            return self.trainable(name, &tensor);
        }
        self.frozen(tensor)
    }

    /// A linear layer's weight `[out, in]`: quantised when the base is.
    pub(crate) fn linear(&self, name: &str, out: usize, input: usize) -> Result<Weight> {
        let tensor = self.tensor(name, &[out, input])?;
        if self.trains(name) {
            return self.trainable(name, &tensor);
        }
        match self.storage {
            BaseStorage::Mapped | BaseStorage::Trainable => self.frozen(tensor),
            // Quantised in the file already: used as it is.
            BaseStorage::Nf4 { .. } if tensor.dtype() == DType::Nf4 => self.frozen(tensor),
            BaseStorage::Nf4 { double_quantization } => {
                let _scope = ledger::scope(Category::Weights);
                let values = tensor.to_vec_f32()?;
                let matrix =
                    nf4::quantize(&values, out, input, double_quantization).map_err(|e| {
                        match &self.source {
                            Source::Files(files) => {
                                Error::file(files.path(), format!("tensor `{name}`: {e}"))
                            }
                            Source::Random { .. } => medley_tensor::Error::from(e).into(),
                        }
                    })?;
                self.frozen(Tensor::from_nf4(matrix))
            }
        }
    }

    fn trainable(&self, name: &str, tensor: &Tensor) -> Result<Weight> {
        let _scope = ledger::scope(self.trained.category);
        let value = Tensor::from_vec(tensor.to_vec_f32()?, tensor.shape())?;
        Ok(Weight::Trainable(Param::new(name, self.placement.trained(value)?)?))
    }

    fn frozen(&self, tensor: Tensor) -> Result<Weight> {
        let _scope = ledger::scope(Category::Weights);
        Ok(Weight::Frozen(self.placement.frozen(tensor)?))
    }

    /// Numbers the projections in reading order.
    pub(crate) fn next_index(&self) -> u64 {
        self.next_index.replace(self.next_index.get() + 1)
    }
}

fn random_tensor(name: &str, shape: &[usize], seed: u64, std: f32) -> Result<Tensor> {
    let n = shape.iter().product();
    let data: Vec<f32> = match shape {
        [_] if name.ends_with(".bias") => vec![0.0; n],
        [_] => vec![1.0; n],
        _ => {
            // FNV-1a of the name: a stream of its own for every tensor.
            let stream = name
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
            let mut rng = Philox::new(seed, stream);
            (0..n).map(|_| rng.normal_f32() * std).collect()
        }
    };
    Ok(Tensor::from_vec(data, shape)?)
}
