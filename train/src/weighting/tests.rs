//! Every method against `tests/reference/task_weighting.py`, and what holds for all of them.

use super::conflict::{Conflicts, Measurement, Verdict};
use super::*;
use medley_tensor::rng::Philox;
use serde_json::Value;
use std::path::Path;

type Losses = Vec<Vec<Option<f64>>>;

fn golden() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/weighting/task_weighting.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn losses(name: &str) -> Losses {
    serde_json::from_value(golden()[name].clone()).unwrap()
}

fn methods() -> Vec<(Box<dyn Weighting>, &'static str)> {
    let coba = CobaSettings { window: 6, warmup: 3, temperature: Coba::TEMPERATURE };
    vec![
        (Box::new(Uncertainty::new(3, Uncertainty::LEARNING_RATE)), "losses_with_gaps"),
        (Box::new(Dwa::new(3, Dwa::TEMPERATURE, 4)), "losses_with_gaps"),
        (Box::new(LossRate::new(3, LossRate::TEMPERATURE, 5)), "losses_with_gaps"),
        (Box::new(Famo::new(3, Famo::LEARNING_RATE, false)), "losses_with_gaps"),
        (Box::new(Coba::new(3, coba)), "losses"),
    ]
}

fn moving(method: Box<dyn Weighting>) -> Weigher {
    Weigher::moving(vec![1.0; 3], vec![0, 1, 2], method, 0)
}

fn assert_golden(name: &str, step: usize, got: &[f64]) {
    let want: Vec<f64> = serde_json::from_value(golden()["weights"][name][step].clone()).unwrap();
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() < 2e-8, "{name}, step {step}: {got} for {want}");
    }
}

#[test]
fn methods_agree_with_the_references() {
    for (method, series) in methods() {
        let mut weigher = moving(method);
        let rows = losses(series);
        for (step, row) in rows.iter().enumerate() {
            weigher.observe(row);
            let alpha = weigher.alpha();
            assert_golden(weigher.name(), step, &alpha);
            assert!((alpha.iter().sum::<f64>() - 3.0).abs() < 1e-12);
        }
        let alpha = weigher.alpha();
        assert!(alpha.iter().any(|a| (a - 1.0).abs() > 0.02), "{} moves: {alpha:?}", weigher.name());
    }
}

#[test]
fn famo_agrees_with_its_authors_loop_when_it_re_evaluates() {
    let mut weigher = moving(Box::new(Famo::new(3, Famo::LEARNING_RATE, true)));
    assert_eq!(weigher.signal(), Some(Signal::Reevaluated));
    for (step, (before, after)) in losses("losses").iter().zip(&losses("losses_after")).enumerate() {
        weigher.observe_before(before);
        assert_golden("famo_reevaluated", step, &weigher.alpha());
        weigher.observe(after);
    }
}

/// What a checkpoint holds goes through text, as in a file.
#[test]
fn a_restored_method_goes_on_to_the_bit() {
    for (n, (method, series)) in methods().into_iter().enumerate() {
        let rows = losses(series);
        let mut whole = moving(method);
        let mut resumed = moving(methods().swap_remove(n).0);
        for (step, row) in rows.iter().enumerate() {
            whole.observe(row);
            if step == 12 {
                let text = serde_json::to_string_pretty(&whole.save().unwrap().unwrap()).unwrap();
                assert_eq!(resumed.restore(serde_json::from_str(&text).unwrap()).unwrap(), None);
            } else if step > 12 {
                resumed.observe(row);
            }
            if step >= 12 {
                let bits = |w: &Weigher| w.alpha().iter().map(|a| a.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&whole), bits(&resumed), "{}, step {step}", whole.name());
                assert_eq!(whole.observed(), resumed.observed());
            }
        }
    }
}

#[test]
fn states_of_other_methods_and_tasks_are_not_mixed_up() {
    let dwa = || Box::new(Dwa::new(3, 2.0, 4));
    let saved = moving(dwa()).save().unwrap().unwrap();
    let mut other = moving(Box::new(Famo::new(3, 0.025, false)));
    assert_eq!(other.restore(saved.clone()).unwrap(), Some("dwa".into()));
    let mut two = Weigher::moving(vec![1.0; 2], vec![0, 1], Box::new(Dwa::new(2, 2.0, 4)), 0);
    let e = two.restore(saved).unwrap_err().to_string();
    assert!(e.contains("3 tasks, expected 2"), "{e}");
    assert!(moving(dwa()).restore(serde_json::json!({"method": "dwa"})).is_err());
    assert_eq!(Weigher::fixed(vec![1.0]).save().unwrap(), None);
}

