//! Adapters against PEFT's, and the starts of PiSSA.

use super::*;
use crate::Llama;
use crate::llama::Sequences;
use crate::projection::Pass;
use crate::weights::BaseStorage;
use medley_autograd::Var;
use medley_kernels::ops::lora_linear::Dropout;
use medley_tensor::Op;
use medley_tensor::io::Safetensors;
use std::path::{Path, PathBuf};

const IDS: [u32; 9] = [3, 17, 40, 5, 5, 62, 90, 11, 8];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama").join(name)
}

fn base(storage: BaseStorage) -> Llama {
    Llama::open(&fixture("gqa_f32"), storage).unwrap()
}

fn logits_of(model: &Llama, ids: &[u32]) -> Vec<f32> {
    let hidden =
        medley_autograd::no_grad(|| model.hidden(&Sequences::pack([ids]), &Pass::default())).unwrap();
    model.logits(&hidden).unwrap().to_vec_f32().unwrap()
}

fn logits(model: &Llama) -> Vec<f32> {
    logits_of(model, &IDS)
}

fn max_error(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (g - w).abs()).fold(0.0, f32::max)
}

/// The same settings with the layers' kinds spelt out, in order.
fn sorted(mut config: LoraConfig) -> LoraConfig {
    let mut kinds = match config.targets {
        Targets::All => KINDS.map(String::from).to_vec(),
        Targets::Kinds(kinds) => kinds,
    };
    kinds.sort();
    config.targets = Targets::Kinds(kinds);
    config
}

/// Moves every trained weight by a tenth of its size or so, as training would.
fn disturb(model: &Llama) {
    for (i, p) in model.params().iter().enumerate() {
        let mut rng = Philox::new(5, i as u64);
        let moved = p
            .value()
            .to_vec_f32()
            .unwrap()
            .iter()
            .map(|v| v * (1.0 + 0.2 * rng.normal_f32()) + 0.02 * rng.normal_f32())
            .collect();
        p.set(Tensor::from_vec::<f32>(moved, p.value().shape()).unwrap()).unwrap();
    }
}

/// DoRA with a rank and an alpha by layer, and rsLoRA on one block: logits, merged logits, and the folder written
/// again.
#[test]
fn adapters_of_peft_give_its_logits() {
    for run in ["dora_q_down", "lora_patterns"] {
        let folder = fixture("training").join(run);
        let reference = Safetensors::open(folder.join("training.safetensors")).unwrap();
        let read = |name: &str| reference.info(name).unwrap().data();
        let ids: Vec<u32> =
            read("logits_input_ids").chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        let want: Vec<f32> = read("logits").chunks_exact(4).map(bytemuck::pod_read_unaligned).collect();
        let mut model = base(BaseStorage::Mapped);
        let config = model.load_lora(&folder).unwrap();
        assert!(max_error(&logits_of(&model, &ids), &want) < 3e-5, "{run}");

        let work = tempfile::tempdir().unwrap();
        let (again, merged) = (work.path().join("again"), work.path().join("merged"));
        model.save_lora(&again, &config, "base").unwrap();
        let mut reread = base(BaseStorage::Mapped);
        assert_eq!(sorted(reread.load_lora(&again).unwrap()), sorted(config.clone()), "{run}");
        assert_eq!(logits_of(&reread, &ids), logits_of(&model, &ids), "{run}");
        model.save(&merged, DType::F32, usize::MAX).unwrap();
        let merged = Llama::open(&merged, BaseStorage::Mapped).unwrap();
        assert!(max_error(&logits_of(&merged, &ids), &want) < 3e-5, "{run}, merged");
    }
}

