//! Steps against PyTorch and PEFT, and the properties a step must have whatever the model.
//!
//! Reference values are those of `tests/reference/tiny_training.py`; its README lists the tensors.

// One labelled span an example is the usual case here.
#![allow(clippy::single_range_in_vec_init)]

mod by_task;
mod methods;

use super::*;
use crate::config::LossReduction;
use crate::data::Dataset;
use medley_autograd::optim::{AdamWConfig, OptimizerConfig, StepSettings};
use medley_model::BaseStorage;
use medley_model::adapter::Targets;
use medley_tensor::Tensor;
use medley_tensor::io::Safetensors;
use medley_tensor::rng::Philox;
use std::ops::Range;

const LEARNING_RATE: f64 = 1e-3;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/llama").join(name)
}

fn base(storage: BaseStorage) -> Llama {
    Llama::open(&fixture("gqa_f32"), storage).unwrap()
}

/// The base with the adapter that a reference run starts from.
fn adapted(run: &str, storage: BaseStorage) -> Llama {
    let mut model = base(storage);
    model.load_lora(&fixture("training").join(run)).unwrap();
    model
}

/// A fresh adapter on q and v, its B filled too: with B zero, A would have no gradient.
fn fresh_adapter(dropout: f64) -> Llama {
    let mut model = base(BaseStorage::Mapped);
    let targets = Targets::Kinds(vec!["q_proj".into(), "v_proj".into()]);
    let config = LoraConfig { rank: 4, alpha: 8.0, dropout, targets, ..LoraConfig::default() };
    model.attach_lora(&config, 7).unwrap();
    for (i, param) in model.params().iter().enumerate().filter(|(_, p)| p.name().contains("lora_B")) {
        let mut rng = Philox::new(8, i as u64);
        let shape = param.value().shape().to_vec();
        let b: Vec<f32> = (0..shape[0] * shape[1]).map(|_| 0.1 * rng.normal_f32()).collect();
        param.set(Tensor::from_vec(b, &shape).unwrap()).unwrap();
    }
    model
}

struct Reference(Safetensors);

impl Reference {
    fn open(run: &str) -> Self {
        Reference(Safetensors::open(fixture("training").join(run).join("training.safetensors")).unwrap())
    }

    fn f32s(&self, name: &str) -> Vec<f32> {
        self.0.info(name).unwrap().data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
    }

    fn u32s(&self, name: &str) -> Vec<u32> {
        self.0.info(name).unwrap().data().chunks_exact(4).map(bytemuck::pod_read_unaligned).collect()
    }

    /// The three sequences of a step; their tasks are those of the weighted losses.
    fn step(&self, step: usize) -> Dataset {
        let ids = self.u32s(&format!("step{step}/input_ids"));
        let labelled = self.0.info(&format!("step{step}/labelled")).unwrap().data().to_vec();
        let ends = self.u32s(&format!("step{step}/cu_seqlens"));
        let examples: Vec<_> = ends
            .windows(2)
            .zip([0, 1, 0])
            .map(|(w, task)| {
                let (start, end) = (w[0] as usize, w[1] as usize);
                let first = labelled[start..end].iter().position(|l| *l == 1).unwrap() as u32;
                assert!(labelled[start + first as usize..end].iter().all(|l| *l == 1));
                (ids[start..end].to_vec(), vec![first..(end - start) as u32], task)
            })
            .collect();
        Dataset::from_examples(&["first", "second"], &examples)
    }

    fn assert_close(&self, name: &str, got: &[f32], tolerance: f32) {
        let want = self.f32s(name);
        assert_eq!(got.len(), want.len(), "{name}");
        let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= tolerance, "{name}: off by {worst:e}");
    }
}

fn plain(tasks: usize) -> Weighing {
    Weighing { alpha: vec![1.0; tasks], reduction: LossReduction::TokenMean }
}

fn training(step: u64) -> Option<Training> {
    Some(Training {
        seed: 42,
        step,
        first_micro_batch: step,
        checkpoint: false,
        loss_scale: 1.0,
        neftune_alpha: None,
    })
}

fn all(data: &Dataset) -> Vec<u32> {
    (0..data.len() as u32).collect()
}

fn optimizer(model: &Llama, weight_decay: f64) -> Optimizer {
    let config = AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay, eight_bit: false };
    Optimizer::new(OptimizerConfig::AdamW(config), model.params()).unwrap()
}