#[test]
fn priors_multiply_and_tasks_without_one_are_left_out() {
    let prior = vec![2.0, 0.0, 0.5, 1.0];
    // Tasks 0 and 2: 1 has no weight, 3 no examples.
    let mut weigher = Weigher::moving(prior.clone(), vec![0, 2], Box::new(Uncertainty::new(2, 0.1)), 3);
    let row = [Some(0.1), Some(9.0), Some(4.0), None];
    for _ in 0..2 {
        weigher.observe(&row);
        assert_eq!(weigher.alpha(), prior, "warming up");
    }
    for _ in 0..20 {
        weigher.observe(&row);
    }
    let alpha = weigher.alpha();
    assert_eq!((alpha[1], alpha[3]), (0.0, 1.0));
    let (first, second) = (alpha[0] / 2.0, alpha[2] / 0.5);
    assert!((first + second - 2.0).abs() < 1e-12 && first > 1.2, "{alpha:?}");
    // A loss that is not a number is no observation of its task.
    weigher.observe(&[Some(f64::NAN), None, None, None]);
    assert_eq!(weigher.alpha(), alpha);
}

#[test]
fn directions_are_the_intended_ones() {
    // Task 0 falls by a third each block of two, task 1 stands still.
    let falling = |i: i32| vec![Some(3.0 * 0.67f64.powi(i / 2)), Some(2.0)];
    for method in [
        Box::new(Dwa::new(2, 2.0, 2)) as Box<dyn Weighting>,
        Box::new(LossRate::new(2, 1.0, 2)),
        Box::new(Famo::new(2, 0.1, false)),
    ] {
        let name = method.name();
        let mut method = method;
        (0..8).for_each(|i| method.observe(&falling(i)));
        let weights = method.weights();
        // FAMO's z/ℓ has another part: the logits alone say who is behind.
        let scale = if name == "famo" { [3.0 * 0.67f64.powi(3), 2.0] } else { [1.0, 1.0] };
        assert!(weights[0] * scale[0] < weights[1] * scale[1], "{name}: {weights:?}");
    }
    // CoBa: a task that diverges loses weight although it "converges slowest".
    let settings = CobaSettings { window: 5, warmup: 2, temperature: 5.0 };
    let mut coba = Coba::new(2, settings);
    for i in 0..30 {
        let rising = 1.0 + 0.05 * f64::from((i - 15).max(0)) - 0.02 * f64::from(i.min(15));
        coba.observe(&[Some(2.0 - 0.02 * f64::from(i)), Some(rising)]);
        if i == 14 {
            // Both converge: the slower has more.
            assert!(coba.weights()[0] > 0.55, "{:?}", coba.weights());
        }
    }
    assert!(coba.weights()[1] < 0.45, "{:?}", coba.weights());
}

#[test]
fn a_loss_rate_is_bounded_by_the_number_of_tasks() {
    let mut method = LossRate::new(3, 1.0, 1);
    method.observe(&[Some(1.0); 3]);
    method.observe(&[Some(1e-6), Some(1.0), Some(50.0)]);
    let weights = method.weights();
    assert_eq!(weights[1], weights[2], "a loss that rises is one that stands still");
    assert!((weights[1] / weights[0] - 4.0).abs() < 1e-4, "{weights:?}");
}

#[test]
fn coba_stays_even_while_nothing_moves() {
    let mut coba = Coba::new(3, CobaSettings { window: 4, warmup: 0, temperature: 5.0 });
    for _ in 0..10 {
        coba.observe(&[Some(1.0), Some(2.0), None]);
        assert!(coba.weights().iter().all(|w| (w - 1.0 / 3.0).abs() < 1e-12), "{:?}", coba.weights());
    }
}

fn gram(gradients: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
    gradients.iter().map(|a| gradients.iter().map(|b| dot(a, b)).collect()).collect()
}

#[test]
fn pcgrad_agrees_with_the_reference() {
    let mut conflicts = 0;
    for case in golden()["pcgrad"].as_array().unwrap() {
        let read = |key: &str| case[key].clone();
        let gradients: Vec<Vec<f64>> = serde_json::from_value(read("gradients")).unwrap();
        let orders: Vec<Vec<usize>> = serde_json::from_value(read("orders")).unwrap();
        let sum: Vec<f64> = serde_json::from_value(read("sum")).unwrap();
        let factors = pcgrad::factors(&gram(&gradients), &orders);
        conflicts += usize::from(factors.iter().any(|f| *f != 1.0));
        for (i, want) in sum.iter().enumerate() {
            let got: f64 = factors.iter().zip(&gradients).map(|(f, g)| f * g[i]).sum();
            assert!((got - want).abs() < 1e-8, "{got} for {want}");
        }
    }
    assert!(conflicts >= 2);
}

