//! What happens outside the graph against the CPU: the optimizer's step (three updates with clipping and loss scaling,
//! and one that overflows), and NF4.

use anyhow::{Result, ensure};
use medley_kernels::updates::adamw::{Moments, Step};
use medley_kernels::updates::nf4::{dequantize_tensor, quantize_tensor};
use medley_kernels::updates::{Clip, Parameter, Progress, StepReport};
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
    let mut table = Table::new("Optimizer against the CPU", note, &["states", "parameters", "norm", "skips"]);
    let mut faults = vec![];
    for (name, eight_bit, bound) in [("f32", false, 1e-4), ("8-bit", true, 5e-2)] {
        let (on_cpu, on_device) = (run(&Device::Cpu, eight_bit, quick)?, run(device, eight_bit, quick)?);
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
                "AdamW with {name} states: parameters off by {}, norm by {}, skipped {:?}",
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

/// Four steps, the third of which meets an infinity.
fn run(device: &Device, eight_bit: bool, quick: bool) -> Result<Outcome> {
    let shapes = shapes(quick);
    let mut values = vec![];
    let mut moments = vec![];
    for (shape, i) in shapes.iter().zip(0..) {
        values.push(Tensor::from_vec(start(shape, i)?, shape)?.to_device(device)?);
        moments.push(Moments::zeros(device, shape, eight_bit)?);
    }
    let (mut progress, mut reports) = (Progress::new(0), vec![]);
    for step in 0..4 {
        let mut grads = vec![];
        for (shape, i) in shapes.iter().zip(0..) {
            let mut grad = random(shape, 1000 + 10 * step + i)?.to_vec_f32()?;
            grad.iter_mut().for_each(|g| *g *= 64.0);
            if step == 2 && i == 1 {
                grad[5] = f32::INFINITY;
            }
            grads.push(Tensor::from_vec(grad, shape)?.to_device(device)?);
        }
        let mut parameters: Vec<Parameter<Moments>> = values
            .iter_mut()
            .zip(&grads)
            .zip(&mut moments)
            .map(|((value, grad), state)| Parameter { value, grad, state, weight_decay: 0.01, lr_scale: 1.0 })
            .collect();
        let settings = Step {
            lr: 1e-2,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            clip: Clip { max_norm: 1.0, loss_scale: 64.0 },
        };
        reports.push(settings.run(&mut parameters, &mut progress)?);
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
        assert_eq!(table.rows[0], ["f32", "0", "0", "yes"]);
        let (table, faults) = verify_nf4(&Device::Cpu, true).unwrap();
        assert_eq!((table.rows[1][2].as_str(), faults.len()), ("0", 0));
    }
}
