use super::*;
use crate::check::{Array, Check, random};
use crate::cuda::gemm::LoraSchedule;
use medley_tensor::DType;
use medley_tensor::device::Device;
use medley_tensor::rng::Philox;

/// `x·Wᵀ + scale·(drop(x)·Aᵀ)·Bᵀ (+ bias)` in f64, the mask drawn word by word.
fn reference(op: &LoraLinear, i: &[Array]) -> Vec<Array> {
    let mut dropped = i[0].clone();
    if let Some(Dropout { p, seed, stream }) = op.dropout {
        let mut rng = Philox::new(seed, stream);
        for x in &mut dropped.data {
            *x = if rng.uniform_f32() >= p { *x * f64::from(1.0 / (1.0 - p)) } else { 0.0 };
        }
    }
    let mut y = linear::tests::reference(&i[0], &i[1], i.get(4));
    let h = linear::tests::reference(&dropped, &i[2], None);
    let low_rank = linear::tests::reference(&h, &i[3], None);
    y.data.iter_mut().zip(low_rank.data).for_each(|(y, l)| *y += f64::from(op.scale) * l);
    vec![y]
}

const DROPOUT: Dropout = Dropout { p: 0.3, seed: 5, stream: 1 << 40 };

pub(crate) fn check() {
    for dropout in [None, Some(DROPOUT)] {
        for (shape, n, r) in
            [(&[1, 1][..], 1, 1), (&[3], 2, 1), (&[2, 3, 17], 5, 4), (&[31, 40], 33, 8), (&[0, 4], 3, 2)]
        {
            let op = LoraLinear { scale: 0.5, dropout };
            let k = *shape.last().unwrap();
            let check =
                || Check::new(op).tolerance(4e-5).input(shape).input(&[n, k]).input(&[r, k]).input(&[n, r]);
            check().run(|i| reference(&op, i));
            check().input(&[n]).run(|i| reference(&op, i));
        }
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::Nf4] {
            let op = LoraLinear { scale: 2.0, dropout };
            Check::new(op)
                .tolerance(4e-5)
                .input(&[5, 64])
                .frozen(&[7, 64], dtype)
                .input(&[3, 64])
                .input(&[7, 3])
                .run(|i| reference(&op, i));
        }
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(LoraLinear { scale: 0.5, dropout: Some(DROPOUT) })
        .input(&[150, 200])
        .input(&[300, 200])
        .input(&[8, 200])
        .input(&[300, 8])
        .input(&[300])
        .same_on_any_thread_count();
}

/// B starts at zero: the layer must then be the plain linear layer, bit for bit.
#[test]
fn a_fresh_adapter_changes_nothing() {
    let (x, w, a) = (random(&[9, 33], 1, 1.0), random(&[14, 33], 2, 1.0), random(&[4, 33], 3, 1.0));
    let b = Tensor::zeros(&[14, 4], DType::F32).unwrap();
    let op = LoraLinear { scale: 4.0, dropout: Some(DROPOUT) };
    let adapted = op.forward(&[&x, &w, &a, &b], &[false; 4]).unwrap().0.remove(0);
    let plain = linear::Linear {}.forward(&[&x, &w], &[false; 2]).unwrap().0.remove(0);
    assert_eq!(adapted.to_vec_f32().unwrap(), plain.to_vec_f32().unwrap());
}

