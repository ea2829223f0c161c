use super::*;
use crate::check::random;
use crate::updates::{Clip, Parameter, Progress, State, StepReport};
use medley_tensor::device::Device;
use medley_tensor::{DType, Tensor};

const START: [f64; 4] = [0.5, -1.25, 3.0, 0.0];

fn gradient(step: u64, i: usize) -> f64 {
    (step as f64 + i as f64).sin() * (i as f64 + 1.0)
}

fn settings(step: u64, grad_scale: f32) -> AdamW {
    AdamW {
        lr: 1e-2,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.1,
        step,
        grad_scale,
        lr_scale: 1.0,
    }
}

/// Ten steps against `torch.optim.AdamW` (torch 2.15, f64 parameters) on the same gradients; the
/// gradients arrive scaled by 1024, as a loss scaler leaves them.
#[test]
fn ten_steps_as_pytorch() {
    let mut p = START.map(|x| x as f32);
    let (mut m, mut v) = ([0.0f32; 4], [0.0f32; 4]);
    for step in 1..=10 {
        let g: [f32; 4] = std::array::from_fn(|i| (gradient(step, i) * 1024.0) as f32);
        settings(step, 1.0 / 1024.0).update(&mut p, &g, &mut m, &mut v).unwrap();
    }
    let close = |what: &str, got: &[f32; 4], want: [f64; 4]| {
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(*g) - w).abs() < 2e-7 * (1.0 + w.abs()), "{what}: {got:?} for {want:?}");
        }
    };
    close(
        "param",
        &p,
        [0.458_720_343_069_563_8, -1.252_048_681_467_14, 2.987_729_283_446_243_7, 0.038_219_932_407_957_67],
    );
    close(
        "m",
        &m,
        [
            0.074_037_644_701_848_16,
            -0.125_410_838_921_259_57,
            -0.425_392_230_455_587_66,
            -0.362_086_063_526_934_45,
        ],
    );
    close(
        "v",
        &v,
        [
            0.004_976_604_588_860_447,
            0.021_082_335_739_578_167,
            0.042_611_698_323_246_34,
            0.078_187_556_013_200_35,
        ],
    );
}

/// The formula in f64 over ten steps, on enough elements for several chunks, and on other settings.
#[test]
fn ten_steps_against_the_formula_in_any_number_of_threads() {
    const N: usize = 2 * CHUNK + 5;
    let op = |step| AdamW {
        lr: 3e-3 / step as f64,
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-3,
        weight_decay: 0.0,
        step,
        grad_scale: 0.5,
        lr_scale: 1.0,
    };
    let grad = |step: u64, i: usize| ((step * 7 + i as u64 * 13) % 101) as f32 * 0.01 - 0.4;
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut p: Vec<f32> = (0..N).map(|i| (i % 17) as f32 * 0.1).collect();
            let (mut m, mut v) = (vec![0.0f32; N], vec![0.0f32; N]);
            for step in 1..=10 {
                let g: Vec<f32> = (0..N).map(|i| grad(step, i)).collect();
                op(step).update(&mut p, &g, &mut m, &mut v).unwrap();
            }
            p
        })
    };
    let one = run(1);
    assert!(one == run(2), "two threads give other bits");
    for i in [0, 1, 100, CHUNK - 1, CHUNK, N - 1] {
        let (mut p, mut m, mut v) = (f64::from((i % 17) as f32 * 0.1), 0.0f64, 0.0f64);
        for step in 1..=10u64 {
            let o = op(step);
            let g = f64::from(grad(step, i)) * 0.5;
            m = o.beta1 * m + (1.0 - o.beta1) * g;
            v = o.beta2 * v + (1.0 - o.beta2) * g * g;
            let (c1, c2) = (1.0 - o.beta1.powi(step as i32), 1.0 - o.beta2.powi(step as i32));
            p -= o.lr * (m / c1) / ((v / c2).sqrt() + o.eps);
        }
        assert!((f64::from(one[i]) - p).abs() < 5e-7 * (1.0 + p.abs()), "element {i}: {} for {p}", one[i]);
    }
}

#[test]
fn different_lengths_and_step_zero_are_errors() {
    let [mut p, mut m] = [[0.0f32; 3]; 2];
    let e = settings(1, 1.0).update(&mut p, &[0.0; 3], &mut m, &mut [0.0; 2]).unwrap_err().to_string();
    assert!(e.contains("v has 2 elements, expected 3"), "{e}");
    assert_eq!(p, [0.0; 3]);
    assert!(settings(0, 1.0).update(&mut p, &[0.0; 3], &mut m, &mut [0.0; 3]).is_err());
}

