//! The order of examples.

use crate::config::SamplingStrategy;
use crate::data::{STREAM_ORDER, STREAM_SLOTS, TaskId, stream};
use medley_tensor::rng::Philox;

/// Why there can be no order of examples.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum MixError {
    /// There is nothing to draw from.
    #[error("there are no examples to train on")]
    NoExamples,
    /// Steps of no examples.
    #[error("per_device_train_batch_size × gradient_accumulation_steps is 0; each must be at least 1")]
    EmptyStep,
    /// A temperature that is not a positive number.
    #[error("sampling_temperature: expected a number above 0, got {0}")]
    Temperature(f64),
}

/// How examples are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// The strategy.
    pub strategy: SamplingStrategy,
    /// T of [`SamplingStrategy::Temperature`].
    pub sampling_temperature: f64,
    /// Examples of an optimizer step: `per_device_train_batch_size × gradient_accumulation_steps`.
    pub step_size: usize,
    /// Shuffle (off: `disable_shuffling`).
    pub shuffle: bool,
    /// `data_seed`, else `seed`.
    pub seed: u64,
}

/// Says which examples each optimizer step holds.
///
/// An epoch has a number of *slots*; a slot belongs to a task and takes that task's next example. Each
/// task goes through all its examples in an order of its own before any comes again, and the next pass
/// has a new order; passes run on from one epoch to the next.
///
/// * `proportional`: all examples once an epoch, shuffled together (by file order where shuffling is off).
/// * `balanced`: slot g of an epoch belongs to task g mod K of K tasks, so every step, the last and short
///   one included, holds ⌊B/K⌋ or ⌈B/K⌉ examples of each task. An epoch has K · max nᵢ slots: the largest
///   task is seen once, a smaller one max nᵢ / nᵢ times.
/// * `temperature`: an epoch has Σ nᵢ slots, of which task i gets its share pᵢ ∝ nᵢ^(1/T) (rounded by
///   largest remainders, at least one), shuffled together. T = 1 is proportional, T → ∞ equal shares.
///
/// The last step of an epoch is short where the slots are not a multiple of the step's size.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    /// Example indices by task, tasks without examples left out.
    members: Vec<Vec<u32>>,
    /// Slots an epoch, by task.
    quotas: Vec<usize>,
    cached: Option<(u64, Vec<u32>)>,
}

impl Sampler {
    /// A sampler over examples whose tasks are `tasks` (as [`crate::data::Dataset::task_ids`] gives them).
    ///
    /// # Errors
    /// No examples, an empty step, a temperature that is not above 0.
    pub fn new(tasks: &[TaskId], options: SamplerOptions) -> Result<Sampler, MixError> {
        if tasks.is_empty() {
            return Err(MixError::NoExamples);
        }
        if options.step_size == 0 {
            return Err(MixError::EmptyStep);
        }
        let count = tasks.iter().map(|t| t.index() + 1).max().unwrap_or(0);
        let mut members = vec![Vec::new(); count];
        for (example, task) in tasks.iter().enumerate() {
            members[task.index()].push(example as u32);
        }
        members.retain(|m| !m.is_empty());
        let sizes: Vec<usize> = members.iter().map(Vec::len).collect();
        let quotas = match options.strategy {
            SamplingStrategy::Proportional => sizes,
            SamplingStrategy::Balanced => vec![sizes.iter().copied().max().unwrap_or(0); sizes.len()],
            SamplingStrategy::Temperature => temperature_quotas(&sizes, options.sampling_temperature)?,
        };
        Ok(Sampler { options, members, quotas, cached: None })
    }

    /// Examples drawn in an epoch, repeats counted.
    pub fn examples_per_epoch(&self) -> usize {
        self.quotas.iter().sum()
    }

    /// Optimizer steps of an epoch, the last and short one included.
    pub fn steps_per_epoch(&self) -> usize {
        self.examples_per_epoch().div_ceil(self.options.step_size)
    }

