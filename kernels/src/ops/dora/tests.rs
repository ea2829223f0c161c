use super::*;
use crate::check::{Array, Check, random};
use crate::updates::nf4::quantize_tensor;
use medley_tensor::device::Device;

fn reference(i: &[Array]) -> Vec<Array> {
    let n = i[1].data.len();
    let mut y = i[0].clone();
    for (e, y) in y.data.iter_mut().enumerate() {
        let c = e % n;
        *y = *y * i[1].data[c] / i[2].data[c] + i.get(3).map_or(0.0, |bias| bias.data[c]);
    }
    vec![y]
}

/// Norms as norms are: positive, none near zero.
fn norms(n: usize) -> Tensor {
    Tensor::from_vec((0..n).map(|c| 0.5 + (c % 7) as f32 * 0.25).collect::<Vec<f32>>(), &[n]).unwrap()
}

pub(crate) fn check() {
    for shape in [&[1, 1][..], &[3], &[2, 3, 17], &[31, 40], &[70, 24], &[2, 2056], &[0, 4]] {
        let n = *shape.last().unwrap();
        let check = || Check::new(Dora {}).input(shape).input(&[n]).tensor(norms(n), false);
        check().run(reference);
        check().input(&[n]).run(reference);
    }
    // A view with an odd start.
    let z = random(&[9, 21], 1, 1.0).narrow(1, 1, 16).unwrap();
    Check::new(Dora {}).tensor(z, true).input(&[16]).tensor(norms(16), false).run(reference);
}

#[test]
fn same_bits_on_any_thread_count() {
    Check::new(Dora {}).input(&[150, 300]).input(&[300]).tensor(norms(300), false).input(&[300]).same_on_any_thread_count();
}

#[test]
fn no_gradient_reaches_the_norm_and_nothing_unread_is_kept() {
    let (z, m, norm) = (random(&[4, 6], 1, 1.0), random(&[6], 2, 1.0), norms(6));
    let (_, saved) = Dora {}.forward(&[&z, &m, &norm], &[true, true, true]).unwrap();
    let grads = Dora {}.backward(saved, &[Some(z.clone())], &[true, true, true]).unwrap();
    assert!(grads[0].is_some() && grads[1].is_some() && grads[2].is_none());
    let (_, saved) = Dora {}.forward(&[&z, &m, &norm], &[false, false, false]).unwrap();
    assert!(saved.factor.is_none() && saved.magnitude.is_none());
}

#[test]
fn what_does_not_fit_is_refused() {
    let (z, five) = (random(&[4, 6], 1, 1.0), random(&[5], 2, 1.0));
    let text = Dora {}.forward(&[&z, &five, &norms(6)], &[false; 3]).err().unwrap().to_string();
    assert!(text.contains("[6]") && text.contains("[5]"), "{text}");
    let (w, a, b) = (random(&[4, 6], 1, 1.0), random(&[2, 6], 2, 1.0), random(&[4, 3], 3, 1.0));
    let text = row_norms(&w, &a, &b, 1.0, &squared_rows(&w).unwrap(), DType::F32).unwrap_err().to_string();
    assert!(text.contains("[4, 3]"), "{text}");
}

/// The norms of W + s·B·A written out in f64, over every storage of W and on both devices.
#[test]
fn norms_are_those_of_the_updated_weight() {
    let device = crate::check::device::device();
    let on = Device::Cuda(device.clone());
    let scale = 0.75;
    for (n, k, r) in [(5, 64, 3), (300, 128, 16), (33, 192, 1)] {
        let (a, b) = (random(&[r, k], 3, 0.3), random(&[n, r], 4, 0.3));
        let plain = random(&[n, k], 2, 1.0);
        let bf16 = plain.to_dtype(DType::BF16).unwrap();
        let weights = [
            plain.clone(),
            bf16.clone(),
            plain.to_dtype(DType::F16).unwrap(),
            quantize_tensor(&plain, true).unwrap(),
        ];
        for w in weights {
            let (wv, av, bv) = (w.to_vec_f32().unwrap(), a.to_vec_f32().unwrap(), b.to_vec_f32().unwrap());
            let want: Vec<f64> = (0..n)
                .map(|row| {
                    let value = |c: usize| {
                        let low: f64 = (0..r).map(|i| f64::from(bv[row * r + i]) * f64::from(av[i * k + c])).sum();
                        (f64::from(wv[row * k + c]) + f64::from(scale) * low).powi(2)
                    };
                    (0..k).map(value).sum::<f64>().sqrt()
                })
                .collect();
            let close = |got: &Tensor, bound: f64, what: &str| {
                for (g, w) in got.to_vec_f32().unwrap().iter().zip(&want) {
                    assert!((f64::from(*g) - w).abs() <= bound * w, "{what}, {}: {g} for {w}", w);
                }
            };
            let squares = squared_rows(&w).unwrap();
            close(&row_norms(&w, &a, &b, scale, &squares, DType::F32).unwrap(), 1e-6, &format!("the CPU over {}", w.dtype()));
            let there = |t: &Tensor| t.to_device(&on).unwrap();
            let there = [&w, &a, &b, &squares].map(there);
            for (compute, bound) in [(DType::F32, 1e-6), (DType::F16, 5e-4), (DType::BF16, 4e-3)] {
                let got = row_norms(&there[0], &there[1], &there[2], scale, &there[3], compute).unwrap();
                assert_eq!(got.cuda_device(), Some(&device));
                close(&got, bound, &format!("the GPU over {} in {compute}", w.dtype()));
            }
        }
    }
}
