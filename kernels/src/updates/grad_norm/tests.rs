use super::*;
use medley_tensor::DType;
use medley_tensor::rng::Philox;

#[test]
fn sums_every_slice_once() {
    assert_eq!(sum_of_squares(&[]), 0.0);
    assert_eq!(sum_of_squares(&[&[], &[3.0], &[4.0, 1.0]]), 26.0);
    // Whole numbers: the exact sum, chunk borders and ragged tails included.
    let a: Vec<f32> = (0..CHUNK + 37).map(|i| (i % 11) as f32).collect();
    let b: Vec<f32> = (0..19).map(|i| i as f32).collect();
    let want: u64 =
        (0..CHUNK as u64 + 37).map(|i| (i % 11).pow(2)).sum::<u64>() + (0..19u64).map(|i| i * i).sum::<u64>();
    assert_eq!(sum_of_squares(&[&a, &b]), want as f64);
}

#[test]
fn finite_exactly_when_every_element_is() {
    assert_eq!(sum_of_squares(&[&[f32::MAX; 40]]), f64::from(f32::MAX).powi(2) * 40.0);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 17, 39] {
            let mut g = [1.0f32; 40];
            g[at] = bad;
            assert!(!sum_of_squares(&[&[2.0], &g]).is_finite(), "{bad} at {at}");
        }
    }
}

#[test]
fn same_bits_on_any_thread_count() {
    let mut rng = Philox::new(1, 1);
    let g: Vec<f32> = (0..5 * CHUNK + 3).map(|_| rng.normal_f32()).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sum_of_squares(&[&g, &g[..77]]).to_bits())
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn the_norm_on_a_gpu() {
    use crate::check::random;
    use medley_tensor::device::Device;
    let on = Device::Cuda(crate::check::device::device());
    let grads: Vec<Tensor> =
        [1, 300, 0, CHUNK + 77, 5].iter().enumerate().map(|(i, n)| random(&[*n], i as u64, 1e-3)).collect();
    let norm = |grads: &[Tensor]| grad_norm(&grads.iter().collect::<Vec<_>>()).unwrap();
    let there =
        |grads: &[Tensor]| -> Vec<Tensor> { grads.iter().map(|g| g.to_device(&on).unwrap()).collect() };
    let want = norm(&grads);
    let gpu = there(&grads);
    assert!((norm(&gpu) - want).abs() < 1e-13 * want, "{} for {want}", norm(&gpu));
    assert_eq!(norm(&gpu).to_bits(), norm(&gpu).to_bits());
    // A view that begins inside a 16-byte word.
    let view = [gpu[3].narrow(0, 1, 1000).unwrap()];
    let want = norm(&[grads[3].narrow(0, 1, 1000).unwrap()]);
    assert!((norm(&view) - want).abs() < 1e-13 * want);
    assert_eq!(norm(&there(&[Tensor::zeros(&[0], DType::F32).unwrap()])), 0.0);

    let largest = there(&[Tensor::from_vec(vec![f32::MAX; 40], &[40]).unwrap()]);
    assert!((norm(&largest) / (f64::from(f32::MAX) * 40f64.sqrt()) - 1.0).abs() < 1e-14);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut g = vec![1.0f32; 50];
        g[47] = bad;
        assert!(!norm(&there(&[grads[1].clone(), Tensor::from_vec(g, &[50]).unwrap()])).is_finite(), "{bad}");
    }
    let half = grads[1].to_dtype(DType::F16).unwrap().to_device(&on).unwrap();
    assert!(grad_norm(&[&half]).unwrap_err().to_string().contains("f16"));
}

#[test]
fn a_dot_product_is_exact_on_whole_numbers_and_close_on_a_gpu() {
    use crate::check::random;
    use medley_tensor::device::Device;
    let whole = |n: usize, k: usize| {
        Tensor::from_vec((0..n).map(|i| ((i * k) % 11) as f32 - 3.0).collect::<Vec<_>>(), &[n]).unwrap()
    };
    let sizes = [CHUNK + 37, 0, 19];
    let (a, b): (Vec<Tensor>, Vec<Tensor>) = sizes.iter().map(|n| (whole(*n, 3), whole(*n, 7))).unzip();
    let product = |a: &[Tensor], b: &[Tensor]| {
        dot(&a.iter().collect::<Vec<_>>(), &b.iter().collect::<Vec<_>>()).unwrap()
    };
    let want: i64 =
        sizes.iter().flat_map(|n| 0..*n as i64).map(|i| ((i * 3) % 11 - 3) * ((i * 7) % 11 - 3)).sum();
    assert_eq!(product(&a, &b), want as f64);
    assert_eq!(product(&[], &[]), 0.0);

    let on = Device::Cuda(crate::check::device::device());
    let list = |seed: u64| [1, 300, CHUNK + 77].map(|n| random(&[n], seed + n as u64, 1e-2)).to_vec();
    let (a, b) = (list(1), list(2));
    let there = |l: &[Tensor]| l.iter().map(|g| g.to_device(&on).unwrap()).collect::<Vec<_>>();
    let (want, size) = (product(&a, &b), product(&a, &a) + product(&b, &b));
    let got = product(&there(&a), &there(&b));
    assert!((got - want).abs() < 1e-7 * size, "{got} for {want}");

    assert!(dot(&[&a[0]], &[]).is_err());
    assert!(dot(&[&a[0]], &[&a[1]]).is_err());
}