    /// The indices of the examples of optimizer step `step`, counted from 0 over all epochs.
    ///
    /// The answer depends on the options and `step` alone; the order of an epoch is kept for the calls
    /// that follow.
    pub fn step(&mut self, step: u64) -> &[u32] {
        let per_epoch = self.steps_per_epoch() as u64;
        let epoch = step / per_epoch;
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != epoch) {
            self.cached = Some((epoch, self.epoch_order(epoch)));
        }
        let order = self.cached.as_ref().map_or(&[][..], |(_, order)| order.as_slice());
        let start = (step % per_epoch) as usize * self.options.step_size;
        &order[start..order.len().min(start + self.options.step_size)]
    }

    /// All examples of an epoch, in order.
    pub fn epoch_order(&self, epoch: u64) -> Vec<u32> {
        let tasks = self.members.len();
        if self.options.strategy == SamplingStrategy::Proportional {
            let mut order: Vec<u32> = self.members.iter().flatten().copied().collect();
            match self.options.shuffle {
                true => {
                    Philox::new(self.options.seed, stream(STREAM_ORDER, 0xFFFF, epoch)).shuffle(&mut order)
                }
                false => order.sort_unstable(),
            }
            return order;
        }
        let mut passes: Vec<Pass> = (0..tasks).map(|task| Pass::new(self, task, epoch)).collect();
        let slots: Vec<usize> = match self.options.strategy {
            SamplingStrategy::Balanced => (0..self.examples_per_epoch()).map(|slot| slot % tasks).collect(),
            _ => {
                let quotas = self.quotas.iter().enumerate();
                let mut slots: Vec<usize> =
                    quotas.flat_map(|(task, &n)| std::iter::repeat_n(task, n)).collect();
                // Which task comes when is shuffled even where the order inside each task is not: otherwise
                // the tasks would follow one another.
                Philox::new(self.options.seed, stream(STREAM_SLOTS, 0, epoch)).shuffle(&mut slots);
                slots
            }
        };
        slots.into_iter().map(|task| passes[task].next(self)).collect()
    }

    /// The order of a task's examples in its n-th pass.
    fn pass_order(&self, task: usize, pass: u64) -> Vec<u32> {
        let mut order = self.members[task].clone();
        if self.options.shuffle {
            Philox::new(self.options.seed, stream(STREAM_ORDER, task as u64, pass)).shuffle(&mut order);
        }
        order
    }
}

/// Where a task stands in its endless sequence of passes.
struct Pass {
    task: usize,
    number: u64,
    order: Vec<u32>,
    position: usize,
}

impl Pass {
    /// The task's position at the start of an epoch: as many draws as its quota in each epoch before.
    fn new(sampler: &Sampler, task: usize, epoch: u64) -> Pass {
        let (size, drawn) = (sampler.members[task].len() as u64, epoch * sampler.quotas[task] as u64);
        let number = drawn / size;
        Pass { task, number, order: sampler.pass_order(task, number), position: (drawn % size) as usize }
    }

    fn next(&mut self, sampler: &Sampler) -> u32 {
        if self.position == self.order.len() {
            self.number += 1;
            self.order = sampler.pass_order(self.task, self.number);
            self.position = 0;
        }
        self.position += 1;
        self.order[self.position - 1]
    }
}