#[test]
fn patterns_match_as_peft_matches_them() {
    let config = LoraConfig {
        rank: 8,
        alpha: 16.0,
        layers: Some(vec![1, 11]),
        rank_pattern: [("^q_proj", 1), ("layers.1.self_attn.q_proj", 2), ("q_proj", 4)]
            .map(|(k, v)| (k.into(), v))
            .into(),
        alpha_pattern: vec![("proj".into(), 1.0), ("v_proj".into(), 4.0)],
        ..LoraConfig::default()
    };
    assert_eq!(config.rank_of("model.layers.1.self_attn.q_proj"), 2);
    assert_eq!(config.rank_of("model.layers.11.self_attn.q_proj"), 4);
    assert_eq!(config.rank_of("model.layers.1.self_attn.k_proj"), 8);
    assert_eq!(config.scale_of("model.layers.1.self_attn.v_proj"), 0.5);
    assert_eq!(config.scale_of("model.layers.1.self_attn.k_proj"), 2.0);
    assert!(
        config.in_layers("model.layers.11.mlp.up_proj") && !config.in_layers("model.layers.2.mlp.up_proj")
    );
}

#[test]
fn what_an_adapter_folder_says_wrongly_is_named() {
    let folder = fixture("training/lora_patterns");
    let text = std::fs::read_to_string(folder.join("adapter_config.json")).unwrap();
    let work = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join("adapter_model.safetensors"), work.path().join("adapter_model.safetensors"))
        .unwrap();
    for (from, to, named) in [
        ("\"gate_proj\": 3", "\".*gate_proj\": 3", "regular expression"),
        ("\"gate_proj\": 3", "\"gate_proj\": 2", "has rank 3"),
        ("\"gate_proj\": 3", "\"gate_proj\": 0", "positive ranks"),
        ("\"alpha_pattern\": {", "\"alpha_pattern\": {\"x\": true,", "\"alpha_pattern\""),
        ("[\n    1\n  ]", "0", "layers_to_transform is [0]"),
        ("[\n    1\n  ]", "\"all\"", "\"layers_to_transform\" is \"all\""),
        ("\"use_dora\": false", "\"use_dora\": true", "lora_magnitude_vector"),
        ("\"use_dora\": false", "\"use_dora\": 1", "\"use_dora\" is 1; expected true or false"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(work.path().join("adapter_config.json"), text.replacen(from, to, 1)).unwrap();
        let problem = base(BaseStorage::Mapped).load_lora(work.path()).unwrap_err().to_string();
        assert!(problem.contains(named) && problem.contains("adapter_"), "{to}: {problem}");
    }
}

#[test]
fn dora_starts_as_the_base() {
    for storage in [BaseStorage::Mapped, BaseStorage::Nf4 { double_quantization: true }] {
        let mut model = base(storage);
        let want = logits(&model);
        model.attach_lora(&LoraConfig { dora: true, ..LoraConfig::default() }, 3).unwrap();
        assert!(max_error(&logits(&model), &want) < 1e-5);
        let magnitudes =
            model.params().iter().filter(|p| p.name().ends_with("lora_magnitude_vector")).count();
        assert_eq!(magnitudes, 14);
    }
    let mut trained = base(BaseStorage::Trainable);
    let problem = trained.attach_lora(&LoraConfig { dora: true, ..LoraConfig::default() }, 3).unwrap_err();
    assert!(problem.to_string().contains("frozen"), "{problem}");
}

/// The norms follow A and B, and only those.
#[test]
fn norms_are_made_anew_when_the_adapter_moves() {
    let mut model = base(BaseStorage::Mapped);
    model.attach_lora(&LoraConfig { dora: true, ..LoraConfig::default() }, 3).unwrap();
    logits(&model);
    disturb(&model);
    let kept = logits(&model);
    let work = tempfile::tempdir().unwrap();
    model.save_lora(work.path(), &LoraConfig { dora: true, ..LoraConfig::default() }, "base").unwrap();
    let mut fresh = base(BaseStorage::Mapped);
    fresh.load_lora(work.path()).unwrap();
    assert_eq!(logits(&fresh), kept);
}

