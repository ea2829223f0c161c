//! Tensors of a LLaMA GGUF under their Hugging Face names, decoded and written row by row.

use super::config::LlamaMetadata;
use super::{Error, Result};
use half::{bf16, f16};
use medley_tensor::DType;
use medley_tensor::io::{Gguf, SafetensorsWriter, StoredDType, TensorSpec};
use rayon::prelude::*;
use std::path::Path;

/// Rows decoded in parallel before they are written.
const ROWS: usize = 512;

/// What will be written, in the file's order.
pub(super) struct Plan {
    dtype: DType,
    tensors: Vec<Entry>,
}

struct Entry {
    gguf: String,
    spec: TensorSpec,
    /// Heads whose rows llama.cpp has interleaved (q and k), if any.
    permuted_heads: Option<usize>,
}

/// Rows of the table below: GGUF suffix, Hugging Face suffix, shape, heads that are permuted.
type Layer = (&'static str, &'static str, Vec<usize>, Option<usize>);

fn layer_tensors(m: &LlamaMetadata) -> Vec<Layer> {
    let (hidden, inner) = (m.hidden_size, m.intermediate_size);
    let (q, kv) = (m.num_attention_heads * m.head_dim, m.num_key_value_heads * m.head_dim);
    let (q_heads, kv_heads) = (Some(m.num_attention_heads), Some(m.num_key_value_heads));
    let mut layers = vec![
        ("attn_norm.weight", "input_layernorm.weight", vec![hidden], None),
        ("attn_q.weight", "self_attn.q_proj.weight", vec![q, hidden], q_heads),
        ("attn_k.weight", "self_attn.k_proj.weight", vec![kv, hidden], kv_heads),
        ("attn_v.weight", "self_attn.v_proj.weight", vec![kv, hidden], None),
        ("attn_output.weight", "self_attn.o_proj.weight", vec![hidden, q], None),
        ("ffn_norm.weight", "post_attention_layernorm.weight", vec![hidden], None),
        ("ffn_gate.weight", "mlp.gate_proj.weight", vec![inner, hidden], None),
        ("ffn_up.weight", "mlp.up_proj.weight", vec![inner, hidden], None),
        ("ffn_down.weight", "mlp.down_proj.weight", vec![hidden, inner], None),
    ];
    if m.attention_bias {
        layers.push(("attn_q.bias", "self_attn.q_proj.bias", vec![q], q_heads));
        layers.push(("attn_k.bias", "self_attn.k_proj.bias", vec![kv], kv_heads));
        layers.push(("attn_v.bias", "self_attn.v_proj.bias", vec![kv], None));
        layers.push(("attn_output.bias", "self_attn.o_proj.bias", vec![hidden], None));
    }
    if m.mlp_bias {
        layers.push(("ffn_gate.bias", "mlp.gate_proj.bias", vec![inner], None));
        layers.push(("ffn_up.bias", "mlp.up_proj.bias", vec![inner], None));
        layers.push(("ffn_down.bias", "mlp.down_proj.bias", vec![hidden], None));
    }
    layers
}

