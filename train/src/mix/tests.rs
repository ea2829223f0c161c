use super::strategy::Strategy::{Balanced, Capped, Proportional, Schedule, Shares, Stratified, Temperature};
use super::*;
use crate::config::SamplingUnit;
use crate::data::TaskId;
use proptest::prelude::{ProptestConfig, prop_assert, prop_assert_eq, proptest};
use proptest::strategy::Strategy as _;

/// Tasks of these many examples; the n-th task's have n + 1, 3n + 1, … labelled tokens in turn.
fn examples(sizes: &[usize]) -> Vec<Drawable> {
    let each = sizes.iter().enumerate().flat_map(|(task, &n)| (0..n).map(move |i| (task, i)));
    each.map(|(task, i)| Drawable {
        task: TaskId(task as u16),
        source: task as u16,
        labelled: (task * (1 + i % 3) + 1) as u32,
    })
    .collect()
}

fn options(strategy: Strategy, step_size: usize) -> SamplerOptions {
    SamplerOptions { strategy, unit: SamplingUnit::Examples, step_size, shuffle: true, seed: 42 }
}

fn sampler(sizes: &[usize], strategy: Strategy, step_size: usize) -> Sampler {
    Sampler::new(&examples(sizes), options(strategy, step_size)).unwrap()
}

fn counts(order: &[u32], sizes: &[usize]) -> Vec<usize> {
    let all = examples(sizes);
    let mut counts = vec![0; sizes.len()];
    order.iter().for_each(|&i| counts[all[i as usize].task.index()] += 1);
    counts
}

fn given(shares: &[f64], epoch: EpochRule) -> Strategy {
    Shares { shares: shares.to_vec(), epoch }
}

/// Every strategy, for these many tasks with these shares.
fn strategies(shares: &[f64]) -> Vec<Strategy> {
    let ramp = vec![(0.2, given(shares, EpochRule::AsMany)), (0.7, Balanced), (1.0, Proportional)];
    vec![
        Proportional,
        Stratified,
        Balanced,
        Temperature(2.0),
        Capped(7),
        given(shares, EpochRule::AsMany),
        given(shares, EpochRule::FirstExhausted),
        given(shares, EpochRule::AllExhausted),
        given(shares, EpochRule::WithoutReplacement),
        Schedule(ramp),
    ]
}