/// `x·Wᵀ + (g − 1)∘(x'·Wᵀ) + g∘(s·x'·Aᵀ·Bᵀ)`, PEFT's words with dropout, in f64.
#[test]
fn dropout_in_dora_is_pefts() {
    let mut model = base(BaseStorage::Mapped);
    let config = LoraConfig { rank: 3, alpha: 6.0, dropout: 0.4, dora: true, ..LoraConfig::default() };
    model.attach_lora(&config, 3).unwrap();
    disturb(&model);
    let p = model.projections().nth(6).unwrap();
    let ((out, input), t) = (p.size(), 5);
    let mut rng = Philox::new(1, 1);
    let x = Tensor::from_vec((0..t * input).map(|_| rng.normal_f32()).collect::<Vec<f32>>(), &[t, input])
        .unwrap();
    let mask = Dropout { p: 0.4, seed: 9, stream: 4 << 24 | p.index };
    let dropped = mask.forward(&[&x], &[false]).unwrap().0.remove(0);
    let pass = Pass { dropout: Some((9, 4)), ..Pass::default() };
    let got = p.forward(&Var::from(x.clone()), &pass).unwrap().value().to_vec_f32().unwrap();

    let wide = |t: &Tensor| t.to_vec_f32().unwrap().into_iter().map(f64::from).collect::<Vec<f64>>();
    let lora = p.lora.as_ref().unwrap();
    let (w, a, b) = (wide(&p.weight.tensor()), wide(&lora.a.value()), wide(&lora.b.value()));
    let m = wide(&lora.magnitude.as_ref().unwrap().param().value());
    let (x, dropped) = (wide(&x), wide(&dropped));
    assert!(x != dropped);
    for row in 0..t {
        for n in 0..out {
            let update = |k: usize| 2.0 * (0..3).map(|i| b[n * 3 + i] * a[i * input + k]).sum::<f64>();
            let sum = |f: &dyn Fn(usize) -> f64| (0..input).map(f).sum::<f64>();
            let norm = sum(&|k| (w[n * input + k] + update(k)).powi(2)).sqrt();
            let g = m[n] / norm;
            let plain = sum(&|k| x[row * input + k] * w[n * input + k]);
            let base = sum(&|k| dropped[row * input + k] * w[n * input + k]);
            let low = sum(&|k| dropped[row * input + k] * update(k));
            let want = plain + (g - 1.0) * base + g * low;
            let got = f64::from(got[row * out + n]);
            assert!((got - want).abs() < 2e-5 * (1.0 + want.abs()), "{row}, {n}: {got} for {want}");
        }
    }
}

fn weight(name: &str) -> (Vec<f32>, [usize; 2]) {
    let model = base(BaseStorage::Mapped);
    let p = model.projections().find(|p| p.path == name).unwrap();
    let (out, input) = p.size();
    (p.weight.tensor().to_vec_f32().unwrap(), [out, input])
}

/// Values by `numpy.linalg.svd` in f64 of the fixture's weights, one square, one wide, one tall.
const SINGULAR_VALUES: [(&str, [f32; 4]); 3] = [
    ("model.layers.0.self_attn.k_proj", [2.332_375, 2.104_695_3, 1.982_207_4, 1.941_168_7]),
    ("model.layers.0.mlp.down_proj", [2.879_839, 2.709_486, 2.643_974, 2.608_096_6]),
    ("model.layers.0.mlp.up_proj", [2.838_777_3, 2.738_710_2, 2.602_929_6, 2.456_904]),
];

#[test]
fn singular_values_are_numpys() {
    for (name, want) in SINGULAR_VALUES {
        let (w, size) = weight(name);
        let exact = svd::exact(&w, size, 4).unwrap();
        assert!(max_error(&exact.s, &want) < 2e-6, "{name}: {:?}", exact.s);
        // The spectrum of random weights is flat: the hardest case for sampling.
        let sampled = svd::randomized(&w, size, 4, 16, Philox::new(1, 2)).unwrap();
        assert!(max_error(&sampled.s, &want) < 1e-3, "{name}: {:?}", sampled.s);
        for (rows, width) in
            [(&sampled.ut, size[0]), (&sampled.vt, size[1]), (&exact.ut, size[0]), (&exact.vt, size[1])]
        {
            for (i, a) in rows.chunks_exact(width).enumerate() {
                for (j, b) in rows.chunks_exact(width).enumerate() {
                    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    assert!((dot - f64::from(u8::from(i == j))).abs() < 1e-5, "{name}: {i}·{j} is {dot}");
                }
            }
        }
    }
}

