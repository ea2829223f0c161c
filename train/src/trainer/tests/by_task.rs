//! Gradients a task at a time: their sum is the step's gradient, and PCGrad's is what the paper says.

use super::*;
use crate::trainer::by_task::TaskGradients;

const INDICES: [u32; 8] = [3, 0, 4, 6, 2, 7, 5, 1];

fn run(model: &Llama, micro_batch: usize, weighing: &Weighing) -> (StepLoss, TaskGradients) {
    let data = ragged();
    let params = model.params();
    let ran = TaskGradients::run(model, &params, &data, &INDICES, micro_batch, weighing, &QUIET).unwrap();
    assert!(params.iter().all(|p| p.grad().is_none()), "nothing is left behind");
    ran
}

/// The gradient that lies in the parameters, which forget it.
fn taken(model: &Llama) -> Vec<f32> {
    let mut all = vec![];
    for param in model.params() {
        all.extend(param.grad().map_or(vec![0.0; param.value().numel()], |g| g.to_vec_f32().unwrap()));
        param.zero_grad();
    }
    all
}

/// `α_i·∇L_i` of each task of the step, by a run with all other weights 0.
fn separate(model: &Llama, weighing: &Weighing) -> Vec<Vec<f64>> {
    (0..3)
        .map(|task| {
            let mut alone = vec![0.0; 3];
            alone[task] = weighing.alpha[task];
            let alone = Weighing { alpha: alone, reduction: weighing.reduction };
            let (_, grad) = gradient(model, &ragged(), &INDICES, 8, &alone, QUIET);
            grad.into_iter().map(f64::from).collect()
        })
        .collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// PCGrad's loop on whole vectors.
fn projected(gradients: &[Vec<f64>], orders: &[Vec<usize>]) -> Vec<f32> {
    let mut sum = vec![0.0; gradients[0].len()];
    for (i, order) in orders.iter().enumerate() {
        let mut own = gradients[i].clone();
        for &j in order {
            let product = dot(&own, &gradients[j]);
            if product < 0.0 {
                let share = product / dot(&gradients[j], &gradients[j]);
                own.iter_mut().zip(&gradients[j]).for_each(|(x, y)| *x -= share * y);
            }
        }
        sum.iter_mut().zip(own).for_each(|(sum, x)| *sum += x);
    }
    sum.into_iter().map(|x| x as f32).collect()
}

#[test]
fn a_step_cut_by_task_is_the_same_step() {
    let model = fresh_adapter(0.0);
    for reduction in [LossReduction::TaskMean, LossReduction::TokenMean] {
        let weighing = weighed(reduction, &ALPHA);
        let (plain, expected) = gradient(&model, &ragged(), &INDICES, 8, &weighing, QUIET);
        let alone = separate(&model, &weighing);
        for micro_batch in [1, 3, 8] {
            let (loss, gradients) = run(&model, micro_batch, &weighing);
            assert!((loss.loss - plain.loss).abs() < 1e-6 * plain.loss, "{} {}", loss.loss, plain.loss);
            let counts = |l: &StepLoss| (l.labelled.clone(), l.examples.clone(), l.tokens);
            assert_eq!(counts(&loss), counts(&plain));

            let measured = gradients.measure();
            for &(a, b, cosine) in &measured.cosines {
                let norms = (dot(&alone[a], &alone[a]) * dot(&alone[b], &alone[b])).sqrt();
                assert!((cosine - dot(&alone[a], &alone[b]) / norms).abs() < 1e-5);
            }
            assert_eq!(measured.cosines.len(), 3);
            // Norms are those of the task's mean loss, whatever its weight and the reduction.
            let even = Weighing { alpha: vec![1.0; 3], reduction: LossReduction::TaskMean };
            for ((task, norm), unweighted) in measured.norms.iter().zip(separate(&model, &even)) {
                let expected = dot(&unweighted, &unweighted).sqrt();
                assert!((norm - expected).abs() < 1e-5 * expected, "task {task}: {norm} for {expected}");
            }

            // Where no two tasks conflict PCGrad is the plain sum.
            let friendly = measured.cosines.iter().all(|c| c.2 >= 0.0);
            gradients.project(&model.params(), Philox::new(9, 1)).unwrap();
            let off = distance(&taken(&model), &expected);
            assert_eq!(off < 1e-6, friendly, "{reduction:?}, {micro_batch} at a time: off by {off:e}");
        }
    }
}

#[test]
fn conflicting_gradients_are_projected_as_in_the_paper() {
    let model = fresh_adapter(0.0);
    // A weight below 0 turns a task's gradient round: conflicts to order.
    for alpha in [[1.0, -0.7, 0.4], [-1.0, 0.5, 1.0], [1.0, 1.0, -2.0]] {
        let weighing = weighed(LossReduction::TaskMean, &alpha);
        let (_, gradients) = run(&model, 4, &weighing);
        let alone = separate(&model, &weighing);
        assert!((0..3).any(|a| (0..a).any(|b| dot(&alone[a], &alone[b]) < 0.0)), "{alpha:?}");
        let expected = projected(&alone, &crate::weighting::pcgrad::random_orders(3, Philox::new(9, 1)));
        gradients.project(&model.params(), Philox::new(9, 1)).unwrap();
        let got = taken(&model);
        assert!(distance(&got, &expected) < 1e-5, "{:e}", distance(&got, &expected));
        let sum: Vec<f32> = (0..got.len()).map(|i| alone.iter().map(|g| g[i]).sum::<f64>() as f32).collect();
        assert!(distance(&sum, &got) > 1e-2, "it changed something");
    }
}

#[test]
fn a_task_that_is_absent_or_weighs_nothing_has_no_cosine() {
    let (model, data) = (fresh_adapter(0.0), ragged());
    let params = model.params();
    let weighing = weighed(LossReduction::TaskMean, &[1.0, 0.0, 1.0]);
    // Tasks 0 and 1, and the example of task 1 whose only label has nothing before it.
    for indices in [vec![0, 1, 3], vec![0, 10, 3]] {
        let (loss, gradients) =
            TaskGradients::run(&model, &params, &data, &indices, 2, &weighing, &QUIET).unwrap();
        assert!(loss.task_loss(2).is_none());
        let measured = gradients.measure();
        assert_eq!(measured.norms.iter().map(|n| n.0).collect::<Vec<_>>(), [0]);
        assert!(measured.cosines.is_empty());
        gradients.project(&params, Philox::new(1, 1)).unwrap();
        let got = taken(&model);
        let (_, expected) = gradient(&model, &data, &[0, 3], 2, &weighing, QUIET);
        assert!(distance(&got, &expected) < 1e-6);
    }
}
