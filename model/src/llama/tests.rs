//! The model against values computed by transformers (`tests/reference/README.md`).

use super::*;
use crate::adapter::{LoraConfig, Targets};
use medley_tensor::io::Safetensors;
use std::path::PathBuf;

pub(super) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama").join(name)
}

struct Reference(Safetensors);

impl Reference {
    fn open(name: &str) -> Self {
        Reference(Safetensors::open(fixture(name).join("reference.safetensors")).unwrap())
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        bytemuck::pod_collect(self.0.info(name).unwrap().data())
    }

    fn u32s(&self, name: &str) -> Vec<u32> {
        bytemuck::pod_collect(self.0.info(name).unwrap().data())
    }
}

/// Unaligned bytes to elements.
mod bytemuck {
    pub fn pod_collect<T: ::bytemuck::Pod>(bytes: &[u8]) -> Vec<T> {
        bytes.chunks_exact(size_of::<T>()).map(::bytemuck::pod_read_unaligned).collect()
    }
}

fn max_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
}

fn logits(model: &Llama, sequences: &[&[u32]]) -> Vec<f32> {
    let hidden = model.hidden(&Sequences::pack(sequences.iter().copied()), &Pass::default()).unwrap();
    model.logits(&hidden).unwrap().to_vec_f32().unwrap()
}

pub(super) fn next_token_labels(ids: &[u32]) -> Labels {
    let n = ids.len() - 1;
    Labels {
        rows: (0..n as u32).collect(),
        targets: ids[1..].into(),
        weights: vec![1.0 / n as f32; n].into(),
        loss_scale: 1.0,
    }
}

/// Dynamic NTK scaling depends on the longest sequence of a call, so packing changes it.
const FIXTURES: [(&str, bool); 10] = [
    ("gqa_f32", true),
    ("tied_bf16", true),
    ("mha_bias", true),
    ("head_dim_explicit", true),
    ("rope_linear_old", true),
    ("rope_dynamic", false),
    ("rope_llama3", true),
    ("rope_llama3_old", true),
    ("rope_yarn", true),
    ("sharded", true),
];

#[test]
fn logits_match_transformers() {
    for (name, packs) in FIXTURES {
        let reference = Reference::open(name);
        let model = Llama::open(&fixture(name), BaseStorage::Mapped).unwrap();
        let (long, short) = (reference.u32s("input_ids"), reference.u32s("short_input_ids"));
        let (want, want_short) = (reference.f32s("logits"), reference.f32s("short_logits"));
        let error = max_error(&logits(&model, &[&long]), &want);
        assert!(error < 1e-4, "{name}: {error}");
        let error = max_error(&logits(&model, &[&short]), &want_short);
        assert!(error < 1e-4, "{name}, short: {error}");
        if packs {
            let both = logits(&model, &[&short, &long]);
            let error = max_error(&both, &[want_short, want].concat());
            assert!(error < 1e-4, "{name}, packed: {error}");
        }
    }
}

#[test]
fn gradients_match_transformers() {
    for (name, _) in FIXTURES {
        for checkpoint in [false, true] {
            let reference = Reference::open(name);
            let model = Llama::open(&fixture(name), BaseStorage::Trainable).unwrap();
            let ids = reference.u32s("input_ids");
            let pass = Pass { checkpoint, ..Pass::default() };
            let hidden = model.hidden(&Sequences::pack([&ids[..]]), &pass).unwrap();
            let (loss, nll) = model.loss(&hidden, &next_token_labels(&ids)).unwrap();
            assert!((loss.value().item().unwrap() - reference.f32s("loss")[0]).abs() < 1e-5, "{name}");
            assert_eq!(nll.numel(), ids.len() - 1);
            loss.backward().unwrap();
            for p in model.params() {
                let grad = p.grad().unwrap_or_else(|| panic!("{name}: no gradient for {}", p.name()));
                let grad = grad.to_vec_f32().unwrap();
                let norm = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
                let want = f64::from(reference.f32s(&format!("grad_norm/{}", p.name()))[0]);
                assert!((norm - want).abs() < 1e-4 * (1e-2 + want), "{name}: {}: {norm} {want}", p.name());
                if reference.0.get(&format!("grad/{}", p.name())).is_some() {
                    let whole = reference.f32s(&format!("grad/{}", p.name()));
                    let error = max_error(&grad, &whole);
                    assert!(error < 1e-5, "{name}: {}: {error}", p.name());
                }
            }
        }
    }
}

#[test]
fn nf4_bases_match_bitsandbytes() {
    let reference = Reference::open("gqa_f32");
    let ids = reference.u32s("input_ids");
    for (double_quantization, want) in [(false, "nf4_logits"), (true, "nf4_double_quant_logits")] {
        let model = Llama::open(&fixture("gqa_f32"), BaseStorage::Nf4 { double_quantization }).unwrap();
        let error = max_error(&logits(&model, &[&ids]), &reference.f32s(want));
        assert!(error < 1e-4, "{want}: {error}");
    }
}

#[test]
fn weights_stay_mapped() {
    let model = Llama::open(&fixture("tied_bf16"), BaseStorage::Mapped).unwrap();
    assert!(model.projections().all(|p| p.weight.tensor().is_mapped()));
    assert!(model.params().is_empty());
}

#[test]
fn adapters_round_trip_and_start_as_the_base() {
    let reference = Reference::open("gqa_f32");
    let ids = reference.u32s("input_ids");
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.0,
        targets: Targets::Kinds(vec!["q_proj".into(), "down_proj".into()]),
        rslora: true,
        ..LoraConfig::default()
    };
    let mut model = Llama::open(&fixture("gqa_f32"), BaseStorage::Mapped).unwrap();
    model.attach_lora(&config, 3).unwrap();
    assert!(max_error(&logits(&model, &[&ids]), &reference.f32s("logits")) < 1e-4, "B starts at zero");
    for p in model.params().iter().filter(|p| p.name().contains("lora_B")) {
        let n = p.value().numel();
        let values = (0..n).map(|i| (i as f32 * 0.7).sin() * 0.1).collect();
        p.set(Tensor::from_vec::<f32>(values, p.value().shape()).unwrap()).unwrap();
    }
    let trained = logits(&model, &[&ids]);
    assert!(max_error(&trained, &reference.f32s("logits")) > 1e-3);
    let dir = tempfile::tempdir().unwrap();
    model.save_lora(dir.path(), &config, "base").unwrap();
    let mut again = Llama::open(&fixture("gqa_f32"), BaseStorage::Mapped).unwrap();
    assert_eq!(again.load_lora(dir.path()).unwrap(), config);
    assert_eq!(logits(&again, &[&ids]), trained);

    let mut other = Llama::open(&fixture("head_dim_explicit"), BaseStorage::Mapped).unwrap();
    let text = other.load_lora(dir.path()).unwrap_err().to_string();
    assert!(text.contains("lora_"), "{text}");
    let wrong = LoraConfig { targets: Targets::Kinds(vec!["c_attn".into()]), ..config };
    assert!(model.attach_lora(&wrong, 3).unwrap_err().to_string().contains("q_proj"));
}
