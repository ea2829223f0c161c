//! Writing a model as a Hugging Face folder, adapters folded in, one tensor in memory at a time.

use crate::adapter::write_json;
use crate::llama::Llama;
use crate::projection::Projection;
use crate::{Error, Result};
use half::{bf16, f16};
use medley_tensor::DType;
use medley_tensor::io::{SafetensorsWriter, StoredDType, TensorSpec};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Files of a model folder that are copied as they are when they exist.
const SIDE_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
];

fn stored(dtype: DType) -> Result<StoredDType> {
    match dtype {
        DType::F32 => Ok(StoredDType::F32),
        DType::F16 => Ok(StoredDType::F16),
        DType::BF16 => Ok(StoredDType::BF16),
        other => {
            Err(Error::Request(format!("weights cannot be written as {other}; choose f32, f16 or bf16")))
        }
    }
}

fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => {
            let v: Vec<f16> = values.iter().map(|x| f16::from_f32(*x)).collect();
            bytemuck::cast_slice(&v).to_vec()
        }
        DType::BF16 => {
            let v: Vec<bf16> = values.iter().map(|x| bf16::from_f32(*x)).collect();
            bytemuck::cast_slice(&v).to_vec()
        }
        _ => bytemuck::cast_slice(values).to_vec(),
    }
}

/// Copies tokenizer, chat template and generation settings from one model folder to another.
///
/// # Errors
/// When a file exists but cannot be copied.
pub fn copy_side_files(from: &Path, to: &Path) -> Result<()> {
    for name in SIDE_FILES {
        let source = from.join(name);
        if source.is_file() {
            std::fs::copy(&source, to.join(name)).map_err(Error::io(&source))?;
        }
    }
    Ok(())
}

impl Llama {
    /// Writes the model into `folder` as `model.safetensors`, or in shards of at most
    /// `max_shard_bytes` with an index, with `config.json`. Adapters are merged in f32 before
    /// rounding to `dtype`.
    ///
    /// # Errors
    /// When the folder cannot be written or the dtype is not a float one.
    pub fn save(&self, folder: &Path, dtype: DType, max_shard_bytes: usize) -> Result<()> {
        self.write(folder, dtype, max_shard_bytes, &Projection::merged)
    }

    /// The same without the adapters, in the config's dtype, or in f32 where that would lose bits of a weight.
    ///
    /// # Errors
    /// As [`Llama::save`].
    pub fn save_base(&self, folder: &Path, max_shard_bytes: usize) -> Result<()> {
        let dtype = self.config().dtype;
        let exact = self.projections().all(|p| p.weight.tensor().dtype() == dtype);
        let dtype = if exact { dtype } else { DType::F32 };
        self.write(folder, dtype, max_shard_bytes, &|p| p.weight.tensor().to_vec_f32())
    }

    fn write(
        &self,
        folder: &Path,
        dtype: DType,
        max_shard_bytes: usize,
        linear: &dyn Fn(&Projection) -> medley_tensor::Result<Vec<f32>>,
    ) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let kind = stored(dtype)?;
        // (name, shape, what to write), values made only when their turn comes.
        type Values<'a> = Box<dyn Fn() -> medley_tensor::Result<Vec<f32>> + 'a>;
        let mut tensors: Vec<(String, Vec<usize>, Values<'_>)> = vec![];
        for (name, weight) in self.plain_weights() {
            let shape = weight.tensor().shape().to_vec();
            tensors.push((name, shape, Box::new(move || weight.tensor().to_vec_f32())));
        }
        for p in self.projections() {
            let (out, input) = p.size();
            tensors.push((format!("{}.weight", p.path), vec![out, input], Box::new(move || linear(p))));
        }
        let bytes_of = |shape: &[usize]| dtype.bytes_for(shape.iter().product());
        let mut shards: Vec<Vec<usize>> = vec![vec![]];
        let mut filled = 0;
        for (i, (_, shape, _)) in tensors.iter().enumerate() {
            let bytes = bytes_of(shape);
            if filled > 0 && filled + bytes > max_shard_bytes {
                shards.push(vec![]);
                filled = 0;
            }
            filled += bytes;
            if let Some(last) = shards.last_mut() {
                last.push(i);
            }
        }
        let count = shards.len();
        let mut weight_map = Map::new();
        for (s, members) in shards.iter().enumerate() {
            let file = match count {
                1 => "model.safetensors".to_string(),
                _ => format!("model-{:05}-of-{count:05}.safetensors", s + 1),
            };
            let specs: Vec<TensorSpec> =
                members.iter().map(|&i| TensorSpec::new(tensors[i].0.clone(), kind, &tensors[i].1)).collect();
            let mut writer = SafetensorsWriter::create(folder.join(&file), &specs)?;
            for &i in members {
                let (name, _, values) = &tensors[i];
                writer.append(name, &encode(&values()?, dtype))?;
                weight_map.insert(name.clone(), Value::String(file.clone()));
            }
            writer.finish()?;
        }
        if count > 1 {
            let total: usize = tensors.iter().map(|(_, shape, _)| bytes_of(shape)).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            write_json(&folder.join("model.safetensors.index.json"), &index)?;
        }
        let mut config = self.config().raw.clone();
        config.remove("quantization_config");
        let name = match dtype {
            DType::BF16 => "bfloat16",
            DType::F16 => "float16",
            _ => "float32",
        };
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.to_string(), Value::String(name.to_string()));
        write_json(&folder.join("config.json"), &Value::Object(config))
    }
}
