//! LoRA+, modules trained in full beside an adapter, freeze tuning and NEFTune, against PEFT and PyTorch
//! (`tests/reference/tiny_methods.py`) and against what must hold of them.

use super::super::prepare;
use super::*;
use crate::config::{FinetuningType, TrainConfig};
use medley_autograd::no_grad;
use medley_model::{Freeze, Pass, Placement, Sequences, TrainedWeights};
use medley_tensor::DType;

fn reference(run: &str) -> Reference {
    Reference(Safetensors::open(fixture("methods").join(run).join("reference.safetensors")).unwrap())
}

fn config(edit: impl Fn(&mut TrainConfig)) -> TrainConfig {
    let mut config = TrainConfig::default();
    config.train.learning_rate = LEARNING_RATE;
    edit(&mut config);
    config
}

/// Five clipped steps: losses, norms, and how far each parameter has moved, against the reference.
fn five_steps(reference: &Reference, model: &Llama, config: &TrainConfig, name: impl Fn(&str) -> String) {
    let start: Vec<Vec<f32>> = model.params().iter().map(|p| p.value().to_vec_f32().unwrap()).collect();
    let mut optimizer = prepare::optimizer(config, model).unwrap();
    let (mut losses, mut norms) = (vec![], vec![]);
    for step in 0..5 {
        let (loss, norm) = update(model, &mut optimizer, &reference.step(step), step as u64);
        losses.push(loss as f32);
        norms.push(norm as f32);
    }
    reference.assert_close("losses", &losses, 1e-5);
    reference.assert_close("grad_norms", &norms, 4e-5);
    let names = reference.0.names().filter(|n| n.starts_with("final_norm/")).count();
    assert_eq!(names, start.len());
    for (p, start) in model.params().iter().zip(&start) {
        let moved = distance_of(&p.value().to_vec_f32().unwrap(), start);
        let key = format!("final_norm/{}", name(p.name()));
        let want = reference.f32s(&key)[0];
        assert!((moved - want).abs() < 2e-4 * want, "{key}: {moved} for {want}");
    }
}

fn distance_of(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt() as f32
}

fn logits(model: &Llama, ids: &[u32]) -> Vec<f32> {
    no_grad(|| {
        let hidden = model.hidden(&Sequences::pack([ids]), &Pass::default()).unwrap();
        model.logits(&hidden).unwrap().to_vec_f32().unwrap()
    })
}

fn tied(trained: TrainedWeights) -> Llama {
    let folder = fixture("tied_bf16");
    Llama::open_trained(&folder, BaseStorage::Mapped, Placement::default(), trained).unwrap()
}

/// PEFT's adapter with an embedding and norms of its own on a tied model: its logits, then five steps in LoRA+'s groups.
#[test]
fn modules_beside_an_adapter_learn_as_in_peft() {
    let reference = reference("modules_to_save");
    let folder = fixture("methods").join("modules_to_save");
    let mut model = tied(TrainedWeights::default());
    let adapter = model.load_lora(&folder).unwrap();
    assert_eq!(adapter.modules_to_save, ["embed_tokens", "norm"]);
    let ids = reference.u32s("logits_input_ids");
    reference.assert_close("logits", &logits(&model, &ids), 1e-4);

    let peft = |name: &str| match name.strip_prefix("base_model.") {
        Some(_) => name.to_string(),
        None => format!("base_model.model.{name}"),
    };
    let plus = config(|c| c.lora.loraplus_lr_ratio = Some(16.0));
    five_steps(&reference, &model, &plus, peft);

    // Written, read and merged, it is the same model; merging unties it.
    let dir = tempfile::tempdir().unwrap();
    model.save_lora(&dir.path().join("adapter"), &adapter, "base").unwrap();
    let mut again = tied(TrainedWeights::default());
    assert_eq!(
        again.load_lora(&dir.path().join("adapter")).unwrap().modules_to_save,
        adapter.modules_to_save
    );
    assert_eq!(logits(&again, &ids), logits(&model, &ids));
    model.save(&dir.path().join("merged"), DType::F32, usize::MAX).unwrap();
    let merged = Llama::open(&dir.path().join("merged"), BaseStorage::Mapped).unwrap();
    assert!(!merged.config().tie_word_embeddings);
    let (got, expected) = (logits(&merged, &ids), logits(&model, &ids));
    let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    assert!(worst.fold(0.0, f32::max) < 1e-4);
}

/// A fresh adapter with a head and embedding of its own starts as the base, and both are trained.
#[test]
fn modules_trained_in_full_start_as_the_base() {
    let ids = [5u32, 9, 11, 40, 3];
    let base = tied(TrainedWeights::default());
    let names = ["embed_tokens".to_string(), "lm_head".to_string()];
    let mut model = tied(TrainedWeights::modules(base.config(), &names).unwrap());
    let lora = LoraConfig { rank: 2, modules_to_save: names.to_vec(), ..LoraConfig::default() };
    model.attach_lora(&lora, 1).unwrap();
    assert_eq!(logits(&model, &ids), logits(&base, &ids));
    let beside: Vec<String> =
        model.params().iter().map(|p| p.name().to_string()).filter(|n| !n.contains("lora_")).collect();
    assert_eq!(beside, ["model.embed_tokens.weight", "lm_head.weight"]);

    let data = Dataset::from_examples(&["a", "b"], &[(ids.to_vec(), vec![2..5], 0)]);
    run_examples(&model, &data, &[0], 1, &plain(2), Some(QUIET)).unwrap();
    for p in model.params().iter().filter(|p| !p.name().contains("lora_A")) {
        assert!(p.grad().unwrap().to_vec_f32().unwrap().iter().any(|g| *g != 0.0), "{}", p.name());
    }
}