/// One update on all of `data`: (loss, gradient norm before clipping).
fn update(model: &Llama, optimizer: &mut Optimizer, data: &Dataset, step: u64) -> (f64, f64) {
    let weighing = plain(data.tasks().len());
    let loss = run_examples(model, data, &all(data), 2, &weighing, training(step)).unwrap().loss;
    let settings = StepSettings { learning_rate: LEARNING_RATE, max_grad_norm: 1.0, loss_scale: 1.0 };
    let report = optimizer.step(&settings).unwrap();
    (loss, report.grad_norm)
}

/// Five clipped AdamW steps against the reference, with and without weight decay.
///
/// PyTorch's own float32 differs from float64 by up to 1e-6 in a loss, 4e-6 in a norm and 3e-7 in a
/// weight, and so do we from it; the tolerances are five to ten times that. Decay moves weights by 4e-4
/// and more.
fn five_steps_agree(run: &str, open: impl Fn() -> Llama) {
    let reference = Reference::open(run);
    for (label, weight_decay) in [("no_decay", 0.0), ("decay", 0.1)] {
        let model = open();
        let mut adamw = optimizer(&model, weight_decay);
        let (mut losses, mut norms) = (vec![], vec![]);
        for step in 0..5 {
            let (loss, norm) = update(&model, &mut adamw, &reference.step(step), step as u64);
            losses.push(loss as f32);
            norms.push(norm as f32);
        }
        reference.assert_close(&format!("{label}/losses"), &losses, 5e-6);
        reference.assert_close(&format!("{label}/grad_norms"), &norms, 2e-5);
        let prefix = format!("{label}/final/");
        let finals: Vec<&str> = reference.0.names().filter_map(|n| n.strip_prefix(&prefix)).collect();
        let params = model.params();
        assert!(finals.len() == params.len() || (run == "full" && finals.len() == 5), "{finals:?}");
        for name in finals {
            let param = params.iter().find(|p| p.name() == name).unwrap();
            reference.assert_close(&format!("{prefix}{name}"), &param.value().to_vec_f32().unwrap(), 3e-6);
        }
    }
}

#[test]
fn lora_on_q_and_v_takes_the_steps_of_peft() {
    five_steps_agree("lora_qv", || adapted("lora_qv", BaseStorage::Mapped));
}

#[test]
fn rank_stabilised_lora_on_all_layers_takes_the_steps_of_peft() {
    five_steps_agree("lora_all_rslora", || adapted("lora_all_rslora", BaseStorage::Mapped));
}

#[test]
fn dora_with_ranks_by_layer_takes_the_steps_of_peft() {
    five_steps_agree("dora_q_down", || adapted("dora_q_down", BaseStorage::Mapped));
}

#[test]
fn lora_on_one_block_takes_the_steps_of_peft() {
    five_steps_agree("lora_patterns", || adapted("lora_patterns", BaseStorage::Mapped));
}

#[test]
fn full_fine_tuning_takes_the_steps_of_pytorch() {
    five_steps_agree("full", || base(BaseStorage::Trainable));
}

#[test]
fn weighted_losses_and_gradients_are_those_of_pytorch() {
    for run in ["lora_qv", "lora_all_rslora", "dora_q_down", "lora_patterns"] {
        let reference = Reference::open(run);
        let data = reference.step(0);
        assert_eq!(reference.u32s("tasks"), [0, 1, 0]);
        let alpha: Vec<f64> = reference.f32s("task_weights").iter().map(|w| f64::from(*w)).collect();
        for (label, reduction) in
            [("task_mean", LossReduction::TaskMean), ("token_mean", LossReduction::TokenMean)]
        {
            let model = adapted(run, BaseStorage::Mapped);
            let weighing = Weighing { alpha: alpha.clone(), reduction };
            let loss = run_examples(&model, &data, &all(&data), 1, &weighing, training(0)).unwrap();
            reference.assert_close(&format!("{label}/loss"), &[loss.loss as f32], 3e-6);
            for param in model.params() {
                let grad = param.grad().unwrap().to_vec_f32().unwrap();
                let norm = grad.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
                reference.assert_close(&format!("{label}/grad_norm/{}", param.name()), &[norm], 1e-5);
            }
        }
        // The whole gradient of the unweighted loss, element by element.
        let model = adapted(run, BaseStorage::Mapped);
        run_examples(&model, &data, &all(&data), 3, &plain(2), training(0)).unwrap();
        for param in model.params() {
            let grad = param.grad().unwrap().to_vec_f32().unwrap();
            reference.assert_close(&format!("grad/{}", param.name()), &grad, 1e-5);
        }
    }
}

