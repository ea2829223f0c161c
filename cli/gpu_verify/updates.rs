//! What happens outside the graph against the CPU: the optimizer's step (three updates with clipping and loss scaling,
//! and one that overflows), and NF4.

use anyhow::{Result, ensure};
use medley_kernels::updates::nf4::{dequantize_tensor, quantize_tensor};
use medley_kernels::updates::{Clip, Parameter, Progress, StepReport};
use medley_kernels::updates::{adafactor, adamw, lion};
use medley_tensor::device::Device;
use medley_tensor::{DType, Tensor};

use crate::compare::random;
use crate::report::{Table, number};

/// Shapes of the parameters: a matrix that is in 8 bits where asked for, one that ends within a block, a vector.
fn shapes(quick: bool) -> [Vec<usize>; 3] {
    let rows = if quick { 4 } else { 1000 };
    [vec![rows, 1024 + 64], vec![rows - 1, 1013], vec![37]]
}

/// Runs the steps; the table, and what is off.
///
/// # Errors
/// What a step reports.
pub fn verify_optimizer(device: &Device, quick: bool) -> Result<(Table, Vec<String>)> {
    let note = "Largest difference between device and CPU in any parameter after three steps, as a share of the \
                largest step a parameter took; of the gradients' norm; and whether a step with an infinite gradient \
                was skipped.";
    let mut table =
        Table::new("Optimizer against the CPU", note, &["optimizer", "parameters", "norm", "skips"]);
    let mut faults = vec![];
    for (name, run, bound) in OPTIMIZERS {
        let (on_cpu, on_device) = (run(&Device::Cpu, quick)?, run(device, quick)?);
        let start: Vec<Vec<f32>> =
            shapes(quick).iter().zip(0..).map(|(s, i)| start(s, i)).collect::<Result<_>>()?;
        let (mut moved, mut apart) = (0.0f32, 0.0f32);
        for ((start, cpu), got) in start.iter().zip(&on_cpu.values).zip(&on_device.values) {
            ensure!(cpu.len() == got.len(), "{} elements on the CPU, {} on the device", cpu.len(), got.len());
            for ((start, cpu), got) in start.iter().zip(cpu).zip(got) {
                moved = moved.max((cpu - start).abs());
                apart = if (cpu - got).is_nan() { f32::INFINITY } else { apart.max((cpu - got).abs()) };
            }
        }
        let parameters = f64::from(apart) / f64::from(moved).max(1e-12);
        let norms = on_cpu.reports.iter().zip(&on_device.reports).filter(|(cpu, _)| !cpu.skipped);
        let norm = norms.map(|(cpu, got)| (cpu.grad_norm / got.grad_norm - 1.0).abs()).fold(0.0, f64::max);
        let skips = |reports: &[StepReport]| reports.iter().map(|r| r.skipped).collect::<Vec<_>>();
        let as_wanted = skips(&on_device.reports) == [false, false, true, false];
        if !(parameters <= bound
            && norm <= 1e-4
            && as_wanted
            && skips(&on_cpu.reports) == skips(&on_device.reports))
        {
            faults.push(format!(
                "{name}: parameters off by {}, norm by {}, skipped {:?}",
                number(parameters),
                number(norm),
                skips(&on_device.reports)
            ));
        }
        let skipped = if as_wanted { "yes" } else { "NO" };
        table.rows.push(vec![name.into(), number(parameters), number(norm), skipped.into()]);
    }
    Ok((table, faults))
}

/// Quantises and dequantises on both sides; the table, and what is off. The codes must be the same.
///
/// # Errors
/// What either reports.
pub fn verify_nf4(device: &Device, quick: bool) -> Result<(Table, Vec<String>)> {
    let rows = if quick { 5 } else { 500 };
    let note = "Elements whose value after quantising and dequantising is not the CPU's, bit for bit.";
    let mut table = Table::new("NF4 against the CPU", note, &["scales", "elements", "different"]);
    let mut faults = vec![];
    for (name, double) in [("f32", false), ("double quantised", true)] {
        let values = random(&[rows, 1024 + 64], 7)?;
        let there_and_back = |values: &Tensor| -> Result<Vec<f32>> {
            Ok(dequantize_tensor(&quantize_tensor(values, double)?, DType::F32)?.to_vec_f32()?)
        };
        let (cpu, got) = (there_and_back(&values)?, there_and_back(&values.to_device(device)?)?);
        ensure!(cpu.len() == got.len(), "{} elements on the CPU, {} on the device", cpu.len(), got.len());
        let apart: Vec<usize> = (0..cpu.len()).filter(|i| cpu[*i].to_bits() != got[*i].to_bits()).collect();
        if let Some(first) = apart.first() {
            faults.push(format!(
                "NF4 with {name} scales: {} of {} elements differ; element {first} is {:?} on the CPU, {:?} on the device",
                apart.len(),
                cpu.len(),
                cpu[*first],
                got[*first]
            ));
        }
        table.rows.push(vec![name.into(), cpu.len().to_string(), apart.len().to_string()]);
    }
    Ok((table, faults))
}

