//! The learning rate of each optimizer step, as `transformers.get_*_schedule*` computes it, and how many steps
//! there are.

use std::f64::consts::PI;

use crate::config::{SchedulerType, TrainArgs};

/// The learning rate over a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    shape: SchedulerType,
    peak: f64,
    warmup_steps: u64,
    total_steps: u64,
    num_cycles: f64,
    min_lr_rate: f64,
}

impl Schedule {
    /// The schedule that `args` (validated) ask for over `total_steps` optimizer steps.
    pub fn new(args: &TrainArgs, total_steps: u64) -> Self {
        let setting = |key: &str| args.lr_scheduler_kwargs.get(key).copied();
        let floor = setting("min_lr")
            .map(|min_lr| if args.learning_rate > 0.0 { min_lr / args.learning_rate } else { 0.0 });
        Self {
            shape: args.lr_scheduler_type,
            peak: args.learning_rate,
            warmup_steps: warmup_steps(args, total_steps),
            total_steps,
            num_cycles: setting("num_cycles").unwrap_or(0.5),
            min_lr_rate: floor.or(setting("min_lr_rate")).unwrap_or(0.0),
        }
    }

    /// The learning rate of the update after `completed_steps` updates, so `lr(0)` is the first one's.
    ///
    /// Hugging Face's trainer logs `lr(global_step - 1)` beside `global_step`: the rate that step was taken with.
    pub fn lr(&self, completed_steps: u64) -> f64 {
        self.peak * self.factor(completed_steps)
    }

    /// What the peak is multiplied by: `lr_lambda(completed_steps)` of `transformers.optimization`.
    fn factor(&self, step: u64) -> f64 {
        if self.shape == SchedulerType::Constant {
            return 1.0;
        }
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps.max(1) as f64;
        }
        let decay_steps = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let cosine = || {
            let progress = (step - self.warmup_steps) as f64 / decay_steps;
            0.5 * (1.0 + (PI * self.num_cycles * 2.0 * progress).cos())
        };
        match self.shape {
            SchedulerType::Linear => self.total_steps.saturating_sub(step) as f64 / decay_steps,
            SchedulerType::Cosine => cosine().max(0.0),
            SchedulerType::CosineWithMinLr => {
                (cosine() * (1.0 - self.min_lr_rate) + self.min_lr_rate).max(0.0)
            }
            SchedulerType::Constant | SchedulerType::ConstantWithWarmup => 1.0,
        }
    }
}

/// Warm-up steps: `warmup_steps` as a number or as a share below 1, else `warmup_ratio` of all steps, rounded up.
fn warmup_steps(args: &TrainArgs, total_steps: u64) -> u64 {
    match args.warmup_steps {
        steps if steps >= 1.0 => steps as u64,
        share if share > 0.0 => ceil_share(share, total_steps),
        _ => ceil_share(args.warmup_ratio, total_steps),
    }
}

/// Optimizer steps of the run: `max_steps` if positive, else `num_train_epochs` of `steps_per_epoch`, rounded up.
pub fn total_steps(args: &TrainArgs, steps_per_epoch: u64) -> u64 {
    match u64::try_from(args.max_steps) {
        Ok(steps) if steps > 0 => steps,
        _ => ceil_share(args.num_train_epochs, steps_per_epoch),
    }
}

/// Steps between recurring events: a whole number, or a share below 1 of `total_steps`, rounded up; at least 1.
pub fn interval(steps: f64, total_steps: u64) -> u64 {
    let every = if steps < 1.0 { ceil_share(steps, total_steps) } else { steps as u64 };
    every.max(1)
}