/// Eleven ragged examples of three tasks, some with two labelled spans or none that counts.
fn ragged() -> Dataset {
    let mut rng = Philox::new(3, 0);
    let shapes: [(u32, &[Range<u32>], u16); 11] = [
        (9, &[4..9], 0),
        (21, &[15..21], 1),
        (5, &[1..2, 3..5], 2),
        (2, &[1..2], 0),
        (30, &[6..12, 20..30], 1),
        (13, &[12..13], 2),
        (7, &[0..7], 0),
        (17, &[9..17], 1),
        (4, &[2..4], 2),
        (11, &[5..11], 0),
        (6, &[0..1], 1),
    ];
    let examples: Vec<_> = shapes
        .iter()
        .map(|(length, labelled, task)| {
            let ids = (0..*length).map(|_| 3 + rng.below(93) as u32).collect();
            (ids, labelled.to_vec(), *task)
        })
        .collect();
    Dataset::from_examples(&["qa", "summarization", "classification"], &examples)
}

const ALPHA: [f64; 3] = [1.0, 0.8, 0.3];

fn weighed(reduction: LossReduction, alpha: &[f64]) -> Weighing {
    Weighing { alpha: alpha.to_vec(), reduction }
}

/// The loss of a step and the gradient of every parameter, one after another.
fn gradient(
    model: &Llama,
    data: &Dataset,
    indices: &[u32],
    micro_batch: usize,
    weighing: &Weighing,
    train: Training,
) -> (StepLoss, Vec<f32>) {
    let loss = run_examples(model, data, indices, micro_batch, weighing, Some(train)).unwrap();
    let mut all = vec![];
    for param in model.params() {
        match param.grad() {
            Some(grad) => all.extend(grad.to_vec_f32().unwrap()),
            None => all.extend(vec![0.0; param.value().numel()]),
        }
        param.zero_grad();
    }
    (loss, all)
}

/// ‖a − b‖ / ‖b‖.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b)))
}

const QUIET: Training = Training {
    seed: 1,
    step: 0,
    first_micro_batch: 0,
    checkpoint: false,
    loss_scale: 1.0,
    neftune_alpha: None,
};

#[test]
fn a_step_does_not_depend_on_its_micro_batches() {
    let data = ragged();
    let full: Vec<u32> = vec![3, 0, 4, 6, 2, 7, 5, 1];
    // The last step of an epoch: three examples, one of them without a label that counts.
    let short: Vec<u32> = vec![8, 10, 9];
    for model in [fresh_adapter(0.0), base(BaseStorage::Trainable)] {
        for reduction in [LossReduction::TaskMean, LossReduction::TokenMean] {
            let weighing = weighed(reduction, &ALPHA);
            for (indices, cuts) in [(&full, &[4, 1, 3][..]), (&short, &[2, 1])] {
                let (whole, expected) = gradient(&model, &data, indices, 8, &weighing, QUIET);
                for &micro_batch in cuts {
                    let (loss, grad) = gradient(&model, &data, indices, micro_batch, &weighing, QUIET);
                    let off = (loss.loss - whole.loss).abs() / whole.loss;
                    assert!(off <= 1e-6, "{reduction:?}, {micro_batch} at a time: loss off by {off:e}");
                    let off = distance(&grad, &expected);
                    assert!(off <= 1e-6, "{reduction:?}, {micro_batch} at a time: gradient off by {off:e}");
                    let counts = |l: &StepLoss| (l.labelled.clone(), l.examples.clone(), l.tokens);
                    assert_eq!(counts(&loss), counts(&whole));
                }
            }
        }
    }
}

