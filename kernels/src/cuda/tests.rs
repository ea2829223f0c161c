use super::*;
use crate::check::device::device;
use crate::check::random;
use medley_tensor::Op;
use medley_tensor::device::{Device, SimOptions};

const FLOATS: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

fn values(n: usize) -> Tensor {
    let mut data = random(&[n], 7, 100.0).to_vec_f32().unwrap();
    // Ties, both ways, the ends of the ranges, a subnormal, and what is no number.
    let special = [
        1.003_906_3,
        1.011_718_8,
        1.000_488_3,
        1.001_464_8,
        65_504.0,
        65_520.0,
        3.4e38,
        1e-40,
        6e-8,
        -0.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for (d, s) in data.iter_mut().zip(special) {
        *d = s;
    }
    Tensor::from_vec(data, &[n]).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    // One NaN is as good as another.
    let one = |x: f32| if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() };
    t.to_vec_f32().unwrap().into_iter().map(one).collect()
}

#[test]
fn casts_round_as_the_cpu_does() {
    let on = Device::Cuda(device());
    for n in [1, 13, 64, 2048 + 21] {
        for (from, to) in FLOATS.into_iter().flat_map(|from| FLOATS.map(|to| (from, to))) {
            let t = values(n).to_dtype(from).unwrap();
            let want = t.to_dtype(to).unwrap();
            let there = t.to_device(&on).unwrap();
            let got = cast(&there, to).unwrap();
            assert_eq!((got.dtype(), got.shape(), got.device()), (to, t.shape(), on.clone()));
            assert_eq!(bits(&got), bits(&want), "{n} elements, {from} to {to}");
            if n > 20 {
                // A view whose first element is not 16-byte aligned.
                let (view, want) = (there.narrow(0, 3, n - 5).unwrap(), want.narrow(0, 3, n - 5).unwrap());
                assert_eq!(bits(&cast(&view, to).unwrap()), bits(&want), "view of {n}, {from} to {to}");
            }
        }
    }
    assert_eq!(cast(&values(0).to_device(&on).unwrap(), DType::F16).unwrap().numel(), 0);
    assert_eq!(cast(&values(20), DType::BF16).unwrap().dtype(), DType::BF16, "on the CPU too");
}

#[test]
fn vectors_become_contiguous_f32() {
    let on = Device::Cuda(device());
    let t = random(&[6, 5], 1, 1.0).to_dtype(DType::BF16).unwrap();
    let column = t.to_device(&on).unwrap().narrow(1, 2, 1).unwrap().reshape(&[6]).unwrap();
    let got = to_f32(&column).unwrap();
    assert!(got.is_contiguous() && got.dtype() == DType::F32);
    assert_eq!(got.to_vec_f32().unwrap(), t.narrow(1, 2, 1).unwrap().to_vec_f32().unwrap());
    let ids = Tensor::from_vec(vec![1u32], &[1]).unwrap().to_device(&on).unwrap();
    assert!(to_f32(&ids).is_err() && cast(&ids, DType::F32).is_err());
    assert!(suffix("op", DType::U8).unwrap_err().to_string().contains("bf16"));
}

#[test]
fn operands_of_another_device_are_refused() {
    let here = device();
    let t = random(&[4], 1, 1.0);
    let text = ptr("op", &here, &t).unwrap_err().to_string();
    assert!(text.contains("op") && text.contains("sim") && text.contains("cpu"), "{text}");
    let view =
        random(&[4, 4], 1, 1.0).to_device(&Device::Cuda(here.clone())).unwrap().transpose(0, 1).unwrap();
    assert!(matches!(ptr("op", &here, &view), Err(Error::NotContiguous { op: "op", .. })));
    assert!(u32_arg("op", "rows", 1 << 32).is_err() && blocks_for("op", usize::MAX, 2).is_err());
}

#[test]
fn tensors_of_another_card_are_refused() {
    let (here, other) = (device(), CudaDevice::sim(SimOptions::default()).unwrap());
    let on = |device: &CudaDevice, shape: &[usize]| {
        random(shape, 1, 1.0).to_device(&Device::Cuda(device.clone())).unwrap()
    };
    let x = on(&here, &[4, 16]);
    for (w, a) in [(&other, &here), (&here, &other)] {
        let (w, a, b) = (on(w, &[8, 16]), on(a, &[2, 16]), on(&here, &[8, 2]));
        let lora = crate::ops::lora_linear::LoraLinear { scale: 1.0, dropout: None };
        let refused = lora.forward(&[&x, &w, &a, &b], &[true; 4]).err().unwrap();
        assert!(matches!(refused, Error::DeviceMismatch { .. }), "{refused}");
    }
    let head = crate::ops::LinearCrossEntropy {
        rows: [1].into(),
        targets: [3].into(),
        weights: [1.0].into(),
        expected_upstream: 1.0,
    };
    let refused = head.forward(&[&x, &on(&other, &[8, 16])], &[true; 2]).err().unwrap();
    assert!(matches!(refused, Error::DeviceMismatch { .. }), "{refused}");
}
