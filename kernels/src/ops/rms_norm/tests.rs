use super::*;
use crate::check::{Check, Array};

pub(crate) fn reference(x: &Array, w: &Array, eps: f64) -> Array {
    let h = w.data.len();
    let data = x.data.chunks(h).flat_map(|row| {
        let r = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / h as f64 + eps).sqrt();
        row.iter().zip(&w.data).map(move |(v, w)| v * r * w).collect::<Vec<_>>()
    });
    Array::new(&x.shape, data.collect())
}

pub(crate) fn check() {
    // Rows of one element, of one warp, ragged ones of several steps, many rows, one wider than a block.
    for shape in [&[1, 1][..], &[3, 5], &[2, 3, 17], &[2, 300], &[70, 24], &[1, 8200], &[0, 4]] {
        let h = *shape.last().unwrap();
        Check::new(RmsNorm { eps: 1e-5 })
            .input(shape)
            .input(&[h])
            .run(|i| vec![reference(&i[0], &i[1], 1e-5f32 as f64)]);
    }
}

#[test]
fn wrong_weight_is_an_error() {
    let x = Tensor::from_vec(vec![1.0f32; 6], &[2, 3]).unwrap();
    let w = Tensor::from_vec(vec![1.0f32; 2], &[2]).unwrap();
    assert!(RmsNorm { eps: 1e-5 }.forward(&[&x, &w], &[false, false]).is_err());
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(RmsNorm { eps: 1e-5 }).input(&[900, 130]).input(&[130]).same_on_any_thread_count();
}

/// What the header of `rms_norm.cu` claims, counted on aligned rows.
#[test]
fn traffic_is_what_the_kernels_need() {
    use medley_tensor::device::{CudaDevice, Device, SimOptions};
    let device =
        CudaDevice::sim(SimOptions { threads: 1, counts: true, ..SimOptions::default() }).unwrap();
    let on = Device::Cuda(device.clone());
    let (rows, h) = (80, 1024);
    let x = crate::check::random(&[rows, h], 1, 1.0).to_dtype(DType::BF16).unwrap().to_device(&on).unwrap();
    let w = crate::check::random(&[h], 2, 1.0).to_device(&on).unwrap();
    let op = RmsNorm { eps: 1e-5 };
    let (y, saved) = op.forward(&[&x, &w], &[true; 2]).unwrap();
    op.backward(saved, &[Some(y[0].clone())], &[true; 2]).unwrap();
    device.synchronize().unwrap();
    let reports = device.simulator().unwrap().reports();
    let names: Vec<&str> = reports.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["rms_norm_bwd_dw_bf16", "rms_norm_bwd_dx_bf16", "rms_norm_bwd_sum_f32", "rms_norm_fwd_bf16"]);
    for (name, _, counts) in reports {
        assert_eq!(counts.wavefronts(), counts.wavefronts_ideal(), "{name}: bank conflicts");
        // Eight f32 weights are read in two accesses that share a sector; the second finds it in L1.
        let weights = if name.contains("fwd") || name.contains("dx") { (rows * h * 4 / 32) as u64 } else { 0 };
        assert_eq!(counts.sectors(), counts.sectors_needed() + weights, "{name}: sectors");
        let activations = match name.as_str() {
            "rms_norm_fwd_bf16" => 2,
            "rms_norm_bwd_dx_bf16" => 3,
            "rms_norm_bwd_dw_bf16" => 2,
            _ => continue,
        };
        let footprint = counts.read_footprint + counts.written_footprint;
        let bytes = (activations * rows * h * 2) as u64;
        assert!(footprint >= bytes && footprint < bytes + bytes / 5, "{name}: {footprint} of {bytes}");
    }
}