/// Σ(w·nll)/Σw taken inside a micro-batch of one task is that task's mean, whatever w: at micro-batch 1
/// such weights change nothing. Here they must act at every size, and act as the formula says.
#[test]
fn task_weights_act_at_micro_batch_one() {
    let (model, data) = (fresh_adapter(0.0), ragged());
    let indices: Vec<u32> = vec![3, 0, 4, 6, 2, 7, 5, 1];
    let members = |task: u16| -> Vec<u32> {
        indices.iter().copied().filter(|i| data.get(*i as usize).unwrap().task.0 == task).collect()
    };
    // Each task alone, unweighted: its mean and the gradient of it.
    let parts: Vec<(StepLoss, Vec<f32>)> = (0..3)
        .map(|task| {
            let weighing = weighed(LossReduction::TaskMean, &[1.0; 3]);
            gradient(&model, &data, &members(task), 8, &weighing, QUIET)
        })
        .collect();
    for (reduction, total) in [
        (LossReduction::TaskMean, None),
        (LossReduction::TokenMean, Some(parts.iter().enumerate().map(|(t, p)| p.0.labelled[t]).sum::<u64>())),
    ] {
        // α_i, times n_i/n for the token mean.
        let factors: Vec<f64> = (0..3)
            .map(|t| ALPHA[t] * total.map_or(1.0, |n| parts[t].0.labelled[t] as f64 / n as f64))
            .collect();
        let expected_loss: f64 = factors.iter().zip(&parts).map(|(f, p)| f * p.0.loss).sum();
        let expected: Vec<f32> = (0..parts[0].1.len())
            .map(|i| factors.iter().zip(&parts).map(|(f, p)| f * f64::from(p.1[i])).sum::<f64>() as f32)
            .collect();
        let (loss, grad) = gradient(&model, &data, &indices, 1, &weighed(reduction, &ALPHA), QUIET);
        assert!((loss.loss - expected_loss).abs() / expected_loss < 1e-6, "{} {expected_loss}", loss.loss);
        assert!(distance(&grad, &expected) < 1e-6, "{reduction:?}: {:e}", distance(&grad, &expected));

        let (unweighted, even) = gradient(&model, &data, &indices, 1, &weighed(reduction, &[1.0; 3]), QUIET);
        assert!((unweighted.loss - loss.loss).abs() > 0.1, "{} {}", unweighted.loss, loss.loss);
        assert!(distance(&even, &grad) > 0.05, "{:e}", distance(&even, &grad));
        // Nor is it the mean of per-micro-batch means.
        let means: f64 =
            indices.iter().map(|i| gradient(&model, &data, &[*i], 1, &plain(3), QUIET).0.loss).sum::<f64>()
                / indices.len() as f64;
        assert!((means - loss.loss).abs() > 0.1, "{means} {}", loss.loss);
    }
}

#[test]
fn a_task_of_weight_zero_is_measured_and_not_learned() {
    let (model, data) = (fresh_adapter(0.0), ragged());
    let alone: Vec<u32> = vec![0, 3];
    let mixed: Vec<u32> = vec![0, 1, 3, 4];
    let weighing = weighed(LossReduction::TaskMean, &[1.0, 0.0, 1.0]);
    let (loss, grad) = gradient(&model, &data, &mixed, 2, &weighing, QUIET);
    let (expected_loss, expected) = gradient(&model, &data, &alone, 2, &weighing, QUIET);
    assert!((loss.loss - expected_loss.loss).abs() < 1e-6);
    assert!(distance(&grad, &expected) < 1e-6);
    assert!(loss.task_loss(1).unwrap() > 1.0 && loss.task_loss(2).is_none());
}

#[test]
fn gradient_checkpointing_changes_nothing() {
    let data = ragged();
    let indices = all(&data);
    let weighing = weighed(LossReduction::TaskMean, &ALPHA);
    // With dropout: the second forward must draw the masks of the first.
    for model in [fresh_adapter(0.0), fresh_adapter(0.4), base(BaseStorage::Trainable)] {
        let kept = gradient(&model, &data, &indices, 4, &weighing, QUIET);
        let again = Training { checkpoint: true, ..QUIET };
        let recomputed = gradient(&model, &data, &indices, 4, &weighing, again);
        assert_eq!(recomputed.0, kept.0);
        assert!(recomputed.1 == kept.1, "off by {:e}", distance(&recomputed.1, &kept.1));
    }
}

