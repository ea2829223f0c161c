use super::*;
use crate::{GradScaler, ScalerConfig, Var};
use medley_kernels::ops::RmsNorm;
use medley_tensor::device::Device;

const ADAMW: AdamWConfig =
    AdamWConfig { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, eight_bit: false };
const LION: LionConfig = LionConfig { beta1: 0.9, beta2: 0.99, weight_decay: 0.1, eight_bit: false };
const CONFIG: OptimizerConfig = OptimizerConfig::AdamW(ADAMW);

fn settings(loss_scale: f32) -> StepSettings {
    StepSettings { learning_rate: 1e-2, max_grad_norm: 1.0, loss_scale }
}

fn params(device: &Device, n: usize) -> Vec<Arc<Param>> {
    let values = |shift: usize, n: usize| (0..n).map(|i| ((i * 7 + shift) % 23) as f32 * 0.1 - 1.0).collect();
    [("layers.0.proj", n), ("layers.0.norm.weight", 37)]
        .into_iter()
        .enumerate()
        .map(|(i, (name, n))| {
            let value: Vec<f32> = values(i, n);
            Param::new(name, Tensor::from_vec(value, &[n]).unwrap().to_device(device).unwrap()).unwrap()
        })
        .collect()
}

/// As [`params`], the first one a matrix [45, 100].
fn matrix(device: &Device) -> Vec<Arc<Param>> {
    let mut all = params(device, 4500);
    let value = all[0].value().reshape(&[45, 100]).unwrap();
    all[0] = Param::new("layers.0.proj", value).unwrap();
    all
}

/// Leaves a gradient of `scale · sin(…)` in every parameter, `bad` in one element.
fn leave_gradients(params: &[Arc<Param>], step: usize, scale: f32, bad: Option<f32>) {
    for (k, p) in params.iter().enumerate() {
        let mut g: Vec<f32> =
            (0..p.value().numel()).map(|i| ((i + step * 3 + k) as f32).sin() * 0.01 * scale).collect();
        if let Some(bad) = bad.filter(|_| k == 0) {
            g[5] = bad;
        }
        let g = Tensor::from_vec(g, p.value().shape()).unwrap().to_device(&p.value().device()).unwrap();
        p.accumulate(g).unwrap();
    }
}

fn values(params: &[Arc<Param>]) -> Vec<Vec<f32>> {
    params.iter().map(|p| p.value().to_vec_f32().unwrap()).collect()
}

/// The CPU and a simulated GPU: the same tests hold on both.
fn devices() -> Vec<Device> {
    vec![Device::Cpu, Device::open("sim").unwrap()]
}

#[test]
fn an_injected_overflow_skips_the_step_and_halves_the_scale() {
    for device in devices() {
        let params = params(&device, 300);
        let mut optimizer = Optimizer::new(CONFIG, params.clone()).unwrap();
        let mut scaler = GradScaler::new(ScalerConfig::default()).unwrap();
        for (step, bad) in [None, Some(f32::INFINITY), None, Some(f32::NAN), None].into_iter().enumerate() {
            let (before, made) = (values(&params), optimizer.steps());
            leave_gradients(&params, step, scaler.scale(), bad);
            let report = optimizer.step(&settings(scaler.scale())).unwrap();
            scaler.update(report.skipped).unwrap();
            assert_eq!(report.skipped, bad.is_some());
            assert_eq!(report.grad_norm.is_finite(), bad.is_none());
            assert_eq!(values(&params) == before, bad.is_some());
            assert_eq!(optimizer.steps() - made, u64::from(bad.is_none()));
            assert!(params.iter().all(|p| p.grad().is_none()));
        }
        assert_eq!((scaler.scale(), scaler.skipped()), (16_384.0, 2));

        // The skipped steps left no trace: the same as a run without them, unscaled.
        let plain = self::params(&device, 300);
        let mut other = Optimizer::new(CONFIG, plain.clone()).unwrap();
        for step in [0, 2, 4] {
            leave_gradients(&plain, step, 1.0, None);
            let norm = other.grad_norm().unwrap();
            assert!((other.step(&settings(1.0)).unwrap().grad_norm - norm).abs() < 1e-12 * norm);
        }
        for (a, b) in values(&params).concat().iter().zip(values(&plain).concat()) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }
}

