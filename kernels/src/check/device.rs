//! The same op on a simulated GPU: every kernel, every launcher, with all of the simulator's checks on.
//!
//! For each compute dtype (f32, bf16, f16) the f32 inputs are rounded to what the dtype can hold, both
//! devices run on the rounded values, and the CPU's outputs and gradients are the reference. Activations
//! are stored in the compute dtype on the GPU, parameters stay f32 (a trained weight) or what they were.
//! Views stay views with odd offsets, so that kernels meet addresses that are not aligned. Afterwards no
//! device memory may be left in use.

use super::{Check, random};
use medley_tensor::device::{CudaDevice, Device, SimOptions};
use medley_tensor::{DType, Op, Tensor};

/// The op that a test's wrapper named `op (what of it)` stands for.
fn op_name(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

/// Inputs of an op that are parameters: f32 on the GPU whatever the compute dtype. The others are
/// activations.
fn parameters(op: &str) -> &'static [usize] {
    match op_name(op) {
        "rms_norm" => &[1],
        "add_rms_norm" => &[2],
        "linear" | "linear_cross_entropy" => &[1, 2],
        "lora_linear" => &[1, 2, 3, 4],
        "dora" => &[1, 2, 3],
        "embedding" => &[0],
        _ => &[],
    }
}

/// Buffers that an op keeps on a device with itself: rope's table and the positions last used.
fn kept(op: &str) -> usize {
    if op == "rope" { 2 } else { 0 }
}

/// How many roundings to the compute dtype a result passes through: `lora_linear` rounds x·Aᵀ, and dy·B,
/// before it goes on with them.
fn roundings(op: &str) -> f64 {
    if op_name(op) == "lora_linear" { 2.0 } else { 1.0 }
}

/// Bound on |error| / scale, for results that pass through one rounding to the dtype.
fn bound(dtype: DType, f32_bound: f64) -> f64 {
    match dtype {
        DType::F16 => 2e-3,
        DType::BF16 => 1.6e-2,
        _ => f32_bound,
    }
}

thread_local! {
    static DEVICE: CudaDevice = CudaDevice::sim(SimOptions { threads: 1, ..SimOptions::default() }).unwrap();
}

/// The simulated device of this test thread.
pub(crate) fn device() -> CudaDevice {
    DEVICE.with(Clone::clone)
}

