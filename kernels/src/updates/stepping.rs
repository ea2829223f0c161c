//! A model of a few parameters to step with any optimizer, for the optimizers' tests.

use super::step::{Parameter, Progress, State, StepReport};
use crate::check::random;
use medley_tensor::device::Device;
use medley_tensor::io::Safetensors;
use medley_tensor::{DType, Result, Tensor};
use std::path::Path;

/// Matrices and vectors, short and longer than a chunk and than a band of rows, on one device.
pub(super) struct Model<S> {
    pub(super) values: Vec<Tensor>,
    pub(super) states: Vec<S>,
    pub(super) progress: Progress,
}

const SHAPES: [&[usize]; 6] = [&[67, 70], &[37], &[300, 113], &[super::CHUNK + 77], &[8, 5000], &[1, 1]];

impl<S: State> Model<S> {
    pub(super) fn new(device: &Device, zeros: impl Fn(&Device, &[usize]) -> Result<S>) -> Self {
        let values =
            SHAPES.iter().zip(0..).map(|(s, i)| random(s, i, 1.0).to_device(device).unwrap()).collect();
        let states = SHAPES.iter().map(|s| zeros(device, s).unwrap()).collect();
        Model { values, states, progress: Progress::default() }
    }

    /// One step with gradients drawn from `seed`, multiplied by `loss_scale`, one of them `bad`.
    pub(super) fn step(
        &mut self,
        seed: u64,
        bad: Option<f32>,
        loss_scale: f32,
        run: impl Fn(&mut [Parameter<S>], &mut Progress) -> Result<StepReport>,
    ) -> StepReport {
        let device = self.values[0].device();
        let grads: Vec<Tensor> = SHAPES
            .iter()
            .zip(0..)
            .map(|(shape, i)| {
                let mut g = random(shape, 100 * seed + i, 0.02 * loss_scale).to_vec_f32().unwrap();
                if let Some(bad) = bad.filter(|_| i == 2) {
                    g[5] = bad;
                }
                Tensor::from_vec(g, shape).unwrap().to_device(&device).unwrap()
            })
            .collect();
        let parameters = self.values.iter_mut().zip(&grads).zip(&mut self.states).enumerate();
        let mut parameters: Vec<Parameter<S>> = parameters
            .map(|(i, ((value, grad), state))| Parameter {
                value,
                grad,
                state,
                weight_decay: if i == 1 { 0.0 } else { 0.1 },
                lr_scale: if i == 2 { 16.0 } else { 1.0 },
            })
            .collect();
        run(&mut parameters, &mut self.progress).unwrap()
    }

    /// Every number of values and states: f32 as they are, codes as numbers.
    pub(super) fn numbers(&self) -> Vec<f32> {
        let numbers = |t: &Tensor| -> Vec<f32> {
            let t = t.to_device(&Device::Cpu).unwrap();
            match t.dtype() {
                DType::U8 => t.as_slice::<u8>().unwrap().iter().map(|b| f32::from(*b)).collect(),
                _ => t.to_vec_f32().unwrap(),
            }
        };
        let states = self.states.iter().flat_map(State::parts).map(|(_, t)| t);
        self.values.iter().chain(states).flat_map(numbers).collect()
    }
}

/// `tests/reference/optimizers.py`: its start, gradient and learning rate, and what came out.
pub(super) struct Reference(Safetensors);

/// Steps of the reference.
pub(super) const STEPS: usize = 6;

impl Reference {
    pub(super) fn open() -> Self {
        let root =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/optimizers/steps.safetensors");
        Reference(Safetensors::open(root).unwrap())
    }

    pub(super) fn start(n: usize) -> Vec<f32> {
        (0..n).map(|i| (i as f64 * 1.7).sin() as f32).collect()
    }

    pub(super) fn gradient(step: usize, n: usize) -> Vec<f32> {
        let element = |i: usize| match i {
            2 => 0.0,
            _ => ((step as f64 + i as f64 * 0.9).cos() * (0.001 + (i % 4) as f64)) as f32,
        };
        (0..n).map(element).collect()
    }

    pub(super) fn lr(step: usize) -> f64 {
        1e-2 * (1.0 - step as f64 / 10.0)
    }

    /// Demands that `got` is tensor `name` to within `tolerance`, relative to numbers above 1.
    pub(super) fn expect(&self, name: &str, got: &[f32], tolerance: f32) {
        let want = self.0.tensor(name).unwrap().to_vec_f32().unwrap();
        assert_eq!(want.len(), got.len(), "{name}");
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            assert!((g - w).abs() <= tolerance * w.abs().max(1e-3), "{name}[{i}]: {g} for {w}");
        }
    }
}