fn ceil_share(share: f64, of: u64) -> u64 {
    (share * of as f64).ceil() as u64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn rates(shape: SchedulerType, edit: impl FnOnce(&mut TrainArgs), total: u64, steps: &[u64]) -> Vec<f64> {
        let mut args = TrainArgs { lr_scheduler_type: shape, learning_rate: 1e-4, ..TrainArgs::default() };
        edit(&mut args);
        let schedule = Schedule::new(&args, total);
        steps.iter().map(|&step| schedule.lr(step)).collect()
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (got - expected).abs() <= 1e-12 * 1e-4 + 1e-14 * expected.abs(),
                "{got} is not {expected}"
            );
        }
    }

    // Expected values: the lambdas of transformers.optimization evaluated in Python, times 1e-4.

    #[test]
    fn linear_rises_over_the_warm_up_and_falls_to_zero() {
        let got = rates(
            SchedulerType::Linear,
            |args| args.warmup_steps = 4.0,
            20,
            &[0, 1, 3, 4, 5, 12, 19, 20, 25],
        );
        assert_close(&got, &[0.0, 2.5e-5, 7.5e-5, 1e-4, 9.375e-5, 5e-5, 6.25e-6, 0.0, 0.0]);
        let without = rates(SchedulerType::Linear, |_| {}, 10, &[0, 1, 9]);
        assert_close(&without, &[1e-4, 9e-5, 1e-5]);
    }

    #[test]
    fn cosine_falls_along_half_a_wave() {
        let got =
            rates(SchedulerType::Cosine, |args| args.warmup_ratio = 0.1, 100, &[0, 5, 10, 25, 55, 99, 100]);
        let expected = [0.0, 5e-5, 1e-4, 9.330127018922194e-5, 5e-5, 3.04586490452119e-8, 0.0];
        assert_close(&got, &expected);
    }

    #[test]
    fn cosine_with_a_floor_ends_at_it() {
        let by = |key: &str, value: f64| BTreeMap::from([(key.to_string(), value)]);
        let rate = rates(
            SchedulerType::CosineWithMinLr,
            |args| args.lr_scheduler_kwargs = by("min_lr_rate", 0.1),
            100,
            &[0, 25, 50, 100],
        );
        assert_close(&rate, &[1e-4, 8.681980515339464e-5, 5.5e-5, 1e-5]);
        let absolute = rates(
            SchedulerType::CosineWithMinLr,
            |args| args.lr_scheduler_kwargs = by("min_lr", 1e-5),
            100,
            &[0, 25, 50, 100],
        );
        assert_close(&absolute, &rate);
    }

    #[test]
    fn constant_ignores_the_warm_up_that_constant_with_warmup_takes() {
        let warm = |args: &mut TrainArgs| args.warmup_steps = 2.0;
        assert_close(&rates(SchedulerType::Constant, warm, 10, &[0, 1, 9]), &[1e-4, 1e-4, 1e-4]);
        assert_close(
            &rates(SchedulerType::ConstantWithWarmup, warm, 10, &[0, 1, 2, 9]),
            &[0.0, 5e-5, 1e-4, 1e-4],
        );
    }

    #[test]
    fn steps_and_intervals_round_up() {
        let args =
            |max_steps, epochs| TrainArgs { max_steps, num_train_epochs: epochs, ..TrainArgs::default() };
        assert_eq!(total_steps(&args(-1, 3.0), 7), 21);
        assert_eq!(total_steps(&args(-1, 0.5), 7), 4);
        assert_eq!(total_steps(&args(5, 3.0), 7), 5);
        assert_eq!(interval(10.0, 200), 10);
        assert_eq!(interval(0.1, 199), 20);
        assert_eq!(interval(0.01, 3), 1);
        let share = TrainArgs { warmup_steps: 0.03, warmup_ratio: 0.5, ..TrainArgs::default() };
        assert_eq!(warmup_steps(&share, 110), 4);
        let ratio = TrainArgs { warmup_ratio: 0.1, ..TrainArgs::default() };
        assert_eq!(warmup_steps(&ratio, 101), 11);
    }

    #[test]
    fn a_warm_up_longer_than_the_run_only_rises() {
        let got = rates(SchedulerType::Cosine, |args| args.warmup_steps = 50.0, 10, &[0, 9, 49, 50]);
        assert_close(&got, &[0.0, 1.8e-5, 9.8e-5, 1e-4]);
    }
}