#[test]
fn proportional_sees_every_example_once_an_epoch_in_a_new_order() {
    for strategy in [Proportional, Stratified, given(&[1.0, 2.0, 5.0], EpochRule::WithoutReplacement)] {
        let s = sampler(&[32, 18, 9], strategy, 8);
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
}

#[test]
fn balanced_gives_equal_shares_in_every_step() {
    let sizes = [32, 18, 9];
    for step_size in [1, 2, 4, 7, 32] {
        let mut s = sampler(&sizes, Balanced, step_size);
        assert_eq!(s.examples_per_epoch(), 96);
        for step in 0..2 * s.steps_per_epoch() as u64 {
            let counts = counts(s.step(step), &sizes);
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
    let s = sampler(&[40, 10], Balanced, 4);
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
fn without_shuffling_the_files_keep_their_order() {
    let mixed: Vec<Drawable> =
        [0, 1, 0, 1, 1].map(|t| Drawable { task: TaskId(t), source: t, labelled: 1 }).to_vec();
    let order = |strategy| {
        let options = SamplerOptions { shuffle: false, ..options(strategy, 4) };
        Sampler::new(&mixed, options).unwrap().epoch_order(5)
    };
    assert_eq!(order(Proportional), [0, 1, 2, 3, 4]);
    assert_eq!(order(Balanced), [0, 1, 2, 3, 0, 4]);
}

#[test]
fn interleave_once_keeps_the_shares_until_a_source_ends() {
    // Shares 3 : 1 of 12 and 12 examples: 12 and 4 in the first 16 slots, then the other alone.
    let mut s = sampler(&[12, 12], given(&[3.0, 1.0], EpochRule::WithoutReplacement), 4);
    let steps: Vec<Vec<usize>> = (0..6).map(|step| counts(s.step(step), &[12, 12])).collect();
    assert_eq!(steps, [[3, 1], [3, 1], [3, 1], [3, 1], [0, 4], [0, 4]]);
    assert_eq!(s.asked(3), [3.0, 1.0]);
    assert_eq!(s.asked(10), [0.0, 4.0], "of the second epoch, the fifth step");
}

#[test]
fn a_source_without_a_share_is_left_out() {
    for epoch in [EpochRule::AsMany, EpochRule::FirstExhausted, EpochRule::AllExhausted] {
        let s = sampler(&[8, 8, 8], given(&[0.0, 1.0, 1.0], epoch), 4);
        assert_eq!(counts(&s.epoch_order(0), &[8, 8, 8]), [0, 8, 8], "{epoch:?}");
    }
    // Sources that a split left without examples keep their place in the list.
    let s = sampler(&[8, 0, 8], given(&[1.0, 5.0, 1.0], EpochRule::AsMany), 4);
    assert_eq!(counts(&s.epoch_order(0), &[8, 0, 8]), [8, 0, 8]);
}

#[test]
fn shares_by_file_hold_where_a_file_has_several_tasks() {
    // File 0: tasks 0 and 1, half and half; file 1: task 1.
    let all: Vec<Drawable> = (0..80)
        .map(|i| Drawable { task: TaskId((i % 2).max(i / 40) as u16), source: (i / 40) as u16, labelled: 1 })
        .collect();
    let s = Sampler::new(&all, options(given(&[1.0, 3.0], EpochRule::AsMany), 8)).unwrap();
    assert_eq!(s.epoch_order(0).iter().filter(|&&i| i < 40).count(), 20);
    assert_eq!(s.asked(0), [1.0, 7.0], "a half of a quarter of 8, and the rest");
}

#[test]
fn shares_of_labelled_tokens_are_kept() {
    let sizes = [60, 40, 20];
    let all = examples(&sizes);
    let options = SamplerOptions { unit: SamplingUnit::Tokens, ..options(Balanced, 8) };
    let s = Sampler::new(&all, options.clone()).unwrap();
    let mut tokens = [0u32; 3];
    for i in (0..3).flat_map(|epoch| s.epoch_order(epoch)) {
        tokens[all[i as usize].task.index()] += all[i as usize].labelled;
    }
    let total: u32 = tokens.iter().sum();
    for got in tokens {
        assert!((f64::from(got) / f64::from(total) - 1.0 / 3.0).abs() < 0.01, "{tokens:?}");
    }
    let asked = s.asked(0);
    assert!((asked[0] - asked[1]).abs() < 0.2 && (asked[0] - asked[2]).abs() < 0.2, "in tokens: {asked:?}");
    let silent: Vec<Drawable> = all.iter().map(|e| Drawable { labelled: 0, ..*e }).collect();
    assert!(matches!(Sampler::new(&silent, options), Err(MixError::NoLabels(_))));
}

#[test]
fn a_curriculum_moves_from_the_first_shares_to_the_last() {
    let sizes = [90, 30];
    let points =
        vec![(0.0, given(&[1.0, 0.0], EpochRule::AsMany)), (1.0, given(&[0.0, 1.0], EpochRule::AsMany))];
    let mut s = sampler(&sizes, Schedule(points), 12);
    assert_eq!(s.steps_per_epoch(), 10);
    s.for_run(40);
    let steps: Vec<Vec<usize>> = (0..40).map(|step| counts(s.step(step), &sizes)).collect();
    assert!(steps[0][0] >= 11 && steps[39][1] >= 11, "{steps:?}");
    let half: usize = steps[..20].iter().map(|c| c[1]).sum();
    // ∫ of a line from 0 to 1/2 over 240 slots.
    assert!((59..=61).contains(&half), "{half}");
    assert!((s.asked(20)[0] - 12.0 * (1.0 - 20.5 / 40.0)).abs() < 1e-9);
    // Beyond the run the last shares stay.
    assert_eq!(counts(s.step(41), &sizes), [0, 12]);
}

#[test]
fn what_cannot_be_sampled_is_refused() {
    let error = |strategy| Sampler::new(&examples(&[4, 4]), options(strategy, 1)).unwrap_err();
    assert_eq!(Sampler::new(&[], options(Balanced, 1)).unwrap_err(), MixError::NoExamples);
    assert_eq!(Sampler::new(&examples(&[4]), options(Balanced, 0)).unwrap_err(), MixError::EmptyStep);
    assert_eq!(error(Capped(0)), MixError::Cap);
    for bad in [&[0.0, 0.0][..], &[1.0], &[1.0, -1.0], &[f64::NAN, 1.0]] {
        assert!(matches!(error(given(bad, EpochRule::AsMany)), MixError::Shares { .. }), "{bad:?}");
    }
}

/// Up to four tasks, one of them not empty, and a share for each.
fn mixtures() -> impl proptest::strategy::Strategy<Value = (Vec<usize>, Vec<f64>)> {
    proptest::collection::vec((0usize..20, 0.05f64..4.0), 1..5)
        .prop_filter("no examples", |tasks| tasks.iter().any(|(n, _)| *n > 0))
        .prop_map(|tasks| tasks.into_iter().unzip())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Steps cover the epoch's order exactly, the ranks' parts cover a step exactly, and a sampler that
    /// starts anywhere, as after a resume, gives the same.
    #[test]
    fn steps_partition_epochs_and_ranks_partition_steps(
        (sizes, shares) in mixtures(), step_size in 1usize..9, epoch in 0u64..4, world in 1usize..5,
    ) {
        for strategy in strategies(&shares) {
            let mut s = sampler(&sizes, strategy.clone(), step_size);
            let per_epoch = s.steps_per_epoch() as u64;
            s.for_run(per_epoch * 3);
            let order = s.epoch_order(epoch);
            prop_assert_eq!(order.len(), s.examples_per_epoch());
            let mut joined = Vec::new();
            for step in epoch * per_epoch..(epoch + 1) * per_epoch {
                let examples = s.step(step).to_vec();
                prop_assert!(!examples.is_empty() && examples.len() <= step_size);
                let mut parts: Vec<std::vec::IntoIter<u32>> =
                    (0..world).map(|rank| s.rank_slice(step, rank, world).into_iter()).collect();
                let again: Vec<u32> =
                    (0..examples.len()).filter_map(|i| parts[i % world].next()).collect();
                prop_assert_eq!(&again, &examples);
                prop_assert!(parts.iter_mut().all(|part| part.next().is_none()));
                joined.extend(examples);
            }
            prop_assert_eq!(&joined, &order);
            let mut fresh = sampler(&sizes, strategy, step_size);
            fresh.for_run(per_epoch * 3);
            for step in (epoch * per_epoch..(epoch + 1) * per_epoch).rev() {
                prop_assert_eq!(fresh.step(step), s.step(step), "{}", step);
            }
        }
    }

    /// After every step, each task has had what was asked so far, give or take less than one example.
    #[test]
    fn every_step_holds_its_shares_and_what_was_left_over(
        (sizes, shares) in mixtures(), step_size in 1usize..9,
    ) {
        for strategy in strategies(&shares).into_iter().filter(|s| *s != Proportional) {
            let mut s = sampler(&sizes, strategy.clone(), step_size);
            s.for_run(s.steps_per_epoch() as u64 * 2);
            let mut left = vec![0.0; sizes.len()];
            for step in 0..3 * s.steps_per_epoch() as u64 {
                let asked = s.asked(step);
                let got = counts(s.step(step), &sizes);
                for ((left, asked), got) in left.iter_mut().zip(asked).zip(got) {
                    *left += asked - got as f64;
                    prop_assert!(left.abs() < 1.0 + 1e-6, "{:?} step {}: {}", strategy, step, left);
                }
            }
        }
    }

    /// A curriculum gives each task the integral of its share over the run.
    #[test]
    fn a_curriculum_gives_the_integral_of_its_shares(
        points in proptest::collection::vec((0.0f64..1.0, proptest::collection::vec(0.01f64..1.0, 3)), 1..5),
        steps in 1u64..40,
    ) {
        let mut at: Vec<f64> = points.iter().map(|(at, _)| *at).collect();
        at.sort_by(f64::total_cmp);
        at.dedup();
        let shares: Vec<Vec<f64>> = points.iter().map(|(_, s)| {
            let sum: f64 = s.iter().sum();
            s.iter().map(|x| x / sum).collect()
        }).collect();
        let points = at.iter().zip(&shares).map(|(&at, s)| (at, given(s, EpochRule::AsMany))).collect();
        let sizes = [11, 5, 2];
        let mut s = sampler(&sizes, Schedule(points), 6);
        s.for_run(steps);
        let mut got = [0usize; 3];
        for step in 0..steps {
            counts(s.step(step), &sizes).iter().zip(&mut got).for_each(|(n, sum)| *sum += n);
        }
        // Numerically, by the definition.
        let slots = got.iter().sum::<usize>() as f64;
        let share = |task: usize, x: f64| -> f64 {
            let k = at.partition_point(|&a| a <= x);
            if k == 0 { return shares[0][task] }
            if k == at.len() { return shares[k - 1][task] }
            let along = (x - at[k - 1]) / (at[k] - at[k - 1]);
            shares[k - 1][task] * (1.0 - along) + shares[k][task] * along
        };
        for (task, got) in got.iter().enumerate() {
            let parts = 4000;
            let mean = (0..parts).map(|i| share(task, (i as f64 + 0.5) / parts as f64)).sum::<f64>() / parts as f64;
            prop_assert!((mean * slots - *got as f64).abs() < 1.0 + 0.01 * slots / 10.0, "{} {}", mean * slots, got);
        }
    }
}
