//! One op on the CPU and on the device: the same numbers in, outputs and gradients compared.

use anyhow::{Context, Result, ensure};
use medley_tensor::device::Device;
use medley_tensor::quant::Nf4Matrix;
use medley_tensor::rng::Philox;
use medley_tensor::{DType, Op, Tensor};

/// What an input is to its op: which dtype it has on the device and whether a gradient is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// In the compute dtype, with a gradient.
    Activation,
    /// A trained weight in f32, with a gradient in f32.
    Master,
    /// A frozen weight in the compute dtype.
    Frozen,
    /// A frozen weight in NF4 blocks with double quantisation.
    Nf4,
}

/// What an op's inputs are: shape and role of each.
pub type Inputs = Vec<(Vec<usize>, Role)>;

/// The worst difference a comparison found.
#[derive(Debug, Clone)]
pub struct Worst {
    /// Largest |device − CPU| over a tensor, as a share of the largest |CPU| of that tensor.
    pub error: f64,
    /// `output 0`, `gradient 1`.
    pub place: String,
}

/// Largest [`Worst::error`] that rounding explains. The CPU computes in f32 from the same rounded inputs, the device
/// rounds what it stores: outputs once, gradients after one or two products of rounded numbers.
pub fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2e-2,
        DType::F16 => 4e-3,
        _ => 1e-4,
    }
}

/// Runs `op` forward and backward on the CPU (in f32, from inputs rounded to `dtype`) and on `device` in `dtype`.
///
/// # Errors
/// What the op reports on either; shapes that differ; a gradient that only one side has.
pub fn compare<O: Op>(op: &O, inputs: &Inputs, dtype: DType, device: &Device, seed: u64) -> Result<Worst> {
    let needs: Vec<bool> =
        inputs.iter().map(|(_, role)| matches!(role, Role::Activation | Role::Master)).collect();
    let (mut on_cpu, mut on_device) = (vec![], vec![]);
    for (i, (shape, role)) in inputs.iter().enumerate() {
        let (host, stored) = input(shape, *role, dtype, seed + i as u64)?;
        on_device.push(stored.to_device(device)?);
        on_cpu.push(host);
    }
    let expected = op.forward(&on_cpu.iter().collect::<Vec<_>>(), &needs).context("on the CPU")?;
    let got = op.forward(&on_device.iter().collect::<Vec<_>>(), &needs).context("forward on the device")?;
    ensure!(
        expected.0.len() == got.0.len(),
        "{} outputs on the CPU, {} on the device",
        expected.0.len(),
        got.0.len()
    );

    let mut worst = Worst { error: 0.0, place: "nowhere".into() };
    let mut note = |place: String, expected: &Tensor, got: &Tensor| -> Result<()> {
        let error = difference(expected, got).with_context(|| place.clone())?;
        if error > worst.error {
            worst = Worst { error, place };
        }
        Ok(())
    };
    let (mut up_cpu, mut up_device) = (vec![], vec![]);
    for (j, (expected, got)) in expected.0.iter().zip(&got.0).enumerate() {
        note(format!("output {j}"), expected, got)?;
        let stored = random(expected.shape(), seed + 100 + j as u64)?.to_dtype(got.dtype())?;
        up_cpu.push(Some(stored.to_dtype(DType::F32)?));
        up_device.push(Some(stored.to_device(device)?));
    }
    let expected = op.backward(expected.1, &up_cpu, &needs).context("backward on the CPU")?;
    let got = op.backward(got.1, &up_device, &needs).context("backward on the device")?;
    for i in (0..inputs.len()).filter(|i| needs[*i]) {
        match (&expected[i], &got[i]) {
            (Some(expected), Some(got)) => note(format!("gradient {i}"), expected, got)?,
            (None, None) => {}
            (expected, _) => {
                let side = if expected.is_some() { "CPU" } else { "device" };
                anyhow::bail!("only the {side} has a gradient of input {i}");
            }
        }
    }
    Ok(worst)
}

/// An input in f32 for the CPU and as the device gets it; both hold the same numbers.
fn input(shape: &[usize], role: Role, dtype: DType, seed: u64) -> Result<(Tensor, Tensor)> {
    let wanted = random(shape, seed)?;
    Ok(match role {
        Role::Master => (wanted.clone(), wanted),
        Role::Activation | Role::Frozen => {
            let stored = wanted.to_dtype(dtype)?;
            (stored.to_dtype(DType::F32)?, stored)
        }
        Role::Nf4 => {
            let [rows, cols] = shape else {
                anyhow::bail!("an NF4 matrix has two dimensions, not {shape:?}")
            };
            let stored = Tensor::from_nf4(Nf4Matrix::quantize(wanted.as_slice()?, *rows, *cols, true)?);
            (stored.clone(), stored)
        }
    })
}

/// Normal random numbers, f32, on the CPU.
pub fn random(shape: &[usize], seed: u64) -> Result<Tensor> {
    let mut rng = Philox::new(seed, 17);
    let data: Vec<f32> = (0..shape.iter().product()).map(|_| rng.normal_f32()).collect();
    Ok(Tensor::from_vec(data, shape)?)
}

/// [`Worst::error`] of two tensors. Not-a-number equals itself; infinite equals infinite of the same sign.
fn difference(expected: &Tensor, got: &Tensor) -> Result<f64> {
    ensure!(
        expected.shape() == got.shape(),
        "shape {:?} on the CPU, {:?} on the device",
        expected.shape(),
        got.shape()
    );
    let (expected, got) = (expected.to_vec_f32()?, got.to_vec_f32()?);
    let scale = expected.iter().filter(|x| x.is_finite()).fold(0.0f32, |most, x| most.max(x.abs()));
    let mut worst = 0.0f64;
    for (e, g) in expected.iter().zip(&got) {
        if e == g || (e.is_nan() && g.is_nan()) {
            continue;
        }
        let error = f64::from((e - g).abs()) / f64::from(scale).max(1e-6);
        worst = if error.is_finite() { worst.max(error) } else { f64::INFINITY };
    }
    Ok(worst)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_a_share_of_the_largest_number() {
        let t = |data: [f32; 3]| Tensor::from_vec(data.to_vec(), &[3]).unwrap();
        let off = |got| difference(&t([1.0, -4.0, 2.0]), &t(got)).unwrap();
        assert_eq!(off([1.0, -4.0, 2.0]), 0.0);
        assert_eq!(off([2.0, -4.0, 2.0]), 0.25);
        assert_eq!(off([f32::NAN, -4.0, 2.0]), f64::INFINITY);
        assert_eq!(off([1.0, f32::INFINITY, 2.0]), f64::INFINITY);
        let nan = t([f32::NAN, 0.0, f32::INFINITY]);
        assert_eq!(difference(&nan, &nan).unwrap(), 0.0);
        let transposed = Tensor::from_vec(vec![1.0f32; 3], &[1, 3]).unwrap();
        assert!(difference(&nan, &transposed).is_err());
    }
}