/// Slots by task in an epoch of Σ nᵢ: shares ∝ nᵢ^(1/T), rounded by largest remainders, at least one each.
fn temperature_quotas(sizes: &[usize], temperature: f64) -> Result<Vec<usize>, MixError> {
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(MixError::Temperature(temperature));
    }
    let total: usize = sizes.iter().sum();
    // Relative to the largest task, so that no power overflows for a small T.
    let largest = sizes.iter().copied().max().unwrap_or(1) as f64;
    let powers: Vec<f64> = sizes.iter().map(|&n| (n as f64 / largest).powf(1.0 / temperature)).collect();
    let sum: f64 = powers.iter().sum();
    let shares: Vec<f64> = powers.iter().map(|p| p / sum * total as f64).collect();
    let mut quotas: Vec<usize> = shares.iter().map(|s| s.floor() as usize).collect();
    let mut by_remainder: Vec<usize> = (0..sizes.len()).collect();
    by_remainder.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()).then(a.cmp(&b)));
    let left = total.saturating_sub(quotas.iter().sum());
    by_remainder.iter().cycle().take(left).for_each(|&task| quotas[task] += 1);
    quotas.iter_mut().for_each(|q| *q = (*q).max(1));
    Ok(quotas)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tasks(sizes: &[usize]) -> Vec<TaskId> {
        let ids = sizes.iter().enumerate();
        ids.flat_map(|(task, &n)| std::iter::repeat_n(TaskId(task as u16), n)).collect()
    }

    fn sampler(sizes: &[usize], strategy: SamplingStrategy, step_size: usize) -> Sampler {
        let options =
            SamplerOptions { strategy, sampling_temperature: 2.0, step_size, shuffle: true, seed: 42 };
        Sampler::new(&tasks(sizes), options).unwrap()
    }

    fn counts(order: &[u32], tasks: &[TaskId], n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        order.iter().for_each(|&i| counts[tasks[i as usize].index()] += 1);
        counts
    }

    #[test]
    fn proportional_sees_every_example_once_an_epoch_in_a_new_order() {
        let s = sampler(&[32, 18, 9], SamplingStrategy::Proportional, 8);
        assert_eq!((s.steps_per_epoch(), s.examples_per_epoch()), (8, 59));
        let (first, second) = (s.epoch_order(0), s.epoch_order(1));
        assert_ne!(first, second);
        for order in [first, second] {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..59).collect::<Vec<u32>>());
            assert_ne!(order, sorted);
        }
    }

    #[test]
    fn balanced_gives_equal_shares_in_every_step() {
        let sizes = [32, 18, 9];
        let ids = tasks(&sizes);
        for step_size in [1, 2, 4, 7, 32] {
            let mut s = sampler(&sizes, SamplingStrategy::Balanced, step_size);
            assert_eq!(s.examples_per_epoch(), 96);
            for step in 0..2 * s.steps_per_epoch() as u64 {
                let counts = counts(s.step(step), &ids, 3);
                let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(high - low <= 1, "{step_size} {step} {counts:?}");
            }
            // The largest task once, the others in whole passes before any repeat.
            let two: Vec<u32> = [s.epoch_order(0), s.epoch_order(1)].concat();
            let mut seen = vec![0usize; 59];
            s.epoch_order(0).iter().for_each(|&i| seen[i as usize] += 1);
            assert!(seen[..32].iter().all(|&n| n == 1));
            assert!(seen[32..50].iter().all(|&n| n == 1 || n == 2), "{seen:?}");
            let mut seen = vec![0usize; 59];
            two.iter().for_each(|&i| seen[i as usize] += 1);
            assert!(seen[50..].iter().all(|&n| n == 7 || n == 8), "64 draws of 9: {seen:?}");
        }
    }

    #[test]
    fn a_pass_is_reshuffled_when_a_small_task_repeats() {
        let s = sampler(&[40, 10], SamplingStrategy::Balanced, 4);
        let small: Vec<u32> = s.epoch_order(0).into_iter().filter(|&i| i >= 40).collect();
        let passes: Vec<&[u32]> = small.chunks(10).collect();
        assert_eq!(passes.len(), 4);
        for pass in &passes {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (40..50).collect::<Vec<u32>>());
        }
        assert!(passes.windows(2).all(|w| w[0] != w[1]));
    }

    #[test]
    fn temperature_shares_follow_the_formula() {
        // 1600, 400, 100 examples at T = 2: 40 : 20 : 10.
        assert_eq!(temperature_quotas(&[1600, 400, 100], 2.0).unwrap(), [1200, 600, 300]);
        assert_eq!(temperature_quotas(&[1600, 400, 100], 1.0).unwrap(), [1600, 400, 100]);
        assert_eq!(temperature_quotas(&[1600, 400, 100], 1e12).unwrap(), [700, 700, 700]);
        assert_eq!(temperature_quotas(&[1000, 1], 0.05).unwrap(), [1001, 1]);
        let s = sampler(&[1600, 400, 100], SamplingStrategy::Temperature, 16);
        let ids = tasks(&[1600, 400, 100]);
        assert_eq!(counts(&s.epoch_order(3), &ids, 3), [1200, 600, 300]);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(temperature_quotas(&[1], bad).is_err());
        }
    }

    #[test]
    fn the_order_does_not_depend_on_how_it_is_asked_for() {
        for strategy in
            [SamplingStrategy::Proportional, SamplingStrategy::Balanced, SamplingStrategy::Temperature]
        {
            let mut forward = sampler(&[13, 5, 3], strategy, 4);
            let steps: Vec<Vec<u32>> = (0..30).map(|s| forward.step(s).to_vec()).collect();
            // As after a resume: any step of a new sampler, in any order.
            let mut fresh = sampler(&[13, 5, 3], strategy, 4);
            for step in (0..30).rev() {
                assert_eq!(fresh.step(step), steps[step as usize], "{strategy:?} {step}");
            }
            let other = SamplerOptions { seed: 43, ..forward.options };
            let mut other = Sampler::new(&tasks(&[13, 5, 3]), other).unwrap();
            assert_ne!(other.step(0), steps[0]);
        }
    }

    #[test]
    fn without_shuffling_the_files_keep_their_order() {
        let options = SamplerOptions {
            strategy: SamplingStrategy::Proportional,
            sampling_temperature: 1.0,
            step_size: 4,
            shuffle: false,
            seed: 1,
        };
        let mixed: Vec<TaskId> = [0, 1, 0, 1, 1].map(TaskId).to_vec();
        assert_eq!(Sampler::new(&mixed, options).unwrap().epoch_order(5), [0, 1, 2, 3, 4]);
        let balanced = SamplerOptions { strategy: SamplingStrategy::Balanced, ..options };
        assert_eq!(Sampler::new(&mixed, balanced).unwrap().epoch_order(0), [0, 1, 2, 3, 0, 4]);
    }

    #[test]
    fn what_cannot_be_sampled_is_refused() {
        let options = sampler(&[1], SamplingStrategy::Balanced, 1).options;
        assert_eq!(Sampler::new(&[], options).unwrap_err(), MixError::NoExamples);
        let empty = SamplerOptions { step_size: 0, ..options };
        assert_eq!(Sampler::new(&[TaskId(0)], empty).unwrap_err(), MixError::EmptyStep);
    }

    proptest! {
        /// For any sizes: steps cover the epoch's order exactly, and every task keeps its quota.
        #[test]
        fn steps_are_a_partition_of_the_epoch(
            sizes in proptest::collection::vec(0usize..20, 1..5), step_size in 1usize..9, epoch in 0u64..4,
        ) {
            prop_assume!(sizes.iter().sum::<usize>() > 0);
            for strategy in [SamplingStrategy::Balanced, SamplingStrategy::Temperature, SamplingStrategy::Proportional] {
                let mut s = sampler(&sizes, strategy, step_size);
                let per_epoch = s.steps_per_epoch() as u64;
                let order = s.epoch_order(epoch);
                let mut joined = Vec::new();
                for step in epoch * per_epoch..(epoch + 1) * per_epoch {
                    let examples = s.step(step);
                    prop_assert!(!examples.is_empty() && examples.len() <= step_size);
                    joined.extend_from_slice(examples);
                }
                prop_assert_eq!(&joined, &order);
                prop_assert_eq!(order.len(), s.examples_per_epoch());
            }
        }
    }
}
