use super::*;
use crate::updates::stepping::{Model, Reference, STEPS};

/// Six steps against bitsandbytes' `Lion` (32 bits) on the same gradients, which arrive scaled by 64.
#[test]
fn six_steps_as_bitsandbytes() {
    let reference = Reference::open();
    for (decay, text) in [(0.0, "0.0"), (0.1, "0.1")] {
        for (name, n) in [("matrix", 35), ("vector", 9)] {
            let (mut p, mut m) = (Reference::start(n), vec![0.0f32; n]);
            for step in 0..STEPS {
                let op = Lion {
                    lr: Reference::lr(step) / 2.0,
                    beta1: 0.9,
                    beta2: 0.99,
                    weight_decay: decay,
                    grad_scale: 1.0 / 64.0,
                    lr_scale: 2.0,
                };
                let g: Vec<f32> = Reference::gradient(step, n).iter().map(|g| g * 64.0).collect();
                op.update(&mut p, &g, &mut m).unwrap();
            }
            reference.expect(&format!("lion/{text}/{name}"), &p, 1e-6);
            reference.expect(&format!("lion/{text}/{name}_m"), &m, 1e-5);
        }
    }
}

const STEP: Step =
    Step { lr: 1e-3, beta1: 0.9, beta2: 0.99, clip: Clip { max_norm: 1.0, loss_scale: 512.0 } };

/// Parameters and moments after steps on the simulator are the CPU's bit for bit; a step with a gradient that is not
/// finite changes nothing and does not count.
#[test]
fn steps_on_a_gpu_have_the_cpus_bits() {
    let gpu = Device::Cuda(crate::check::device::device());
    for eight_bit in [false, true] {
        let model = |device: &Device| Model::new(device, |d, shape| Moment::zeros(d, shape, eight_bit));
        let (mut a, mut b) = (model(&Device::Cpu), model(&gpu));
        for (seed, bad) in [(1, None), (2, Some(f32::INFINITY)), (3, None)] {
            let before = b.numbers();
            let [want, got] = [&mut a, &mut b].map(|m| m.step(seed, bad, 512.0, |p, made| STEP.run(p, made)));
            assert_eq!((want.skipped, got.skipped), (bad.is_some(), bad.is_some()));
            assert_eq!(before == b.numbers(), bad.is_some());
            assert!(bad.is_some() || (got.grad_norm - want.grad_norm).abs() < 1e-12 * want.grad_norm);
            assert!(a.numbers() == b.numbers(), "step {seed}, 8 bits {eight_bit}");
        }
        assert_eq!((a.progress.made(), b.progress.made()), (2, 2));
        let codes = b.states[2].parts()[0].1.dtype();
        assert_eq!(codes, if eight_bit { DType::U8 } else { DType::F32 });
    }
}

/// The 8-bit moment follows the f32 one: nearly every element has moved in the same directions.
#[test]
fn eight_bits_follow_f32() {
    let model = |eight_bit| Model::new(&Device::Cpu, |d, shape| Moment::zeros(d, shape, eight_bit));
    let (mut exact, mut coded) = (model(false), model(true));
    let start = exact.values[2].to_vec_f32().unwrap();
    for seed in 1..=8 {
        for model in [&mut exact, &mut coded] {
            model.step(seed, None, 512.0, |p, made| STEP.run(p, made));
        }
    }
    let [exact, coded] = [exact, coded].map(|m| m.values[2].to_vec_f32().unwrap());
    let same = exact.iter().zip(&coded).filter(|(a, b)| (*a - *b).abs() < 1e-6).count();
    let moved = exact.iter().zip(&start).filter(|(a, b)| a != b).count();
    assert!(same * 100 > 95 * exact.len() && same < exact.len(), "{same} of {}", exact.len());
    assert!(moved * 100 > 99 * exact.len());
}

#[test]
fn same_bits_on_any_thread_count() {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut model = Model::new(&Device::Cpu, |d, shape| Moment::zeros(d, shape, true));
            model.step(1, None, 512.0, |p, made| STEP.run(p, made));
            model.numbers()
        })
    };
    assert!(run(1) == run(2));
}

#[test]
fn wrong_lengths_are_errors() {
    let op = Lion { lr: 1.0, beta1: 0.9, beta2: 0.99, weight_decay: 0.0, grad_scale: 1.0, lr_scale: 1.0 };
    let e = op.update(&mut [0.0; 3], &[0.0; 3], &mut [0.0; 2]).unwrap_err().to_string();
    assert!(e.contains("m has 2 elements, expected 3"), "{e}");
    let m = Quantised { codes: &mut [0; 300], absmax: &mut [0.0; 1] };
    let e = op.update_8bit(&mut [0.0; 300], &[0.0; 300], m).unwrap_err().to_string();
    assert!(e.contains("absmax of m has 1 elements, expected 2"), "{e}");
}