#[test]
fn saves_only_what_a_gradient_reads() {
    let inputs = [random(&[2, 3], 1, 1.0), random(&[4, 3], 2, 1.0), random(&[2, 3], 3, 1.0), random(&[4, 2], 4, 1.0)];
    let saved = |needs: [bool; 4]| {
        let op = LoraLinear { scale: 1.0, dropout: None };
        let (_, s) = op.forward(&inputs.each_ref(), &needs).unwrap();
        [s.x.is_some(), s.h.is_some(), s.weight.is_some(), s.a.is_some(), s.b.is_some()]
    };
    assert_eq!(saved([false, false, false, false]), [false; 5]);
    assert_eq!(saved([true, false, false, false]), [false, false, true, true, true]);
    assert_eq!(saved([false, true, false, false]), [true, false, false, false, false]);
    assert_eq!(saved([false, false, true, false]), [true, false, false, false, true]);
    assert_eq!(saved([false, false, false, true]), [false, true, false, false, false]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let f = |shape: &[usize]| random(shape, 1, 1.0);
    let error = |a: &[usize], b: &[usize], p: f32| {
        let op = LoraLinear { scale: 1.0, dropout: Some(Dropout { p, seed: 0, stream: 0 }) };
        let inputs = [f(&[2, 3]), f(&[4, 3]), f(a), f(b)];
        op.forward(&inputs.each_ref(), &[false; 4]).map(|_| ()).unwrap_err().to_string()
    };
    assert!(error(&[2, 5], &[4, 2], 0.0).contains("[2, 5]"));
    assert!(error(&[2, 3], &[4, 3], 0.0).contains("[4, 3]"));
    assert!(error(&[2, 3], &[5, 2], 0.0).contains("[5, 2]"));
    assert!(error(&[2, 3], &[4, 2], 1.0).contains("p is 1"));
}

/// Both schedules of the GPU against the CPU, forward and backward, over dense and NF4 bases.
#[test]
fn schedules_on_a_gpu_agree_with_the_cpu() {
    let device = &crate::check::device::device();
    let on = Device::Cuda(device.clone());
    let (rows, n, k) = (37, 140, 128);
    let op = LoraLinear { scale: 0.5, dropout: None };
    let needs = [true, false, true, true];
    for dtype in [DType::BF16, DType::F16] {
        let held = |t: Tensor| t.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap();
        for (rank, stored) in [(16, dtype), (40, dtype), (8, DType::Nf4)] {
            let base = random(&[n, k], 2, 0.1);
            let base = if stored == DType::Nf4 {
                crate::updates::nf4::quantize_tensor(&base, true).unwrap()
            } else {
                held(base).to_dtype(stored).unwrap()
            };
            let (x, a, b) = (held(random(&[rows, k], 1, 1.0)), held(random(&[rank, k], 3, 0.1)), held(random(&[n, rank], 4, 0.1)));
            let dy = held(random(&[rows, n], 5, 1.0));
            let (want, saved) = op.forward(&[&x, &base, &a, &b], &needs).unwrap();
            let want_grads = op.backward(saved, &[Some(dy.clone())], &needs).unwrap();

            let up = |t: &Tensor, dtype| t.to_dtype(dtype).unwrap().to_device(&on).unwrap();
            let (x, dy) = (up(&x, dtype), up(&dy, dtype));
            let (base, a, b) = (base.to_device(&on).unwrap(), up(&a, DType::F32), up(&b, DType::F32));
            let size = linear::Sizes { rows, k, n };
            let schedules = [None, Some(LoraSchedule::TwoStep), Some(LoraSchedule::Fused)];
            for schedule in &schedules[..if stored == DType::Nf4 { 2 } else { 3 }] {
                let what = format!("{dtype} rank {rank} over {stored}, {schedule:?}");
                let (y, h) = op.forward_on(device, size, &x, [&base, &a, &b], None, *schedule).unwrap();
                let saved = Saved {
                    x: Some(x.clone()),
                    h: Some(h),
                    weight: Some(base.clone()),
                    a: Some(a.clone()),
                    b: Some(b.clone()),
                };
                let grads = op.backward_on(device, &saved, &dy, &needs, *schedule).unwrap();
                assert!(grads[1].is_none());
                let pairs = [(Some(&y), Some(&want[0]))].into_iter().chain(
                    grads.iter().zip(&want_grads).map(|(g, w)| (g.as_ref(), w.as_ref())),
                );
                let bound = if dtype == DType::BF16 { 1.2e-2 } else { 1.5e-3 };
                for (i, (got, want)) in pairs.enumerate() {
                    let (Some(got), Some(want)) = (got, want) else { continue };
                    assert_eq!(got.shape(), want.shape(), "{what}: {i}");
                    let (got, want) = (got.to_vec_f32().unwrap(), want.to_vec_f32().unwrap());
                    let rms = (want.iter().map(|w| w * w).sum::<f32>() / want.len() as f32).sqrt();
                    for (g, w) in got.iter().zip(&want) {
                        assert!((g - w).abs() <= bound * (w.abs() + rms), "{what}: {i}: got {g}, the CPU {w}");
                    }
                }
            }
        }
    }
}