impl<O: Op> Check<O> {
    /// Runs forward and backward on the simulator in every compute dtype and compares them with the CPU.
    pub(super) fn same_on_device(&self) {
        // An activation that is given in 16 bits decides the dtype of all.
        let given = self.inputs.iter().enumerate().find_map(|(i, t)| match t.dtype() {
            DType::BF16 | DType::F16 if !parameters(O::NAME).contains(&i) => Some(t.dtype()),
            _ => None,
        });
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            if given.is_none_or(|given| given == dtype) {
                self.on_device_in(dtype);
            }
        }
    }

    fn on_device_in(&self, dtype: DType) {
        let what = format!("{} in {dtype} on the simulator", O::NAME);
        let device = device();
        let before = device.live_buffers().len();
        let on = Device::Cuda(device.clone());
        let host: Vec<Tensor> = self.inputs.iter().map(|t| rounded(t, dtype)).collect();
        let place = |(i, t): (usize, &Tensor)| {
            let stored =
                if t.dtype() == DType::F32 && !parameters(O::NAME).contains(&i) { dtype } else { t.dtype() };
            upload(t, stored, &on)
        };
        let gpu: Vec<Tensor> = host.iter().enumerate().map(place).collect();
        let (host_refs, gpu_refs): (Vec<&Tensor>, Vec<&Tensor>) =
            (host.iter().collect(), gpu.iter().collect());

        let (want, host_saved) = self.op.forward(&host_refs, &self.needs).unwrap();
        let forward = self.op.forward(&gpu_refs, &self.needs);
        let (got, gpu_saved) = forward.unwrap_or_else(|e| panic!("{what}: forward: {e}"));
        for (j, (got, want)) in got.iter().zip(&want).enumerate() {
            // An embedding's rows come out as the table stores them.
            let stored = gpu.iter().any(|t| t.dtype() == got.dtype());
            assert!(
                stored || [dtype, DType::F32].contains(&got.dtype()),
                "{what}: output {j} is {}",
                got.dtype()
            );
            self.compare(&format!("{what}: output {j}"), got, want, dtype, &device);
        }

        // Cotangents in the outputs' dtype, the same values on both sides.
        let cotangents: Vec<Tensor> = got
            .iter()
            .enumerate()
            .map(|(j, o)| rounded(&random(o.shape(), 1000 + j as u64, 1.0), o.dtype()))
            .collect();
        let on_gpu =
            cotangents.iter().zip(&got).map(|(c, o)| Some(upload(c, o.dtype(), &on))).collect::<Vec<_>>();
        let on_host = cotangents.into_iter().map(Some).collect::<Vec<_>>();
        let want = self.op.backward(host_saved, &on_host, &self.needs).unwrap();
        let backward = self.op.backward(gpu_saved, &on_gpu, &self.needs);
        let grads = backward.unwrap_or_else(|e| panic!("{what}: backward: {e}"));
        assert_eq!(grads.len(), want.len(), "{what}: one gradient slot an input");
        for (i, (got, want)) in grads.iter().zip(&want).enumerate() {
            match (got, want) {
                (Some(got), Some(want)) => {
                    let expected = if parameters(O::NAME).contains(&i) { DType::F32 } else { dtype };
                    assert_eq!(got.dtype(), expected, "{what}: dtype of gradient {i}");
                    self.compare(&format!("{what}: gradient of input {i}"), got, want, dtype, &device);
                }
                (None, None) => {}
                _ => panic!("{what}: gradient of input {i} on one device only"),
            }
        }
        device.synchronize().unwrap_or_else(|e| panic!("{what}: {e}"));
        drop((gpu, got, on_gpu, grads));
        let left = device.live_buffers().len() - before;
        assert!(left <= kept(O::NAME), "{what}: {left} buffers of device memory are left in use");
    }

    fn compare(&self, what: &str, got: &Tensor, want: &Tensor, dtype: DType, device: &CudaDevice) {
        assert_eq!(got.shape(), want.shape(), "{what}: shape");
        assert_eq!(got.cuda_device(), Some(device), "{what}: left the device");
        let stored = got.dtype();
        let got = got.to_vec_f32().unwrap_or_else(|e| panic!("{what}: {e}"));
        let want_values = want.to_vec_f32().unwrap();
        let f32_bound = self.tolerance.max(2e-5);
        let bound = roundings(O::NAME) * bound(dtype, f32_bound).max(bound(stored, f32_bound));
        let row = want.shape().last().copied().unwrap_or(1).max(1);
        for (r, (got, want)) in got.chunks(row).zip(want_values.chunks(row)).enumerate() {
            let squares: f64 = want.iter().map(|w| f64::from(*w).powi(2)).sum();
            let rms = (squares / row as f64).sqrt();
            for (e, (g, w)) in got.iter().zip(want).enumerate() {
                let (g, w) = (f64::from(*g), f64::from(*w));
                let error = (g - w).abs() / (1.0 + w.abs().max(rms));
                // Not `error > bound`: that would let NaN pass.
                assert!(
                    error <= bound,
                    "{what}, row {r}, element {e}: got {g}, the CPU {w} (error {error:.1e} > {bound:.0e})"
                );
            }
        }
    }
}

/// A copy of an f32 tensor with values that `dtype` can hold, in the same layout; others as they are.
fn rounded(t: &Tensor, dtype: DType) -> Tensor {
    if t.dtype() != DType::F32 || dtype == DType::F32 {
        return t.clone();
    }
    let order = outermost_first(t);
    let plain = t.permute(&order).unwrap().to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
    plain.permute(&inverse(&order)).unwrap()
}

/// Dimensions by falling stride.
fn outermost_first(t: &Tensor) -> Vec<usize> {
    let mut order: Vec<usize> = (0..t.rank()).collect();
    order.sort_by_key(|&d| std::cmp::Reverse(t.strides()[d]));
    order
}

fn inverse(order: &[usize]) -> Vec<usize> {
    let mut inverse = vec![0; order.len()];
    for (i, &d) in order.iter().enumerate() {
        inverse[d] = i;
    }
    inverse
}