/// What a run leaves.
struct Outcome {
    values: Vec<Vec<f32>>,
    reports: Vec<StepReport>,
}

fn start(shape: &[usize], parameter: u64) -> Result<Vec<f32>> {
    Ok(random(shape, 50 + parameter)?.to_vec_f32()?)
}

/// Runs an optimizer on a device.
type Run = fn(&Device, bool) -> Result<Outcome>;

/// Every optimizer with the bound on its parameters. Eight-bit codes jump where a number lies between two.
const OPTIMIZERS: [(&str, Run, f64); 5] = [
    ("AdamW", |device, quick| adamw(device, quick, false), 1e-4),
    ("AdamW, 8 bits", |device, quick| adamw(device, quick, true), 5e-2),
    ("Lion", |device, quick| lion(device, quick, false), 1e-4),
    ("Lion, 8 bits", |device, quick| lion(device, quick, true), 1e-4),
    (
        "Adafactor",
        |device, quick| {
            let step =
                adafactor::Step { lr: LR, decay_rate: -0.8, eps: 1e-30, clip_threshold: 1.0, clip: CLIP };
            steps(device, quick, adafactor::SecondMoment::zeros, |p, made| step.run(p, made))
        },
        1e-4,
    ),
];

const LR: f64 = 1e-2;
const CLIP: Clip = Clip { max_norm: 1.0, loss_scale: 64.0 };

fn adamw(device: &Device, quick: bool, eight_bit: bool) -> Result<Outcome> {
    let step = adamw::Step { lr: LR, beta1: 0.9, beta2: 0.999, eps: 1e-8, clip: CLIP };
    let zeros = |device: &Device, shape: &[usize]| adamw::Moments::zeros(device, shape, eight_bit);
    steps(device, quick, zeros, |p, made| step.run(p, made))
}

fn lion(device: &Device, quick: bool, eight_bit: bool) -> Result<Outcome> {
    // Without clipping: the last bit of the norm would turn a step around where the blend is nearly 0.
    let clip = Clip { max_norm: 0.0, ..CLIP };
    let step = lion::Step { lr: LR, beta1: 0.9, beta2: 0.99, clip };
    let zeros = |device: &Device, shape: &[usize]| lion::Moment::zeros(device, shape, eight_bit);
    steps(device, quick, zeros, |p, made| step.run(p, made))
}

/// Four steps, the third of which meets an infinity.
fn steps<S>(
    device: &Device,
    quick: bool,
    zeros: impl Fn(&Device, &[usize]) -> medley_tensor::Result<S>,
    step: impl Fn(&mut [Parameter<S>], &mut Progress) -> medley_tensor::Result<StepReport>,
) -> Result<Outcome> {
    let shapes = shapes(quick);
    let (mut values, mut states) = (vec![], vec![]);
    for (shape, i) in shapes.iter().zip(0..) {
        values.push(Tensor::from_vec(start(shape, i)?, shape)?.to_device(device)?);
        states.push(zeros(device, shape)?);
    }
    let (mut progress, mut reports) = (Progress::new(0), vec![]);
    for number in 0..4 {
        let mut grads = vec![];
        for (shape, i) in shapes.iter().zip(0..) {
            let mut grad = random(shape, 1000 + 10 * number + i)?.to_vec_f32()?;
            grad.iter_mut().for_each(|g| *g *= 64.0);
            if number == 2 && i == 1 {
                grad[5] = f32::INFINITY;
            }
            grads.push(Tensor::from_vec(grad, shape)?.to_device(device)?);
        }
        let mut parameters: Vec<Parameter<S>> = values
            .iter_mut()
            .zip(&grads)
            .zip(&mut states)
            .map(|((value, grad), state)| Parameter { value, grad, state, weight_decay: 0.01, lr_scale: 1.0 })
            .collect();
        reports.push(step(&mut parameters, &mut progress)?);
    }
    let values = values.iter().map(Tensor::to_vec_f32).collect::<Result<_, _>>()?;
    Ok(Outcome { values, reports })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_agrees_with_itself() {
        let (table, faults) = verify_optimizer(&Device::Cpu, true).unwrap();
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(table.rows.len(), 5);
        assert_eq!(table.rows[0], ["AdamW", "0", "0", "yes"]);
        let (table, faults) = verify_nf4(&Device::Cpu, true).unwrap();
        assert_eq!((table.rows[1][2].as_str(), faults.len()), ("0", 0));
    }
}
