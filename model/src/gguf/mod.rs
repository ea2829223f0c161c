//! A LLaMA model in a GGUF file, turned into the Hugging Face folder it once came from.
//!
//! | file | what |
//! |---|---|
//! | `config.rs` | metadata → `config.json`, `generation_config.json` |
//! | `weights.rs` | tensor names, shapes and the order of q/k rows → `model.safetensors` |
//! | `tokenizer.rs` | `tokenizer.ggml.*` → `tokenizer.json`, `tokenizer_config.json` |
//! | `pre_tokenizer.rs` | `tokenizer.ggml.pre` → how text is split before BPE |

mod config;
mod pre_tokenizer;
mod tokenizer;
mod weights;

use config::LlamaMetadata;
use medley_tensor::DType;
use medley_tensor::io::Gguf;
use std::path::{Path, PathBuf};
use tokenizer::TokenizerFiles;

/// What can keep a GGUF file from being converted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read, or the weights not written.
    #[error(transparent)]
    File(#[from] medley_tensor::io::Error),
    /// The file is a good GGUF, of a kind that is not converted.
    #[error("{}: {message}", path.display())]
    Unsupported {
        /// The GGUF file.
        path: PathBuf,
        /// What it is, what would be converted.
        message: String,
    },
    /// The tokenizer's metadata contradicts itself.
    #[error("{}: tokenizer: {message}", path.display())]
    Tokenizer {
        /// The GGUF file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The output cannot be written.
    #[error("{}: {message}", path.display())]
    Output {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
}

/// Shorthand for results of this module.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn unsupported(file: &Gguf, message: impl Into<String>) -> Self {
        Error::Unsupported { path: file.path().to_path_buf(), message: message.into() }
    }

    fn output(path: &Path, message: impl Into<String>) -> Self {
        Error::Output { path: path.to_path_buf(), message: message.into() }
    }
}

/// What was converted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// `general.name`, where the file has one.
    pub name: Option<String>,
    /// Tensors written.
    pub tensors: usize,
    /// Weights in them.
    pub parameters: u64,
    /// Bytes of `model.safetensors`' data.
    pub bytes: u64,
    /// Entries of the vocabulary.
    pub vocab_size: usize,
    /// True when the output layer shares the embedding's weights.
    pub tie_word_embeddings: bool,
}

/// Converts the LLaMA-architecture GGUF file `input` to the Hugging Face folder `output`, weights in
/// `dtype` (f32, f16 or bf16). `progress(done, total)` is called for every tensor.
///
/// The folder appears under its name only when it is complete.
///
/// # Errors
/// [`Error::Unsupported`] for another architecture or feature, by name; [`Error::Output`] when
/// `output` exists and is not an empty folder; [`Error::File`] and [`Error::Tokenizer`] for
/// damaged files.
pub fn convert_gguf(
    input: &Path,
    output: &Path,
    dtype: DType,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Summary> {
    let file = Gguf::open(input)?;
    let metadata = LlamaMetadata::read(&file)?;
    let plan = weights::Plan::new(&file, &metadata, dtype)?;
    let tokenizer = TokenizerFiles::build(&file, metadata.vocab_size, metadata.max_position_embeddings)?;

    let folder = NewFolder::create(output)?;
    folder.write_json("config.json", &metadata.config_json(&tokenizer.special, plan.dtype_name()))?;
    folder.write_json("generation_config.json", &config::generation_config_json(&tokenizer.special))?;
    folder.write_json("tokenizer_config.json", &tokenizer.config)?;
    folder.write_json("tokenizer.json", &tokenizer.tokenizer)?;
    plan.write(&file, &folder.temporary.join("model.safetensors"), progress)?;
    folder.finish()?;
    Ok(Summary {
        name: file.string("general.name")?.map(str::to_owned),
        tensors: plan.len(),
        parameters: plan.parameters(),
        bytes: plan.bytes(),
        vocab_size: metadata.vocab_size,
        tie_word_embeddings: metadata.tie_word_embeddings,
    })
}

/// A folder that is filled under a temporary name beside its own; dropped early, it leaves nothing.
struct NewFolder {
    temporary: PathBuf,
    output: PathBuf,
    finished: bool,
}

impl NewFolder {
    fn create(output: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::output(output, format!("cannot be created: {e}"));
        match std::fs::read_dir(output) {
            Ok(entries) => {
                if entries.count() > 0 {
                    return Err(Error::output(output, "is not empty; name a new folder for the output"));
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(fail(e)),
        }
        let Some(name) = output.file_name() else {
            return Err(Error::output(output, "is not the name of a folder"));
        };
        let name = format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id());
        let temporary = output.with_file_name(name);
        if let Some(parent) = temporary.parent() {
            std::fs::create_dir_all(parent).map_err(fail)?;
        }
        std::fs::create_dir(&temporary).map_err(fail)?;
        Ok(NewFolder { temporary, output: output.to_path_buf(), finished: false })
    }

    fn write_json(&self, name: &str, value: &serde_json::Value) -> Result<()> {
        let path = self.temporary.join(name);
        let write = || -> std::io::Result<()> {
            let file = std::fs::File::create_new(&path)?;
            let mut buffered = std::io::BufWriter::new(file);
            serde_json::to_writer_pretty(&mut buffered, value)?;
            buffered.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()
        };
        write().map_err(|e| Error::output(&path, format!("cannot be written: {e}")))
    }

    /// Renames the folder to its own name; an empty folder of that name gives way.
    fn finish(mut self) -> Result<()> {
        let fail =
            |e: std::io::Error| Error::output(&self.output, format!("cannot be renamed into place: {e}"));
        if self.output.is_dir() {
            std::fs::remove_dir(&self.output).map_err(fail)?;
        }
        std::fs::rename(&self.temporary, &self.output).map_err(fail)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            // The error that led here is the one to report.
            std::fs::remove_dir_all(&self.temporary).ok();
        }
    }
}

#[cfg(test)]
mod tests;