impl Plan {
    /// Names every tensor of the file and checks its shape.
    ///
    /// # Errors
    /// When a tensor is missing, has another shape than the metadata says, or has no place in a LLaMA.
    pub fn new(file: &Gguf, metadata: &LlamaMetadata, dtype: DType) -> Result<Self> {
        let Some(stored) =
            StoredDType::of(dtype).filter(|_| matches!(dtype, DType::F32 | DType::F16 | DType::BF16))
        else {
            let message = format!("cannot be written as {dtype}: expected f32, f16 or bf16");
            return Err(Error::unsupported(file, message));
        };
        let mut tensors = Vec::new();
        let mut add = |gguf: String, name: String, shape: Vec<usize>, permuted_heads| -> Result<()> {
            let info = file.info(&gguf)?;
            if info.shape != shape {
                let message = format!("shape {:?}, expected {shape:?} from the metadata", info.shape);
                return Err(medley_tensor::io::Error::tensor(file.path(), &gguf, message).into());
            }
            tensors.push(Entry { gguf, spec: TensorSpec::new(name, stored, &shape), permuted_heads });
            Ok(())
        };
        let (vocab, hidden) = (metadata.vocab_size, metadata.hidden_size);
        add("token_embd.weight".into(), "model.embed_tokens.weight".into(), vec![vocab, hidden], None)?;
        let layer = layer_tensors(metadata);
        for i in 0..metadata.num_hidden_layers {
            for (gguf, name, shape, heads) in &layer {
                add(format!("blk.{i}.{gguf}"), format!("model.layers.{i}.{name}"), shape.clone(), *heads)?;
            }
        }
        add("output_norm.weight".into(), "model.norm.weight".into(), vec![hidden], None)?;
        if !metadata.tie_word_embeddings {
            add("output.weight".into(), "lm_head.weight".into(), vec![vocab, hidden], None)?;
        }
        let known: std::collections::BTreeSet<&str> = tensors.iter().map(|t| t.gguf.as_str()).collect();
        // The factors went into `rope_scaling`.
        if let Some(name) = file.names().find(|&name| name != "rope_freqs.weight" && !known.contains(name)) {
            let message = "has no place in a LLaMA model; the file is of another kind than it says";
            return Err(medley_tensor::io::Error::tensor(file.path(), name, message).into());
        }
        Ok(Plan { dtype, tensors })
    }

    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.spec.shape.iter().product::<usize>() as u64).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.dtype.bytes_for(1) as u64 * self.parameters()
    }

    /// The dtype's name in `config.json`.
    pub fn dtype_name(&self) -> &'static str {
        match self.dtype {
            DType::F16 => "float16",
            DType::BF16 => "bfloat16",
            _ => "float32",
        }
    }

    /// Decodes and writes every tensor; at no time is more than [`ROWS`] rows in memory.
    pub fn write(&self, file: &Gguf, path: &Path, progress: &mut dyn FnMut(usize, usize)) -> Result<()> {
        let specs: Vec<_> = self.tensors.iter().map(|t| t.spec.clone()).collect();
        let mut writer = SafetensorsWriter::create(path, &specs)?;
        for (done, entry) in self.tensors.iter().enumerate() {
            progress(done, self.tensors.len());
            match entry.spec.shape[..] {
                [n] => writer.append(&entry.spec.name, &self.vector(file, entry, n)?)?,
                [rows, cols] => {
                    for start in (0..rows).step_by(ROWS) {
                        let decoded: Result<Vec<Vec<u8>>> = (start..rows.min(start + ROWS))
                            .into_par_iter()
                            .map(|row| self.row(file, entry, rows, cols, row))
                            .collect();
                        writer.append(&entry.spec.name, &decoded?.concat())?;
                    }
                }
                _ => return Err(Error::unsupported(file, format!("`{}` is no matrix", entry.gguf))),
            }
        }
        writer.finish()?;
        progress(self.tensors.len(), self.tensors.len());
        Ok(())
    }

    fn row(&self, file: &Gguf, entry: &Entry, rows: usize, cols: usize, row: usize) -> Result<Vec<u8>> {
        let mut values = vec![0f32; cols];
        file.dequantize_row(&entry.gguf, source_row(row, rows, entry.permuted_heads), &mut values)?;
        self.encode(file, entry, &values)
    }

    fn vector(&self, file: &Gguf, entry: &Entry, n: usize) -> Result<Vec<u8>> {
        let mut values = vec![0f32; n];
        file.dequantize_row(&entry.gguf, 0, &mut values)?;
        let ordered: Vec<f32> = (0..n).map(|i| values[source_row(i, n, entry.permuted_heads)]).collect();
        self.encode(file, entry, &ordered)
    }

    fn encode(&self, file: &Gguf, entry: &Entry, values: &[f32]) -> Result<Vec<u8>> {
        let bytes = match self.dtype {
            DType::F16 => {
                if let Some(v) = values.iter().find(|v| v.is_finite() && f16::from_f32(**v).is_infinite()) {
                    let message = format!("value {v} does not fit f16; convert to bf16 or f32");
                    return Err(medley_tensor::io::Error::tensor(file.path(), &entry.gguf, message).into());
                }
                values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect()
            }
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        };
        Ok(bytes)
    }
}

/// The row of the GGUF tensor that belongs at row `row` of the Hugging Face one.
///
/// llama.cpp rotates neighbouring pairs of a head's rows, transformers the two halves of a head.
/// Its converter therefore interleaves the halves of q and k (`convert_hf_to_gguf.py`,
/// `LlamaModel.permute`): row h·d + j·d/2 + i, j ∈ {0, 1}, is stored at h·d + 2i + j.
fn source_row(row: usize, rows: usize, permuted_heads: Option<usize>) -> usize {
    let Some(heads) = permuted_heads else { return row };
    let head_dim = rows / heads;
    let (head, inside) = (row / head_dim, row % head_dim);
    let (half, i) = (inside / (head_dim / 2), inside % (head_dim / 2));
    head * head_dim + 2 * i + half
}