#[test]
fn one_thread_or_two_give_the_same_bits() {
    // Sequences long enough that kernels share their rows among threads.
    let mut rng = Philox::new(5, 0);
    let mut ids = |n: u32| -> Vec<u32> { (0..n).map(|_| 3 + rng.below(93) as u32).collect() };
    let examples: Vec<_> =
        [300, 64, 170, 411, 5, 220].map(|n| (ids(n), vec![n / 3..n], (n % 3) as u16)).to_vec();
    let data = Dataset::from_examples(&["a", "b", "c"], &examples);
    let run = |threads: usize, full: bool| -> (Vec<u64>, Vec<u32>) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let model = if full { base(BaseStorage::Trainable) } else { fresh_adapter(0.1) };
            let mut adamw = optimizer(&model, 0.01);
            let measured =
                (0..3).flat_map(|step| <[f64; 2]>::from(update(&model, &mut adamw, &data, step * 3)));
            let measured = measured.map(f64::to_bits).collect();
            let weights = model.params().into_iter().flat_map(|p| p.value().to_vec_f32().unwrap());
            (measured, weights.map(f32::to_bits).collect())
        })
    };
    for full in [false, true] {
        let one = run(1, full);
        assert!(one == run(2, full), "full: {full}: two threads differ from one");
        assert!(one == run(3, full), "full: {full}: three threads differ from one");
    }
}

#[test]
fn dropout_depends_on_the_seed_and_the_step_alone() {
    let (model, data) = (fresh_adapter(0.5), ragged());
    let indices = all(&data);
    let weighing = weighed(LossReduction::TaskMean, &ALPHA);
    let run = |seed, first_micro_batch| {
        let train = Training { seed, first_micro_batch, ..QUIET };
        gradient(&model, &data, &indices, 4, &weighing, train)
    };
    let first = run(1, 0);
    assert!(first == run(1, 0), "the same step draws the same masks");
    for (seed, micro_batch) in [(1, 3), (2, 0)] {
        let other = run(seed, micro_batch);
        assert_ne!(other.0.loss, first.0.loss, "seed {seed}, micro-batch {micro_batch}");
        assert!(distance(&other.1, &first.1) > 1e-3);
    }
    // Each micro-batch has masks of its own: the same example twice is not dropped alike.
    let twice = gradient(&model, &data, &[0, 0], 1, &weighing, QUIET).0.loss;
    let once = gradient(&model, &data, &[0], 1, &weighing, QUIET).0.loss;
    assert_ne!(twice, once);
    // Evaluation drops nothing.
    let measured = evaluate(&model, &data, 3, &weighing).unwrap();
    let without = evaluate(&fresh_adapter(0.0), &data, 3, &weighing).unwrap();
    assert_eq!(measured, without);
    assert_ne!(measured.loss, first.0.loss);
}

#[test]
fn evaluation_weighs_as_training_does() {
    let (model, data) = (fresh_adapter(0.0), ragged());
    for reduction in [LossReduction::TaskMean, LossReduction::TokenMean] {
        let weighing = weighed(reduction, &ALPHA);
        let trained = run_examples(&model, &data, &all(&data), 8, &weighing, None).unwrap();
        for batch in [1, 4, 100] {
            let measured = evaluate(&model, &data, batch, &weighing).unwrap();
            assert!((measured.loss - trained.loss).abs() < 1e-6 * trained.loss, "{reduction:?} {batch}");
            assert_eq!(measured.labelled, trained.labelled);
        }
        assert!(model.params().iter().all(|p| p.grad().is_none()), "evaluation leaves no gradient");
    }
}

/// A base in NF4 with double quantisation: its loss is near the f32 one, its steps lower it, and only
/// the adapter is trained.
#[test]
fn an_adapter_learns_on_a_4_bit_base() {
    let reference = Reference::open("lora_all_rslora");
    let data = reference.step(0);
    let full = adapted("lora_all_rslora", BaseStorage::Mapped);
    let model = adapted("lora_all_rslora", BaseStorage::Nf4 { double_quantization: true });
    let loss_of = |model: &Llama| run_examples(model, &data, &all(&data), 2, &plain(2), None).unwrap().loss;
    let (exact, quantised) = (loss_of(&full), loss_of(&model));
    assert!(exact != quantised && (exact - quantised).abs() < 0.05 * exact, "{exact} {quantised}");
    assert_eq!(model.parameter_counts().0, full.parameter_counts().0);
    assert!(model.params().iter().all(|p| p.name().contains("lora_")));

    let before: Vec<Vec<f32>> =
        model.projections().map(|p| p.weight.tensor().to_vec_f32().unwrap()).collect();
    let mut adamw = optimizer(&model, 0.0);
    for step in 0..20 {
        update(&model, &mut adamw, &data, step);
    }
    let learned = loss_of(&model);
    assert!(learned < quantised - 0.05, "{quantised} {learned}");
    let after: Vec<Vec<f32>> = model.projections().map(|p| p.weight.tensor().to_vec_f32().unwrap()).collect();
    assert!(before == after, "the base moved");
}