#[test]
fn a_restored_optimizer_goes_on_bit_for_bit() {
    let cases = [
        (CONFIG, 4, "exp_avg", DType::F32),
        // The small parameter keeps f32.
        (OptimizerConfig::AdamW(AdamWConfig { eight_bit: true, ..ADAMW }), 6, "exp_avg", DType::U8),
        (OptimizerConfig::Lion(LION), 2, "exp_avg", DType::F32),
        (OptimizerConfig::Lion(LionConfig { eight_bit: true, ..LION }), 3, "exp_avg", DType::U8),
        (
            OptimizerConfig::Adafactor(AdafactorConfig::with_weight_decay(0.1)),
            3,
            "exp_avg_sq_row",
            DType::F32,
        ),
    ];
    for device in devices() {
        for (config, tensors, part, dtype) in cases {
            let run = |params: &[Arc<Param>], optimizer: &mut Optimizer, steps: std::ops::Range<usize>| {
                for step in steps {
                    leave_gradients(params, step, 1.0, None);
                    optimizer.step(&settings(1.0)).unwrap();
                }
            };
            // 4,500 elements: more than are kept in f32.
            let whole = matrix(&device);
            let new = |params: &[Arc<Param>]| {
                Optimizer::new(config, params.to_vec()).unwrap().with_lr_scales(|p| p.value().rank() as f64)
            };
            let mut optimizer = new(&whole);
            run(&whole, &mut optimizer, 0..3);
            let (state, saved) = (optimizer.state(), values(&whole));
            let found = state.iter().find(|(name, _)| *name == format!("{part}/layers.0.proj")).unwrap();
            assert_eq!((found.1.dtype(), state.len()), (dtype, tensors), "{config:?}");
            run(&whole, &mut optimizer, 3..5);

            let resumed = matrix(&device);
            for (p, v) in resumed.iter().zip(saved) {
                p.set(Tensor::from_vec(v, p.value().shape()).unwrap()).unwrap();
            }
            let mut optimizer = new(&resumed);
            let find = |name: &str, _: &[usize], _| -> Result<Tensor> {
                Ok(state.iter().find(|(n, _)| n == name).unwrap().1.clone())
            };
            optimizer.restore(3, find).unwrap();
            run(&resumed, &mut optimizer, 3..5);
            assert_eq!(optimizer.steps(), 5);
            assert_eq!(values(&whole), values(&resumed), "{config:?}");
        }
    }
}

/// A factor of 3 on one parameter is the same as a run at three times the learning rate, for that parameter alone.
#[test]
fn a_parameter_may_have_its_own_learning_rate() {
    for device in devices() {
        for config in [
            CONFIG,
            OptimizerConfig::Lion(LION),
            OptimizerConfig::Adafactor(AdafactorConfig::with_weight_decay(0.1)),
        ] {
            let run = |learning_rate: f64, scales: [f64; 2]| {
                let params = matrix(&device);
                let of = |p: &Param| if p.name().contains("norm") { scales[1] } else { scales[0] };
                let mut optimizer = Optimizer::new(config, params.clone()).unwrap().with_lr_scales(of);
                for step in 0..3 {
                    leave_gradients(&params, step, 1.0, None);
                    optimizer.step(&StepSettings { learning_rate, ..settings(1.0) }).unwrap();
                }
                values(&params)
            };
            let (slow, fast, mixed) = (run(1e-3, [1.0, 1.0]), run(3e-3, [1.0, 1.0]), run(1e-3, [3.0, 1.0]));
            assert_eq!(mixed[1], slow[1]);
            assert_ne!(mixed[0], slow[0]);
            assert!(mixed[0].iter().zip(&fast[0]).all(|(a, b)| (a - b).abs() < 1e-6), "{config:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_not_restored() {
    let mut optimizer = Optimizer::new(CONFIG, params(&Device::Cpu, 30)).unwrap();
    let e = optimizer
        .restore(1, |_, _, _| -> Result<Tensor> { Tensor::zeros(&[29], DType::F32) })
        .unwrap_err()
        .to_string();
    assert!(e.contains("[29]") && e.contains("exp_avg/layers.0.proj"), "{e}");
    let e = optimizer
        .restore(1, |_, shape, _| -> Result<Tensor> { Tensor::zeros(shape, DType::U8) })
        .unwrap_err()
        .to_string();
    assert!(e.contains("u8"), "{e}");
}

#[test]
fn loss_scales_come_out_of_gradients_as_they_went_in() {
    let x = || Var::from(Tensor::from_vec(vec![0.5, -1.0, 2.0], &[1, 3]).unwrap());
    let w = Param::new("w", Tensor::from_vec(vec![1.0f32, 2.0, 0.5], &[3]).unwrap()).unwrap();
    let loss = |w: &Arc<Param>| {
        let [y] = x().rms_norm(RmsNorm { eps: 1e-5 }, &[&w.var()]).unwrap();
        let op = medley_kernels::ops::Reduce {
            kind: medley_kernels::ops::ReduceKind::Sum,
            dims: vec![],
            keepdim: false,
        };
        let [y] = y.reduce(op, &[]).unwrap();
        y
    };
    loss(&w).backward().unwrap();
    let plain = w.grad().unwrap().to_vec_f32().unwrap();
    w.zero_grad();
    loss(&w).backward_scaled(1024.0).unwrap();
    let scaled = w.grad().unwrap().to_vec_f32().unwrap();
    assert!(plain.iter().zip(&scaled).all(|(a, b)| a * 1024.0 == *b && *a != 0.0));
}
