//! Adapter folders as PEFT reads and writes them.

use super::{LoraConfig, Names, PREFIX, Start, config};
use crate::llama::Llama;
use crate::trained::TrainedWeights;
use crate::{Error, Result};
use medley_tensor::io::{SafetensorsWriter, StoredDType, TensorSpec, WeightFiles, write_atomic};
use medley_tensor::ledger::{self, Category};
use medley_tensor::{Device, Tensor};
use serde_json::Value;
use std::path::Path;

impl Llama {
    /// Loads a PEFT adapter folder onto the model and returns its settings.
    ///
    /// # Errors
    /// When a file is missing or damaged, the adapter uses something other than LoRA, rsLoRA or DoRA on the blocks'
    /// linear layers, or a shape does not fit this model.
    pub fn load_lora(&mut self, folder: &Path) -> Result<LoraConfig> {
        let config = config::read(&folder.join("adapter_config.json"))?;
        let path = folder.join("adapter_model.safetensors");
        let files = WeightFiles::open_file(&path)?;
        let _scope = ledger::scope(Category::Adapters);
        let read = |name: &str, dims: &[usize]| -> Result<Tensor> {
            let info = files.info(name)?;
            if info.shape != dims {
                let message =
                    format!("tensor `{name}` has shape {:?}; this model asks for {dims:?}", info.shape);
                return Err(Error::file(&path, message));
            }
            // Its own memory: training writes to it.
            Ok(Tensor::from_vec(files.tensor(name)?.to_vec_f32()?, &info.shape)?)
        };
        let mut used = vec![];
        for p in self.blocks_mut()? {
            let names = Names::of(p);
            if files.get(&names.a).is_none() && files.get(&names.b).is_none() {
                continue;
            }
            if !config.in_layers(&p.path) {
                let message = format!(
                    "it holds `{}`, but adapter_config.json's layers_to_transform is {:?}",
                    names.a,
                    config.layers.as_deref().unwrap_or_default()
                );
                return Err(Error::file(&path, message));
            }
            let (out, input) = p.size();
            let rank = config.rank_of(&p.path);
            if let Some([got, _]) = files.get(&names.a).map(|info| info.shape.as_slice())
                && *got != rank
            {
                let message = format!("`{}` has rank {got}; adapter_config.json says r = {rank}", names.a);
                return Err(Error::file(&path, message));
            }
            let magnitude = if config.dora { Some(read(&names.magnitude, &[out])?) } else { None };
            let start =
                Start { a: read(&names.a, &[rank, input])?, b: read(&names.b, &[out, rank])?, magnitude };
            start.attach(p, &config)?;
            used.extend([names.a, names.b]);
            used.extend(config.dora.then_some(names.magnitude));
        }
        let saved = TrainedWeights::modules(self.config(), &config.modules_to_save).map_err(|e| {
            Error::file(folder.join("adapter_config.json"), format!("\"modules_to_save\": {e}"))
        })?;
        self.replace_plain(&saved, |name, shape| {
            let name = format!("{PREFIX}{name}");
            let tensor = read(&name, shape)?;
            used.push(name);
            Ok(tensor)
        })?;
        let all = files.names().count();
        if used.is_empty() || used.len() != all {
            let extra: Vec<&str> = files.names().filter(|n| !used.iter().any(|k| k == n)).take(3).collect();
            return Err(Error::file(
                &path,
                format!(
                    "{} of {all} tensors belong to no linear layer of this model (such as {}); is it made for another base model?",
                    all - used.len(),
                    extra.join(", ")
                ),
            ));
        }
        Ok(config)
    }

    /// Writes the adapter as a folder that PEFT loads. An adapter that remembers what PiSSA took from the base is
    /// written as the plain one of twice the rank that belongs on the original base.
    ///
    /// # Errors
    /// When there is no adapter or the folder cannot be written.
    pub fn save_lora(&self, folder: &Path, config: &LoraConfig, base: &str) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let mut tensors: Vec<(String, Tensor)> = vec![];
        let mut kinds: Vec<&str> = vec![];
        let mut config = std::borrow::Cow::Borrowed(config);
        for p in self.projections() {
            let Some(lora) = &p.lora else { continue };
            let names = Names::of(p);
            let mut pair = [lora.a.value().to_device(&Device::Cpu)?, lora.b.value().to_device(&Device::Cpu)?];
            if let Some(initial) = &lora.initial {
                pair = initial.difference(&pair)?;
                let doubled = pair[0].shape()[0];
                if config.rank != doubled {
                    config.to_mut().widen(doubled);
                }
            }
            let [a, b] = pair;
            tensors.push((names.a, a));
            tensors.push((names.b, b));
            if let Some(magnitude) = &lora.magnitude {
                tensors.push((names.magnitude, magnitude.param().value().to_device(&Device::Cpu)?));
            }
            if !kinds.contains(&p.kind()) {
                kinds.push(p.kind());
            }
        }
        if tensors.is_empty() {
            return Err(Error::Request("the model has no adapter to save".into()));
        }
        // Beside an adapter the only weights of the base that are trained are its modules to save.
        for (name, weight) in self.plain_weights() {
            if let Some(param) = weight.param() {
                tensors.push((format!("{PREFIX}{name}"), param.value().to_device(&Device::Cpu)?));
            }
        }
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let path = folder.join("adapter_model.safetensors");
        let specs: Vec<TensorSpec> =
            tensors.iter().map(|(n, t)| TensorSpec::new(n.clone(), StoredDType::F32, t.shape())).collect();
        let mut writer = SafetensorsWriter::create(&path, &specs)?;
        for (name, t) in &tensors {
            writer.append(name, bytemuck::cast_slice(t.as_slice::<f32>()?))?;
        }
        writer.finish()?;
        write_json(&folder.join("adapter_config.json"), &config::fields(&config, &kinds, base))
    }
}

/// Writes pretty JSON atomically.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::file(path, format!("cannot be written as JSON: {e}")))?;
    text.push('\n');
    Ok(write_atomic(path, text.as_bytes())?)
}
