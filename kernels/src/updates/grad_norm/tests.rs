use super::*;
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