/// Parameters of one model on one device.
struct Model {
    values: Vec<Tensor>,
    moments: Vec<Moments>,
    progress: Progress,
}

impl Model {
    const SIZES: [usize; 4] = [4096 + 300, 37, CHUNK + 77, 1];

    fn new(device: &Device, eight_bit: bool) -> Self {
        let values: Vec<Tensor> = Self::SIZES
            .iter()
            .enumerate()
            .map(|(i, n)| random(&[*n], i as u64, 1.0).to_device(device).unwrap())
            .collect();
        let moments = values.iter().map(|v| Moments::zeros(device, v.shape(), eight_bit).unwrap()).collect();
        Model { values, moments, progress: Progress::default() }
    }

    fn step(&mut self, seed: u64, bad: Option<f32>, step: &Step) -> StepReport {
        let device = self.values[0].device();
        let grads: Vec<Tensor> = Self::SIZES
            .iter()
            .enumerate()
            .map(|(i, n)| {
                let mut g = random(&[*n], 100 * seed + i as u64, 0.02 * step.clip.loss_scale as f32)
                    .to_vec_f32()
                    .unwrap();
                if let Some(bad) = bad.filter(|_| i == 2) {
                    g[*n - 3] = bad;
                }
                Tensor::from_vec(g, &[*n]).unwrap().to_device(&device).unwrap()
            })
            .collect();
        let mut parameters: Vec<Parameter<Moments>> = self
            .values
            .iter_mut()
            .zip(&grads)
            .zip(&mut self.moments)
            .enumerate()
            .map(|(i, ((value, grad), moments))| Parameter {
                value,
                grad,
                state: moments,
                weight_decay: if i == 1 { 0.0 } else { 0.1 },
                lr_scale: if i == 2 { 16.0 } else { 1.0 },
            })
            .collect();
        step.run(&mut parameters, &mut self.progress).unwrap()
    }

    fn bits(&self) -> Vec<u32> {
        let moments = self.moments.iter().flat_map(State::parts).map(|(_, t)| t);
        let bits = |t: &Tensor| -> Vec<u32> {
            let t = t.to_device(&Device::Cpu).unwrap();
            match t.dtype() {
                DType::U8 => t.as_slice::<u8>().unwrap().iter().map(|b| u32::from(*b)).collect(),
                _ => t.to_vec_f32().unwrap().into_iter().map(f32::to_bits).collect(),
            }
        };
        self.values.iter().chain(moments).flat_map(bits).collect()
    }
}

/// Parameters and moments after steps on the simulator are the CPU's bit for bit, with f32 and with 8-bit
/// moments; a step with a gradient that is not finite changes nothing and does not count.
#[test]
fn steps_on_a_gpu_have_the_cpus_bits() {
    let gpu = Device::Cuda(crate::check::device::device());
    for eight_bit in [false, true] {
        let (mut a, mut b) = (Model::new(&Device::Cpu, eight_bit), Model::new(&gpu, eight_bit));
        for (seed, bad, max_norm, loss_scale) in
            [(1, None, 0.0, 1.0), (2, Some(f32::NAN), 1.0, 512.0), (3, None, 1.0, 512.0)]
        {
            let step =
                Step { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: Clip { max_norm, loss_scale } };
            let before = (b.bits(), b.progress.made());
            let (want, got) = (a.step(seed, bad, &step), b.step(seed, bad, &step));
            assert_eq!(got.skipped, bad.is_some());
            assert_eq!((want.skipped, a.progress.made()), (got.skipped, b.progress.made()));
            if bad.is_none() {
                assert!((got.grad_norm - want.grad_norm).abs() < 1e-12 * want.grad_norm);
                assert!(max_norm == 0.0 || got.grad_norm > 2.0, "the step is to be clipped");
            } else {
                assert!(!got.grad_norm.is_finite());
                assert!(before == (b.bits(), b.progress.made()), "a skipped step left a trace");
            }
            assert!(a.bits() == b.bits(), "step {seed}, 8 bits {eight_bit}");
        }
        assert_eq!(b.progress.made(), 2);
        // Resumed from the count alone: the device's own is made anew.
        b.progress = Progress::new(2);
        let step = Step {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: Clip { max_norm: 0.0, loss_scale: 1.0 },
        };
        a.step(4, None, &step);
        b.step(4, None, &step);
        assert!(a.bits() == b.bits());
    }
}

#[test]
fn a_step_over_no_parameters_counts() {
    let step =
        Step { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: Clip { max_norm: 1.0, loss_scale: 1.0 } };
    let mut progress = Progress::new(4);
    let report = step.run(&mut [], &mut progress).unwrap();
    assert_eq!((report, progress.made()), (StepReport { grad_norm: 0.0, skipped: false }, 5));
}
