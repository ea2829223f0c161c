use super::*;

const START: [f64; 4] = [0.5, -1.25, 3.0, 0.0];

fn gradient(step: u64, i: usize) -> f64 {
    (step as f64 + i as f64).sin() * (i as f64 + 1.0)
}

fn settings(step: u64, grad_scale: f32) -> AdamW {
    AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step, grad_scale }
}

/// Ten steps against `torch.optim.AdamW` (torch 2.15, f64 parameters) on the same gradients; the
/// gradients arrive scaled by 1024, as a loss scaler leaves them.
#[test]
fn ten_steps_as_pytorch() {
    let mut p = START.map(|x| x as f32);
    let (mut m, mut v) = ([0.0f32; 4], [0.0f32; 4]);
    for step in 1..=10 {
        let g: [f32; 4] = std::array::from_fn(|i| (gradient(step, i) * 1024.0) as f32);
        settings(step, 1.0 / 1024.0).update(&mut p, &g, &mut m, &mut v).unwrap();
    }
    let close = |what: &str, got: &[f32; 4], want: [f64; 4]| {
        for (g, w) in got.iter().zip(want) {
            assert!((f64::from(*g) - w).abs() < 2e-7 * (1.0 + w.abs()), "{what}: {got:?} for {want:?}");
        }
    };
    close(
        "param",
        &p,
        [0.458_720_343_069_563_8, -1.252_048_681_467_14, 2.987_729_283_446_243_7, 0.038_219_932_407_957_67],
    );
    close(
        "m",
        &m,
        [
            0.074_037_644_701_848_16,
            -0.125_410_838_921_259_57,
            -0.425_392_230_455_587_66,
            -0.362_086_063_526_934_45,
        ],
    );
    close(
        "v",
        &v,
        [
            0.004_976_604_588_860_447,
            0.021_082_335_739_578_167,
            0.042_611_698_323_246_34,
            0.078_187_556_013_200_35,
        ],
    );
}

/// The formula in f64 over ten steps, on enough elements for several chunks, and on other settings.
#[test]
fn ten_steps_against_the_formula_in_any_number_of_threads() {
    const N: usize = 2 * CHUNK + 5;
    let op = |step| AdamW {
        lr: 3e-3 / step as f64,
        beta1: 0.8,
        beta2: 0.95,
        eps: 1e-3,
        weight_decay: 0.0,
        step,
        grad_scale: 0.5,
    };
    let grad = |step: u64, i: usize| ((step * 7 + i as u64 * 13) % 101) as f32 * 0.01 - 0.4;
    let run = |threads| {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
            let mut p: Vec<f32> = (0..N).map(|i| (i % 17) as f32 * 0.1).collect();
            let (mut m, mut v) = (vec![0.0f32; N], vec![0.0f32; N]);
            for step in 1..=10 {
                let g: Vec<f32> = (0..N).map(|i| grad(step, i)).collect();
                op(step).update(&mut p, &g, &mut m, &mut v).unwrap();
            }
            p
        })
    };
    let one = run(1);
    assert!(one == run(2), "two threads give other bits");
    for i in [0, 1, 100, CHUNK - 1, CHUNK, N - 1] {
        let (mut p, mut m, mut v) = (f64::from((i % 17) as f32 * 0.1), 0.0f64, 0.0f64);
        for step in 1..=10u64 {
            let o = op(step);
            let g = f64::from(grad(step, i)) * 0.5;
            m = o.beta1 * m + (1.0 - o.beta1) * g;
            v = o.beta2 * v + (1.0 - o.beta2) * g * g;
            let (c1, c2) = (1.0 - o.beta1.powi(step as i32), 1.0 - o.beta2.powi(step as i32));
            p -= o.lr * (m / c1) / ((v / c2).sqrt() + o.eps);
        }
        assert!((f64::from(one[i]) - p).abs() < 5e-7 * (1.0 + p.abs()), "element {i}: {} for {p}", one[i]);
    }
}

#[test]
fn different_lengths_and_step_zero_are_errors() {
    let [mut p, mut m] = [[0.0f32; 3]; 2];
    let e = settings(1, 1.0).update(&mut p, &[0.0; 3], &mut m, &mut [0.0; 2]).unwrap_err().to_string();
    assert!(e.contains("v has 2 elements, expected 3"), "{e}");
    assert_eq!(p, [0.0; 3]);
    assert!(settings(0, 1.0).update(&mut p, &[0.0; 3], &mut m, &mut [0.0; 3]).is_err());
}