/// `t` on the GPU in `dtype`. Views become views of a larger tensor there: one odd element before the
/// data, the dimensions in the same order in memory.
fn upload(t: &Tensor, dtype: DType, on: &Device) -> Tensor {
    if t.dtype() == DType::Nf4 || t.dtype() == dtype && t.is_contiguous() && t.offset() == 0 {
        return t.to_device(on).unwrap();
    }
    let cast = |t: &Tensor| if t.dtype() == dtype { t.clone() } else { t.to_dtype(dtype).unwrap() };
    if t.is_contiguous() && t.offset() == 0 || dtype == DType::U32 || t.rank() == 0 || t.numel() == 0 {
        return cast(t).to_device(on).unwrap();
    }
    let order = outermost_first(t);
    let values = t.permute(&order).unwrap();
    let row = *values.shape().last().unwrap();
    let mut wide = values.shape().to_vec();
    let last = wide.len() - 1;
    wide[last] = row + 3;
    let padded = values
        .to_vec_f32()
        .unwrap()
        .chunks(row)
        .flat_map(|r| [&[f32::NAN][..], r, &[f32::NAN, f32::NAN]].concat())
        .collect::<Vec<f32>>();
    let wide = cast(&Tensor::from_vec(padded, &wide).unwrap()).to_device(on).unwrap();
    wide.narrow(last, 1, row).unwrap().permute(&inverse(&order)).unwrap()
}

#[test]
fn views_keep_their_order_and_values() {
    let t = random(&[4, 6], 1, 1.0).transpose(0, 1).unwrap();
    let u = upload(&t, DType::F32, &Device::Cuda(device()));
    assert_eq!(u.strides(), [1, 9]);
    assert!(u.offset() == 1 && !u.is_contiguous());
    let plain = upload(&random(&[2, 3], 1, 1.0), DType::BF16, &Device::Cuda(device()));
    assert_eq!((plain.dtype(), plain.offset()), (DType::BF16, 0));
}

/// An op with three mistakes to choose from: the harness must find each, or it proves nothing.
#[derive(Clone, Copy, PartialEq)]
enum Mistake {
    Value,
    Gradient,
    Leak,
}

impl Op for Mistake {
    const NAME: &'static str = "mistaken";
    const ARITY: std::ops::RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: medley_tensor::Cost = medley_tensor::Cost::Memory;
    type Saved = bool;

    fn forward(&self, inputs: &[&Tensor], _: &[bool]) -> medley_tensor::Result<(Vec<Tensor>, bool)> {
        let on_gpu = inputs[0].cuda_device().is_some();
        if on_gpu && *self == Mistake::Leak {
            std::mem::forget(Tensor::empty_on(&inputs[0].device(), &[1], DType::F32)?);
        }
        let wrong = on_gpu && *self == Mistake::Value;
        let y = if wrong {
            inputs[0].narrow(0, 0, 1)?.broadcast_to(inputs[0].shape())?
        } else {
            inputs[0].clone()
        };
        Ok((vec![y], on_gpu))
    }

    fn backward(
        &self,
        on_gpu: bool,
        grads: &[Option<Tensor>],
        _: &[bool],
    ) -> medley_tensor::Result<Vec<Option<Tensor>>> {
        let dy = grads[0].clone();
        let zero = |t: Tensor| Tensor::zeros_on(&t.device(), t.shape(), t.dtype());
        let wrong = on_gpu && *self == Mistake::Gradient;
        Ok(vec![if wrong { dy.map(zero).transpose()? } else { dy }])
    }
}

#[test]
#[should_panic(expected = "mistaken in f32 on the simulator: output 0, row 1, element 0")]
fn a_wrong_output_is_caught() {
    Check::new(Mistake::Value).input(&[2, 3]).run(|i| vec![i[0].clone()]);
}

#[test]
#[should_panic(expected = "mistaken in f32 on the simulator: gradient of input 0")]
fn a_wrong_gradient_is_caught() {
    Check::new(Mistake::Gradient).input(&[2, 3]).run(|i| vec![i[0].clone()]);
}

#[test]
#[should_panic(expected = "mistaken in f32 on the simulator: 1 buffers of device memory are left in use")]
fn a_leak_is_caught() {
    Check::new(Mistake::Leak).input(&[2, 3]).run(|i| vec![i[0].clone()]);
}