#[test]
fn pcgrad_leaves_friends_alone_and_two_enemies_orthogonal() {
    let friends = gram(&[vec![1.0, 0.2], vec![0.3, 0.5], vec![0.0, 2.0]]);
    let orders = pcgrad::random_orders(3, Philox::new(1, 2));
    assert!(orders.iter().enumerate().all(|(i, o)| o.len() == 2 && !o.contains(&i)));
    assert_eq!(pcgrad::factors(&friends, &orders), [1.0; 3]);
    // The sum of two projected enemies hurts neither.
    let (a, b) = (vec![1.0, 0.0], vec![-2.0, 1.0]);
    let factors = pcgrad::factors(&gram(&[a.clone(), b.clone()]), &[vec![1], vec![0]]);
    let sum: Vec<f64> = (0..2).map(|i| factors[0] * a[i] + factors[1] * b[i]).collect();
    for g in [a, b] {
        assert!(sum.iter().zip(&g).map(|(s, g)| s * g).sum::<f64>() > 0.0, "{sum:?} {g:?}");
    }
    let broken = vec![vec![1.0, f64::NAN], vec![f64::NAN, 1.0]];
    assert_eq!(pcgrad::factors(&broken, &[vec![1], vec![0]]), [1.0; 2]);
    assert_eq!(pcgrad::factors(&gram(&[vec![1.0], vec![0.0]]), &[vec![1], vec![0]]), [1.0; 2]);
    assert_ne!(
        pcgrad::random_orders(6, Philox::new(1, 2)),
        pcgrad::random_orders(6, Philox::new(1, 3)),
        "orders are drawn anew each step"
    );
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

#[test]
fn the_report_averages_and_advises() {
    let mut conflicts = Conflicts::new(4);
    for i in 0..12 {
        let wobble = if i % 2 == 0 { 0.05 } else { -0.05 };
        let (apart, together, noise) = (-0.21 + wobble, 0.3 + wobble, 4.0 * wobble);
        // Gradients of norm 1, 2 and 12, each times its factor; the fourth task never occurs.
        let cosines = [[1.0, apart, together], [apart, 1.0, noise], [together, noise, 1.0]];
        let factors = [1.0, 0.5, 4.0, 0.0];
        let norms = [1.0, 2.0, 12.0];
        let mut gram = vec![vec![0.0; 4]; 4];
        for a in 0..3 {
            for b in 0..3 {
                gram[a][b] = cosines[a][b] * norms[a] * factors[a] * norms[b] * factors[b];
            }
        }
        conflicts.add(&Measurement::new(&gram, &factors));
    }
    let tasks = names(&["summarization", "classification", "qa", "unseen"]);
    let report = conflicts.report(&tasks, 10).unwrap();
    assert_eq!(report.tasks, tasks[..3]);
    let verdicts: Vec<Verdict> = report.pairs.iter().map(|p| p.verdict).collect();
    assert_eq!(verdicts, [Verdict::Conflict, Verdict::Help, Verdict::Independent]);
    for (got, want) in report.gradient_norms.iter().zip([1.0, 2.0, 12.0]) {
        assert!((got - want).abs() < 1e-12);
    }
    let pair = &report.pairs[0];
    assert!((pair.cosine + 0.21).abs() < 1e-12 && (pair.min + 0.26).abs() < 1e-12 && pair.measurements == 12);
    assert!((pair.deviation - 0.05 * (12.0f64 / 11.0).sqrt()).abs() < 1e-12);
    assert_eq!(report.cosines[0][1], report.cosines[1][0]);
    assert_eq!(
        report.advice[0],
        "summarization and classification pull apart (cosine -0.21 over 12 measurements): lower one's weight, train \
         them with gradient_surgery: pcgrad, or give them separate adapters"
    );
    assert!(report.advice[1].starts_with("summarization and qa help each other (cosine +0.30"));
    assert!(report.advice[2].starts_with("classification and qa neither help nor disturb"));
    assert!(report.advice[3].contains("qa's gradient is 12 times as long as summarization's"));
    let lines = report.lines();
    assert!(
        lines[2].starts_with("summarization ") && lines[2].contains("1.000") && lines[2].contains("-0.210")
    );
    // As a file: nothing is lost.
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<super::conflict::ConflictReport>(&text).unwrap(), report);
}

#[test]
fn nothing_measured_is_no_report_and_two_measurements_are_too_few() {
    let mut conflicts = Conflicts::new(2);
    let tasks = names(&["a", "b"]);
    assert_eq!(conflicts.report(&tasks, 1), None);
    conflicts.add(&Measurement::new(&[vec![1.0, 0.0], vec![0.0, 0.0]], &[1.0, 1.0]));
    conflicts.add(&Measurement::new(&[vec![f64::NAN, 0.0], vec![0.0, 1.0]], &[1.0, 1.0]));
    assert_eq!(conflicts.report(&tasks, 1), None, "a zero gradient has no direction");
    for _ in 0..2 {
        conflicts.add(&Measurement::new(&[vec![1.0, -0.9], vec![-0.9, 1.0]], &[1.0, 1.0]));
    }
    let report = conflicts.report(&tasks, 1).unwrap();
    assert_eq!(report.pairs[0].verdict, Verdict::TooFew);
    assert!(report.advice[0].contains("2 measurements"), "{}", report.advice[0]);
}