/// With every direction the factors are the weight again, and a matrix of low rank needs no more than that.
#[test]
fn factors_rebuild_the_weight() {
    let rebuilt = |parts: &svd::Svd, scale: f32| {
        let [a, b] = parts.factors(scale).unwrap();
        let (r, input) = (a.shape()[0], a.shape()[1]);
        let (a, b) = (a.to_vec_f32().unwrap(), b.to_vec_f32().unwrap());
        b.chunks_exact(r)
            .flat_map(|b| {
                (0..input)
                    .map(|k| scale * (0..r).map(|i| b[i] * a[i * input + k]).sum::<f32>())
                    .collect::<Vec<f32>>()
            })
            .collect::<Vec<f32>>()
    };
    for (name, _) in SINGULAR_VALUES {
        let (w, size) = weight(name);
        let full = size[0].min(size[1]);
        assert!(max_error(&rebuilt(&svd::exact(&w, size, full).unwrap(), 2.0), &w) < 5e-6, "{name}");
        let sampled = svd::randomized(&w, size, full, 0, Philox::new(1, 2)).unwrap();
        assert!(max_error(&rebuilt(&sampled, 0.5), &w) < 5e-6, "{name}");
    }
    // Rank one, with rows of zeros: dependent samples must not become noise.
    let w: Vec<f32> = (0..20 * 12)
        .map(|at| if at / 12 == 3 { 0.0 } else { (at / 12) as f32 * ((at % 12) as f32 - 5.0) })
        .collect();
    for parts in [svd::randomized(&w, [20, 12], 3, 2, Philox::new(1, 2)), svd::exact(&w, [20, 12], 3)] {
        let parts = parts.unwrap();
        assert!(parts.s[1] < 1e-4 * parts.s[0], "{:?}", parts.s);
        assert!(max_error(&rebuilt(&parts, 1.0), &w) < 1e-4);
    }
}

fn pissa(config: &LoraConfig, storage: BaseStorage, convert: bool) -> Llama {
    let mut model = base(storage);
    let how = Pissa { iterations: Some(4), convert };
    model.attach_pissa(config, how, 7, &fixture("gqa_f32"), storage).unwrap();
    model
}

#[test]
fn pissa_starts_as_the_base_and_takes_its_largest_directions() {
    let plain = base(BaseStorage::Mapped);
    for config in [
        LoraConfig { rank: 4, ..LoraConfig::default() },
        LoraConfig { rank: 6, alpha: 3.0, rslora: true, dora: true, ..LoraConfig::default() },
    ] {
        let model = pissa(&config, BaseStorage::Mapped, true);
        assert!(max_error(&logits(&model), &logits(&plain)) < 1e-4);
        for (p, original) in model.projections().zip(plain.projections()) {
            let (merged, w) = (p.merged().unwrap(), original.weight.tensor().to_vec_f32().unwrap());
            assert!(max_error(&merged, &w) < 2e-6, "{}", p.path);
            let norm = |w: &[f32]| w.iter().map(|v| v * v).sum::<f32>().sqrt();
            let residual = p.weight.tensor().to_vec_f32().unwrap();
            assert!(norm(&residual) < 0.97 * norm(&w), "{}: nothing was taken from the base", p.path);
        }
    }
}

/// A 4-bit base keeps the residual in 4 bits, decomposed from the weights in full precision.
#[test]
fn pissa_on_a_4_bit_base_quantises_the_residual() {
    let storage = BaseStorage::Nf4 { double_quantization: false };
    let (model, plain, quantised) =
        (pissa(&LoraConfig::default(), storage, false), base(BaseStorage::Mapped), base(storage));
    let mut errors = [0.0f64; 2];
    for ((p, q), original) in model.projections().zip(quantised.projections()).zip(plain.projections()) {
        assert_eq!(p.weight.tensor().dtype(), DType::Nf4);
        let w = original.weight.tensor().to_vec_f32().unwrap();
        for (error, got) in errors.iter_mut().zip([p.merged().unwrap(), q.merged().unwrap()]) {
            *error += got.iter().zip(&w).map(|(g, w)| f64::from(g - w).powi(2)).sum::<f64>();
        }
    }
    // The paper's second claim (section 4): less is left to quantise, so less is lost.
    assert!(errors[0] > 0.0 && errors[0] < errors[1], "{errors:?}");
}

