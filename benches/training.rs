//! A training step and opening a model, at SmolLM2-135M's shape (30 layers, hidden 576, vocabulary
//! 49,152, tied) with random bf16 weights: nothing to download. Elements a second are tokens a second.
//!
//! Floor of a LoRA step: 2 FLOPs a weight and token forward and 2 for the gradient of the inputs,
//! 4 × (106 M + 28 M of the head) = 0.54 GFLOP a token, plus attention; at 204 GFLOP/s (two Zen 3
//! cores) about 370 tokens/s with every position labelled. The peer is `benches/peers/peft_train.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use medley_autograd::optim::{AdamWConfig, Optimizer, OptimizerConfig, StepSettings};
use medley_model::adapter::{LoraConfig, Targets};
use medley_model::{BaseStorage, Labels, Llama, ModelConfig, Pass, Placement, Sequences};
use medley_tensor::DType;
use std::path::Path;

const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_act":"silu","hidden_size":576,
"intermediate_size":1536,"num_hidden_layers":30,"num_attention_heads":9,"num_key_value_heads":3,"vocab_size":49152,
"max_position_embeddings":8192,"rms_norm_eps":1e-5,"rope_theta":100000.0,"tie_word_embeddings":true,"dtype":"bfloat16"}"#;

fn model_folder(folder: &Path) {
    let config = ModelConfig::parse(Path::new("config.json"), CONFIG).unwrap();
    Llama::from_scratch(config, 1, Placement::default())
        .unwrap()
        .save(folder, DType::BF16, usize::MAX)
        .unwrap();
}

/// One optimizer step over `sequences` sequences of 512 tokens; every `stride`-th position labelled.
struct Step {
    model: Llama,
    optimizer: Optimizer,
    input: Sequences,
    labels: Labels,
}

impl Step {
    fn new(folder: &Path, storage: BaseStorage, targets: Targets, sequences: u32, stride: usize) -> Self {
        let mut model = Llama::open(folder, storage).unwrap();
        if storage != BaseStorage::Trainable {
            let lora = LoraConfig { rank: 8, alpha: 16.0, dropout: 0.0, targets, ..LoraConfig::default() };
            model.attach_lora(&lora, 1).unwrap();
        }
        let rows: Vec<Vec<u32>> =
            (0..sequences).map(|s| (0..512).map(|i| (i * 97 + s * 31) % 49_152).collect()).collect();
        let input = Sequences::pack(rows.iter().map(|r| &r[..]));
        let rows: Vec<u32> = (0..input.ids.len() as u32).filter(|i| i % 512 != 511).step_by(stride).collect();
        let n = rows.len();
        let labels = Labels {
            targets: rows.iter().map(|r| input.ids[*r as usize + 1]).collect(),
            rows: rows.into(),
            weights: vec![1.0 / n as f32; n].into(),
            loss_scale: 1.0,
        };
        let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, eight_bit: false };
        let optimizer = Optimizer::new(OptimizerConfig::AdamW(config), model.params()).unwrap();
        Step { model, optimizer, input, labels }
    }

    fn run(&mut self) {
        let hidden = self.model.hidden(&self.input, &Pass::default()).unwrap();
        let (loss, _) = self.model.loss(&hidden, &self.labels).unwrap();
        drop(hidden);
        loss.backward().unwrap();
        let settings = StepSettings { learning_rate: 1e-4, max_grad_norm: 0.0, loss_scale: 1.0 };
        self.optimizer.step(&settings).unwrap();
    }
}

fn steps(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    model_folder(dir.path());
    let q_v = || Targets::Kinds(vec!["q_proj".into(), "v_proj".into()]);
    let nf4 = BaseStorage::Nf4 { double_quantization: true };
    let cases: [(&str, BaseStorage, Targets, u32, usize); 5] = [
        ("lora_qv_4x512", BaseStorage::Mapped, q_v(), 4, 1),
        ("lora_qv_4x512_30pct_labelled", BaseStorage::Mapped, q_v(), 4, 3),
        ("lora_all_4x512", BaseStorage::Mapped, Targets::All, 4, 1),
        ("qlora_qv_2x512", nf4, q_v(), 2, 1),
        ("full_2x512", BaseStorage::Trainable, Targets::All, 2, 1),
    ];
    let mut group = c.benchmark_group("training_step");
    group.sample_size(10);
    for (name, storage, targets, sequences, stride) in cases {
        let mut step = Step::new(dir.path(), storage, targets, sequences, stride);
        group.throughput(Throughput::Elements(u64::from(sequences) * 512));
        group.bench_function(name, |b| b.iter(|| step.run()));
    }
    group.finish();
    c.bench_function("open_model", |b| b.iter(|| Llama::open(dir.path(), BaseStorage::Mapped).unwrap()));
}

criterion_group!(benches, steps);
criterion_main!(benches);
