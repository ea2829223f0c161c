use super::*;
use crate::updates::stepping::{Model, Reference, STEPS};

fn settings(step: usize, weight_decay: f64) -> Adafactor {
    Adafactor {
        lr: Reference::lr(step) / 2.0,
        lr_scale: 2.0,
        decay_rate: -0.8,
        eps: 1e-30,
        clip_threshold: 1.0,
        weight_decay,
        step: step as u64 + 1,
        grad_scale: 1.0 / 64.0,
    }
}

/// Six steps against transformers' `Adafactor` as its Trainer sets it up; the gradients arrive scaled by 64.
#[test]
fn six_steps_as_transformers() {
    let reference = Reference::open();
    for (decay, text) in [(0.0, "0.0"), (0.1, "0.1")] {
        let (mut matrix, mut vector) = (Reference::start(35), Reference::start(9));
        let (mut row, mut col, mut v) = (vec![0.0f32; 5], vec![0.0f32; 7], vec![0.0f32; 9]);
        for step in 0..STEPS {
            let gradient = |n| Reference::gradient(step, n).iter().map(|g| g * 64.0).collect::<Vec<f32>>();
            settings(step, decay).update_matrix(&mut matrix, &gradient(35), &mut row, &mut col).unwrap();
            settings(step, decay).update_vector(&mut vector, &gradient(9), &mut v).unwrap();
        }
        for (name, got) in [("matrix", &matrix), ("vector", &vector), ("row", &row), ("col", &col), ("v", &v)]
        {
            reference.expect(&format!("adafactor/{text}/{name}"), got, 2e-6);
        }
    }
}

const STEP: Step = Step {
    lr: 1e-3,
    decay_rate: -0.8,
    eps: 1e-30,
    clip_threshold: 1.0,
    clip: Clip { max_norm: 1.0, loss_scale: 512.0 },
};

/// The simulator against the CPU: sums in f64 differ in order only, so f32 results are the same but for a rare last
/// bit. A step with a gradient that is not finite changes nothing and does not count.
#[test]
fn steps_on_a_gpu_are_the_cpus() {
    let gpu = Device::Cuda(crate::check::device::device());
    let (mut a, mut b) =
        (Model::new(&Device::Cpu, SecondMoment::zeros), Model::new(&gpu, SecondMoment::zeros));
    let states = b.states.iter().map(|s| s.parts().len()).collect::<Vec<_>>();
    assert_eq!(states, [2, 1, 2, 1, 2, 2], "matrices are factored, vectors are not");
    for (seed, bad) in [(1, None), (2, Some(f32::NAN)), (3, None), (4, None)] {
        let before = b.numbers();
        let [want, got] = [&mut a, &mut b].map(|m| m.step(seed, bad, 512.0, |p, made| STEP.run(p, made)));
        assert_eq!((want.skipped, got.skipped), (bad.is_some(), bad.is_some()));
        assert_eq!(before == b.numbers(), bad.is_some());
        let (want, got) = (a.numbers(), b.numbers());
        let differ = want.iter().zip(&got).filter(|(a, b)| a != b).count();
        assert!(differ * 1000 < want.len(), "step {seed}: {differ} of {} differ", want.len());
        for (a, b) in want.iter().zip(&got) {
            assert!((a - b).abs() <= 1e-6 * a.abs() + 1e-9, "step {seed}: {b} for {a}");
        }
    }
    assert_eq!((a.progress.made(), b.progress.made()), (3, 3));
    // The same on the GPU again: sums have one order.
    let mut again = Model::new(&gpu, SecondMoment::zeros);
    for seed in [1, 3, 4] {
        again.step(seed, None, 512.0, |p, made| STEP.run(p, made));
    }
    assert!(again.numbers() == b.numbers());
}

#[test]
fn same_bits_on_any_thread_count() {
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut model = Model::new(&Device::Cpu, SecondMoment::zeros);
            for seed in 1..=2 {
                model.step(seed, None, 512.0, |p, made| STEP.run(p, made));
            }
            model.numbers()
        })
    };
    assert!(run(1) == run(2));
}

/// No element of a first update, whose mean square is one, is held back by more than the threshold asks.
#[test]
fn updates_larger_than_the_threshold_are_shortened() {
    let run = |clip_threshold| {
        let mut p = vec![0.0f32; 12];
        let g: Vec<f32> = (0..12).map(|i| if i == 7 { 3.0 } else { -1e-3 }).collect();
        let op = Adafactor { clip_threshold, lr: 1.0, lr_scale: 1.0, ..settings(0, 0.0) };
        op.update_matrix(&mut p, &g, &mut [0.0; 3], &mut [0.0; 4]).unwrap();
        (p.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 12.0).sqrt()
    };
    let free = run(1e9);
    assert!((run(free / 2.0) - free / 2.0).abs() < 1e-6 * free);
    assert_eq!(run(2.0 * free), free);
}

#[test]
fn wrong_lengths_and_step_zero_are_errors() {
    let e = settings(0, 0.0).update_matrix(&mut [0.0; 6], &[0.0; 6], &mut [0.0; 2], &mut [0.0; 4]);
    assert!(e.unwrap_err().to_string().contains("the parameter has 6 elements, expected 8"));
    let e = settings(0, 0.0).update_vector(&mut [0.0; 6], &[0.0; 6], &mut [0.0; 5]).unwrap_err().to_string();
    assert!(e.contains("v has 5 elements, expected 6"), "{e}");
    let op = Adafactor { step: 0, ..settings(0, 0.0) };
    assert!(op.update_vector(&mut [0.0], &[0.0], &mut [0.0]).unwrap_err().to_string().contains("step is 0"));
}