#[test]
fn a_converted_pissa_adapter_belongs_on_the_original_base() {
    for config in [
        LoraConfig {
            rank: 3,
            alpha: 5.0,
            targets: Targets::Kinds(vec!["q_proj".into(), "up_proj".into()]),
            ..LoraConfig::default()
        },
        LoraConfig { rank: 4, alpha: 2.0, rslora: true, dora: true, ..LoraConfig::default() },
    ] {
        let model = pissa(&config, BaseStorage::Mapped, true);
        disturb(&model);
        let trained = logits(&model);
        let work = tempfile::tempdir().unwrap();
        model.save_lora(work.path(), &config, "base").unwrap();
        let mut converted = base(BaseStorage::Mapped);
        assert!(max_error(&logits(&converted), &trained) > 1e-2);
        let loaded = converted.load_lora(work.path()).unwrap();
        assert_eq!((loaded.rank, loaded.dora), (2 * config.rank, config.dora));
        assert!((loaded.scale_of("x") / config.scale_of("x") - 1.0).abs() < 1e-6);
        let error = max_error(&logits(&converted), &trained);
        assert!(error < 1e-4, "{error}");

        // As trained, it belongs on the residual.
        let model = pissa(&config, BaseStorage::Mapped, false);
        disturb(&model);
        let (adapter, residual) = (work.path().join("adapter"), work.path().join("residual"));
        model.save_lora(&adapter, &config, "base").unwrap();
        model.save_base(&residual, usize::MAX).unwrap();
        let mut again = Llama::open(&residual, BaseStorage::Mapped).unwrap();
        assert_eq!(sorted(again.load_lora(&adapter).unwrap()), sorted(config.clone()));
        assert_eq!(logits(&again), logits(&model));
    }
}

#[test]
fn pissa_depends_on_the_seed_alone() {
    let config = LoraConfig { rank: 4, ..LoraConfig::default() };
    let bits = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut model = base(BaseStorage::Mapped);
            let how = Pissa { iterations: Some(2), convert: false };
            model.attach_pissa(&config, how, seed, &fixture("gqa_f32"), BaseStorage::Mapped).unwrap();
            let values = model.projections().flat_map(|p| p.merged().unwrap()).map(f32::to_bits);
            let params =
                model.params().into_iter().flat_map(|p| p.value().to_vec_f32().unwrap()).map(f32::to_bits);
            values.chain(params).collect::<Vec<u32>>()
        })
    };
    assert!(bits(1, 7) == bits(3, 7));
    assert!(bits(1, 7) != bits(1, 8));
}

#[test]
fn what_pissa_cannot_do_is_named() {
    let problem = |config: LoraConfig, storage| {
        let mut model = base(storage);
        let how = Pissa { iterations: Some(2), convert: false };
        model.attach_pissa(&config, how, 7, &fixture("gqa_f32"), storage).unwrap_err().to_string()
    };
    let text = problem(LoraConfig { rank: 25, ..LoraConfig::default() }, BaseStorage::Mapped);
    assert!(text.contains("k_proj has 24 singular values"), "{text}");
    let text = problem(LoraConfig::default(), BaseStorage::Trainable);
    assert!(text.contains("frozen"), "{text}");
    let work = tempfile::tempdir().unwrap();
    let text = base(BaseStorage::Mapped)
        .attach_pissa(
            &LoraConfig::default(),
            Pissa { iterations: None, convert: false },
            7,
            work.path(),
            BaseStorage::Mapped,
        )
        .unwrap_err()
        .to_string();
    assert!(text.contains(work.path().to_str().unwrap()), "{text}");
}
