//! The model on the simulated GPU against the model on the CPU: logits, loss and every gradient.

use super::tests::{fixture, next_token_labels};
use super::*;
use crate::adapter::{LoraConfig, Targets};
use medley_tensor::device::{CudaDevice, SimOptions};
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Device};

/// A device of its own for each test, so that what is left on it is that test's fault.
fn simulator() -> Device {
    Device::Cuda(CudaDevice::sim(SimOptions::default()).unwrap())
}

/// `‖got − want‖ / ‖want‖`.
fn relative_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = got.iter().zip(want).map(|(g, w)| square(g - w)).sum();
    let size: f64 = want.iter().map(|w| square(*w)).sum();
    (difference / size.max(1e-30)).sqrt()
}

/// Rounding to the compute dtype happens a few dozen times between embedding and loss, so the bounds are a
/// few units of its last place (2⁻⁸ in bf16, 2⁻¹¹ in f16); f32 differs by the order of sums alone.
const BOUNDS: [(DType, f64); 3] = [(DType::F32, 2e-5), (DType::F16, 1e-2), (DType::BF16, 8e-2)];

fn adapted(storage: BaseStorage, placement: Placement, dora: bool) -> Llama {
    let mut model = Llama::open_on(&fixture("gqa_f32"), storage, placement).unwrap();
    let config = LoraConfig {
        rank: 4,
        alpha: 8.0,
        dropout: 0.1,
        targets: Targets::All,
        dora,
        ..LoraConfig::default()
    };
    model.attach_lora(&config, 3).unwrap();
    for (i, p) in model.params().iter().enumerate().filter(|(_, p)| p.name().contains("lora_B")) {
        let mut rng = Philox::new(8, i as u64);
        let shape = p.value().shape().to_vec();
        let b: Vec<f32> = (0..shape[0] * shape[1]).map(|_| 0.1 * rng.normal_f32()).collect();
        let b = Tensor::from_vec(b, &shape).unwrap().to_device(&p.value().device()).unwrap();
        p.set(b).unwrap();
    }
    model
}

/// Loss, and the gradient of every parameter by name.
fn step(model: &Llama, loss_scale: f32, checkpoint: bool) -> (f64, Vec<(String, Vec<f32>)>) {
    let sequences: [Vec<u32>; 3] = [(3..20).collect(), vec![7, 5], (20..41).rev().collect()];
    let packed = Sequences::pack(sequences.iter().map(|s| &s[..]));
    let mut labels = next_token_labels(&packed.ids);
    // The last token of a sequence predicts nothing.
    let ends = [16, 18];
    let keep: Vec<usize> = (0..labels.rows.len()).filter(|i| !ends.contains(i)).collect();
    labels.rows = keep.iter().map(|i| labels.rows[*i]).collect();
    labels.targets = keep.iter().map(|i| labels.targets[*i]).collect();
    labels.weights = vec![1.0 / keep.len() as f32; keep.len()].into();
    labels.loss_scale = loss_scale;
    let pass = Pass { dropout: Some((42, 3)), checkpoint, ..Pass::default() };
    let hidden = model.hidden(&packed, &pass).unwrap();
    let (loss, _) = model.loss(&hidden, &labels).unwrap();
    drop(hidden);
    loss.backward_scaled(loss_scale).unwrap();
    let params = model.params();
    let grads = params.iter().map(|p| {
        let grad = p.grad().unwrap_or_else(|| panic!("no gradient for {}", p.name())).to_vec_f32().unwrap();
        (p.name().to_string(), grad.iter().map(|g| g / loss_scale).collect())
    });
    let grads = grads.collect();
    (f64::from(loss.value().item().unwrap()), grads)
}

#[test]
fn logits_follow_the_cpus() {
    for name in ["gqa_f32", "tied_bf16", "mha_bias", "rope_yarn"] {
        let ids: Vec<u32> = (3..40).collect();
        let packed = Sequences::pack([&ids[..9], &ids[..]]);
        let on = |placement| {
            let model = Llama::open_on(&fixture(name), BaseStorage::Mapped, placement).unwrap();
            let hidden = medley_autograd::no_grad(|| model.hidden(&packed, &Pass::default())).unwrap();
            model.logits(&hidden).unwrap().to_vec_f32().unwrap()
        };
        let want = on(Placement::default());
        for (compute, bound) in BOUNDS {
            let error = relative_error(&on(Placement { device: simulator(), compute }), &want);
            assert!(error < bound, "{name} in {compute}: {error:.1e}");
        }
    }
}

#[test]
fn loss_and_gradients_follow_the_cpus() {
    let bases = [
        (BaseStorage::Mapped, false),
        (BaseStorage::Mapped, true),
        (BaseStorage::Nf4 { double_quantization: false }, false),
        (BaseStorage::Nf4 { double_quantization: true }, false),
        (BaseStorage::Nf4 { double_quantization: true }, true),
        (BaseStorage::Trainable, false),
    ];
    for (storage, dora) in bases {
        let open = |placement: Placement| match storage {
            BaseStorage::Trainable => Llama::open_on(&fixture("gqa_f32"), storage, placement).unwrap(),
            _ => adapted(storage, placement, dora),
        };
        let (want_loss, want) = step(&open(Placement::default()), 1.0, false);
        for (compute, bound) in BOUNDS {
            let loss_scale = if compute == DType::F16 { 1024.0 } else { 1.0 };
            let model = open(Placement { device: simulator(), compute });
            let (loss, grads) = step(&model, loss_scale, compute == DType::BF16);
            let error = (loss - want_loss).abs() / want_loss;
            assert!(error < bound, "{storage:?} in {compute}: loss {loss}, on the CPU {want_loss}");
            for ((name, got), (_, want)) in grads.iter().zip(&want) {
                let error = relative_error(got, want);
                assert!(
                    error < bound,
                    "{storage:?}, dora {dora}, in {compute}: gradient of {name}: {error:.1e}"
                );
            }
        }
    }
}

#[test]
fn a_step_repeats_to_the_bit_and_leaves_nothing_behind() {
    let device = simulator();
    let placement = Placement { device: device.clone(), compute: DType::BF16 };
    let run =
        || step(&adapted(BaseStorage::Nf4 { double_quantization: true }, placement.clone(), true), 1.0, true);
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    drop(placement);
    let Device::Cuda(cuda) = device else { panic!("a simulated card") };
    cuda.synchronize().unwrap();
    let leaks = cuda.simulator().unwrap().leaks();
    assert!(leaks.is_empty(), "{leaks:?}");
}