fn frozen(layers: i64, modules: &[&str], extra: &[&str]) -> Llama {
    let owned = |names: &[&str]| names.iter().map(|n| n.to_string()).collect();
    let freeze = Freeze { layers, modules: owned(modules), extra: owned(extra) };
    let folder = fixture("gqa_f32");
    let base = Llama::open(&folder, BaseStorage::Mapped).unwrap();
    let trained = TrainedWeights::freeze(base.config(), &freeze).unwrap();
    Llama::open_trained(&folder, BaseStorage::Mapped, Placement::default(), trained).unwrap()
}

/// The MLP of the last block and the last norm; with and without recomputation.
#[test]
fn freeze_learns_as_in_pytorch() {
    let reference = reference("freeze");
    let model = frozen(1, &["mlp"], &["norm"]);
    five_steps(
        &reference,
        &model,
        &config(|c| c.lora.finetuning_type = FinetuningType::Freeze),
        str::to_string,
    );

    let model = frozen(1, &["mlp"], &["norm"]);
    let (data, weighing) = (reference.step(0), plain(2));
    let kept = gradient(&model, &data, &all(&data), 2, &weighing, QUIET);
    let again = gradient(&model, &data, &all(&data), 2, &weighing, Training { checkpoint: true, ..QUIET });
    assert!(again == kept);
}

/// Below the lowest trained weight nothing is recorded, whether activations are recomputed or not.
#[test]
fn the_backward_pass_ends_at_the_lowest_trained_block() {
    let ids: Vec<u32> = (3..40).collect();
    for checkpoint in [false, true] {
        let pass = Pass { checkpoint, ..Pass::default() };
        let recorded =
            |model: &Llama| model.hidden(&Sequences::pack([&ids[..]]), &pass).unwrap().requires_grad();
        assert!(recorded(&frozen(1, &["all"], &[])) && recorded(&frozen(-1, &["all"], &[])));
        assert!(!recorded(&frozen(0, &["all"], &["lm_head"])), "nothing below the head is trained");
    }
}

/// A step's noise does not depend on its cut into micro-batches; it changes from step to step and with the seed, and
/// evaluation has none.
#[test]
fn noise_belongs_to_the_step_and_its_sequences() {
    let (model, data) = (base(BaseStorage::Trainable), ragged());
    let indices: Vec<u32> = vec![3, 0, 4, 6, 2, 7, 5, 1];
    let weighing = weighed(LossReduction::TaskMean, &ALPHA);
    let noisy = Training { neftune_alpha: Some(5.0), ..QUIET };
    let run = |micro_batch, train| gradient(&model, &data, &indices, micro_batch, &weighing, train);
    let whole = run(8, noisy);
    for micro_batch in [1, 3, 4] {
        let (loss, grad) = run(micro_batch, noisy);
        assert!((loss.loss - whole.0.loss).abs() < 1e-6 * whole.0.loss, "{micro_batch} at a time");
        assert!(distance(&grad, &whole.1) < 1e-6, "{micro_batch} at a time");
    }
    assert!(run(8, noisy) == whole && run(8, Training { checkpoint: true, ..noisy }) == whole);
    let quiet = run(8, QUIET);
    for other in [Training { step: 1, ..noisy }, Training { seed: 2, ..noisy }, QUIET] {
        assert!((run(8, other).0.loss - whole.0.loss).abs() > 1e-5 * whole.0.loss, "{other:?}");
    }
    assert!(run(8, Training { neftune_alpha: Some(0.0), ..noisy }) == quiet);
    let measured = evaluate(&model, &data, 3, &weighing).unwrap().loss;
    let without = run_examples(&model, &data, &all(&data), 3, &weighing, None).unwrap().loss;
    assert!((measured - without).abs() < 1e-6 * without);
}

/// Every optimizer lowers the loss of a batch, by the options that choose it.
#[test]
fn every_optimizer_learns() {
    use crate::config::Optimizer::{Adafactor, Adamw8bit, AdamwTorch, Lion, Lion8bit};
    let data = Reference::open("lora_qv").step(0);
    for optim in [AdamwTorch, Adamw8bit, Lion, Lion8bit, Adafactor] {
        let model = base(BaseStorage::Trainable);
        let mut optimizer = prepare::optimizer(&config(|c| c.train.optim = optim), &model).unwrap();
        let losses: Vec<f64> = (0..6).map(|step| update(&model, &mut optimizer, &data, step).0).collect();
        assert!(losses[5] < losses[0] - 0.1, "{optim:?}: {losses:?}");
    }
}
