use super::*;

#[test]
fn adds_every_element() {
    let n = 2 * CHUNK + 3;
    let mut acc: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let g: Vec<f32> = (0..n).map(|i| (i % 5) as f32).collect();
    accumulate(&mut acc, &g).unwrap();
    assert!(acc.iter().enumerate().all(|(i, a)| *a == (i + i % 5) as f32));
}

#[test]
fn different_lengths_are_an_error() {
    let e = accumulate(&mut [1.0; 3], &[1.0; 4]).unwrap_err().to_string();
    assert!(e.contains("4 elements, expected 3"), "{e}");
}

/// On the simulator: ragged sizes, a view off 16-byte alignment, a shared sum that must not change.
#[test]
fn sums_on_a_gpu_are_the_cpus() {
    use crate::check::random;
    use medley_tensor::device::Device;
    let on = Device::Cuda(crate::check::device::device());
    for n in [0, 1, 7, 8, 2048 + 5] {
        let (a, g) = (random(&[n], 1, 1.0), random(&[n + 3], 2, 1.0));
        for (sum, term) in [
            (DType::F32, DType::F32),
            (DType::F32, DType::BF16),
            (DType::F32, DType::F16),
            (DType::BF16, DType::BF16),
            (DType::F16, DType::F16),
        ] {
            let (a, g) = (a.to_dtype(sum).unwrap(), g.to_dtype(term).unwrap());
            for start in [0, 3] {
                let mut want = a.to_dtype(DType::F32).unwrap();
                add_into(&mut want, &g.narrow(0, start, n).unwrap()).unwrap();
                let shared = a.to_device(&on).unwrap();
                let mut got = shared.clone();
                add_into(&mut got, &g.to_device(&on).unwrap().narrow(0, start, n).unwrap()).unwrap();
                let want = want.to_dtype(sum).unwrap().to_vec_f32().unwrap();
                assert_eq!(got.to_vec_f32().unwrap(), want, "{n} elements from {start}, {sum} + {term}");
                assert_eq!(
                    shared.to_vec_f32().unwrap(),
                    a.to_vec_f32().unwrap(),
                    "the shared tensor changed"
                );
            }
        }
    }
    let mut half = random(&[4], 1, 1.0).to_dtype(DType::F16).unwrap().to_device(&on).unwrap();
    assert!(add_into(&mut half, &random(&[4], 1, 1.0).to_device(&on).unwrap()).is_err());
    let e = add_into(&mut random(&[4], 1, 1.0), &half).unwrap_err().to_string();
    assert!(e.contains("cpu"), "{e}");
}
