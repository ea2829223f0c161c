//! The order of examples.

use super::curriculum::Curriculum;
use super::error::MixError;
use super::spread::{Even, Flow, Spread, UntilExhausted};
use super::strategy::{EpochRule, Size, Strategy};
use crate::config::SamplingUnit;
use crate::data::{STREAM_ORDER, STREAM_SLOTS, TaskId, stream};
use medley_tensor::rng::Philox;

/// How examples are drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplerOptions {
    /// The strategy.
    pub strategy: Strategy,
    /// Whether its shares are of examples or of labelled tokens.
    pub unit: SamplingUnit,
    /// Examples of an optimizer step over all ranks: `per_device_train_batch_size ×
    /// gradient_accumulation_steps × ranks`.
    pub step_size: usize,
    /// Shuffle (off: `disable_shuffling`).
    pub shuffle: bool,
    /// `data_seed`, else `seed`.
    pub seed: u64,
}

/// What a sampler needs to know of an example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawable {
    /// Its task.
    pub task: TaskId,
    /// What it is drawn from: the task's number, or the file's where shares are given by file.
    pub source: u16,
    /// Its labelled tokens.
    pub labelled: u32,
}

/// Says which examples each optimizer step holds: the same for any number of ranks, and a function of the
/// options and the step's number alone, so that a resumed run goes on exactly.
///
/// An epoch has a number of *slots* ([`Strategy`] says how many); a slot belongs to a source and takes that
/// source's next example. Each source goes through all its examples in an order of its own before any comes
/// again, and the next pass has a new order; passes run on from one epoch to the next. Sources take turns
/// at an even pace, so that a step holds its share of each and what the steps before left over, give or take
/// less than one example (`proportional` alone is one shuffle of everything). The last step of an epoch is
/// short where the slots are not a multiple of the step's size.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    /// Example indices by source, sources without examples left out.
    members: Vec<Vec<u32>>,
    /// Slots an epoch, by source.
    quotas: Vec<u64>,
    plan: Plan,
    /// \[source\]\[task\]: of a draw from the source, the examples (or labelled tokens) of the task.
    mixture: Vec<Vec<f64>>,
    cached: Option<(u64, Vec<u32>)>,
    cursor: Option<Cursor>,
    /// Slots of the whole run, which a schedule is stretched over.
    run_slots: u64,
}

/// Who gets the slots.
#[derive(Debug, Clone)]
enum Plan {
    /// One shuffle of everything.
    Shuffled,
    /// The epoch's quotas, evenly.
    Even,
    /// Shares until a source ends.
    UntilExhausted(Vec<f64>),
    /// Shares at points of the run.
    Curriculum { points: Vec<(f64, Vec<f64>)>, flow: Curriculum },
}

/// Where a curriculum stands: its draws are counted over the whole run.
#[derive(Debug, Clone)]
struct Cursor {
    step: u64,
    spread: Spread,
    passes: Vec<Pass>,
}

/// A source's order in one pass.
#[derive(Debug, Clone, Default)]
struct Pass {
    number: u64,
    order: Vec<u32>,
}

impl Sampler {
    /// A sampler over `examples`, drawn by their index.
    ///
    /// # Errors
    /// No examples, an empty step, options out of range, or shares of labelled tokens for a source that
    /// has none.
    pub fn new(examples: &[Drawable], options: SamplerOptions) -> Result<Sampler, MixError> {
        if examples.is_empty() {
            return Err(MixError::NoExamples);
        }
        if options.step_size == 0 {
            return Err(MixError::EmptyStep);
        }
        let sources = examples.iter().map(|e| usize::from(e.source) + 1).max().unwrap_or(0);
        let tasks = examples.iter().map(|e| e.task.index() + 1).max().unwrap_or(0);
        let mut members = vec![Vec::new(); sources];
        let mut sizes = vec![Size { examples: 0, labelled: 0 }; sources];
        let mut mixture = vec![vec![0.0; tasks]; sources];
        for (index, example) in examples.iter().enumerate() {
            let source = usize::from(example.source);
            members[source].push(index as u32);
            sizes[source].examples += 1;
            sizes[source].labelled += u64::from(example.labelled);
            mixture[source][example.task.index()] += match options.unit {
                SamplingUnit::Examples => 1.0,
                SamplingUnit::Tokens => f64::from(example.labelled),
            };
        }
        for (row, size) in mixture.iter_mut().zip(&sizes) {
            row.iter_mut().for_each(|x| *x /= size.examples.max(1) as f64);
        }
        let strategy = keep_present(options.strategy.clone(), &sizes)?;
        let present = |i: &usize| sizes[*i].examples > 0;
        let kept: Vec<usize> = (0..sources).filter(present).collect();
        let sizes: Vec<Size> = kept.iter().map(|&i| sizes[i]).collect();
        if options.unit == SamplingUnit::Tokens
            && let Some(at) = sizes.iter().position(|s| s.labelled == 0)
        {
            return Err(MixError::NoLabels(format!("source {}", kept[at])));
        }
        let mut sampler = Sampler {
            quotas: strategy.quotas(&sizes, options.unit)?,
            plan: Plan::Even,
            members: kept.iter().map(|&i| std::mem::take(&mut members[i])).collect(),
            mixture: kept.iter().map(|&i| std::mem::take(&mut mixture[i])).collect(),
            options: SamplerOptions { strategy: strategy.clone(), ..options },
            cached: None,
            cursor: None,
            run_slots: 0,
        };
        sampler.plan = match &strategy {
            Strategy::Proportional => Plan::Shuffled,
            Strategy::Shares { epoch: EpochRule::WithoutReplacement, .. } => {
                Plan::UntilExhausted(strategy.shares(&sizes, sampler.options.unit)?)
            }
            Strategy::Schedule(points) => {
                let shares = |(at, strategy): &(f64, Strategy)| {
                    Ok((*at, strategy.shares(&sizes, sampler.options.unit)?))
                };
                let points: Vec<(f64, Vec<f64>)> =
                    points.iter().map(shares).collect::<Result<_, MixError>>()?;
                Plan::Curriculum { flow: Curriculum::new(&points, 1), points }
            }
            _ => Plan::Even,
        };
        sampler.for_run(sampler.steps_per_epoch() as u64);
        Ok(sampler)
    }

    /// Stretches a schedule over a run of `steps` steps, rather than over one epoch.
    pub fn for_run(&mut self, steps: u64) {
        self.run_slots = self.slots_before(steps);
        if let Plan::Curriculum { points, flow } = &mut self.plan {
            *flow = Curriculum::new(points, self.run_slots);
            self.cursor = None;
        }
    }

    /// Examples drawn in an epoch, repeats counted.
    pub fn examples_per_epoch(&self) -> usize {
        self.quotas.iter().sum::<u64>() as usize
    }

    /// Optimizer steps of an epoch, the last and short one included.
    pub fn steps_per_epoch(&self) -> usize {
        self.examples_per_epoch().div_ceil(self.options.step_size)
    }

    /// Slots of the first `steps` steps.
    fn slots_before(&self, steps: u64) -> u64 {
        let (per_epoch, slots) = (self.steps_per_epoch() as u64, self.examples_per_epoch() as u64);
        let within = (steps % per_epoch) * self.options.step_size as u64;
        steps / per_epoch * slots + within.min(slots)
    }

    /// The indices of the examples of optimizer step `step`, counted from 0 over all epochs, of all ranks.
    ///
    /// The answer depends on the options and `step` alone; what was worked out for it is kept for the calls
    /// that follow.
    pub fn step(&mut self, step: u64) -> &[u32] {
        if let Plan::Curriculum { .. } = self.plan {
            return self.curriculum_step(step);
        }
        let per_epoch = self.steps_per_epoch() as u64;
        let epoch = step / per_epoch;
        if self.cached.as_ref().is_none_or(|(cached, _)| *cached != epoch) {
            self.cached = Some((epoch, self.fixed_order(epoch)));
        }
        let order = self.cached.as_ref().map_or(&[][..], |(_, order)| order.as_slice());
        let start = (step % per_epoch) as usize * self.options.step_size;
        &order[start..order.len().min(start + self.options.step_size)]
    }

    /// The examples of step `step` that rank `rank` of `world` works on: every `world`-th. The ranks' parts
    /// together are [`Sampler::step`], whatever `world` is.
    pub fn rank_slice(&mut self, step: u64, rank: usize, world: usize) -> Vec<u32> {
        self.step(step).iter().skip(rank).step_by(world.max(1)).copied().collect()
    }

    /// What step `step` is asked to hold of each task: examples, or labelled tokens where those are shared.
    pub fn asked(&self, step: u64) -> Vec<f64> {
        let (start, end) = (self.slots_before(step), self.slots_before(step + 1));
        let total: u64 = self.quotas.iter().sum();
        let drawn: Vec<f64> = match &self.plan {
            Plan::Shuffled | Plan::Even => {
                self.quotas.iter().map(|&q| q as f64 / total as f64 * (end - start) as f64).collect()
            }
            Plan::UntilExhausted(shares) => {
                let flow = UntilExhausted::new(shares, &self.quotas);
                let at = |slot: u64| flow.drawn(slot as f64);
                let first = start / total * total;
                let (from, to) = (at(start - first), at(end - first));
                from.iter().zip(&to).map(|(a, b)| b - a).collect()
            }
            Plan::Curriculum { flow, .. } => {
                let at = |source, slot: u64| flow.drawn(source, slot as f64);
                (0..self.members.len()).map(|i| at(i, end) - at(i, start)).collect()
            }
        };
        let mut asked = vec![0.0; self.mixture.first().map_or(0, Vec::len)];
        for (drawn, mixture) in drawn.iter().zip(&self.mixture) {
            asked.iter_mut().zip(mixture).for_each(|(sum, part)| *sum += drawn * part);
        }
        asked
    }

    /// All examples of an epoch, in order.
    pub fn epoch_order(&self, epoch: u64) -> Vec<u32> {
        match self.plan {
            Plan::Curriculum { .. } => {
                let mut own = self.clone();
                let per_epoch = self.steps_per_epoch() as u64;
                (epoch * per_epoch..(epoch + 1) * per_epoch).flat_map(|s| own.step(s).to_vec()).collect()
            }
            _ => self.fixed_order(epoch),
        }
    }

    fn fixed_order(&self, epoch: u64) -> Vec<u32> {
        let even;
        let until_exhausted;
        let flow: &dyn Flow = match &self.plan {
            Plan::UntilExhausted(shares) => {
                until_exhausted = UntilExhausted::new(shares, &self.quotas);
                &until_exhausted
            }
            Plan::Even => {
                even = Even::new(&self.quotas);
                &even
            }
            Plan::Shuffled | Plan::Curriculum { .. } => {
                let mut order: Vec<u32> = self.members.iter().flatten().copied().collect();
                match self.options.shuffle {
                    true => Philox::new(self.options.seed, stream(STREAM_ORDER, 0xFFFF, epoch))
                        .shuffle(&mut order),
                    false => order.sort_unstable(),
                }
                return order;
            }
        };
        let mut passes = vec![Pass::default(); self.members.len()];
        let mut spread = Spread::new(flow, self.ranks(epoch));
        std::iter::from_fn(|| spread.next(flow))
            .map(|(source, unit)| self.draw(&mut passes, source, epoch * self.quotas[source] + unit))
            .collect()
    }

    fn curriculum_step(&mut self, step: u64) -> &[u32] {
        if self.cached.as_ref().is_some_and(|(cached, _)| *cached == step) {
            return self.cached.as_ref().map_or(&[], |(_, order)| order);
        }
        let Plan::Curriculum { flow, .. } = &self.plan else { return &[] };
        // Going back means going again from the start; going on, as after a resume, is some µs a step.
        let mut cursor = match self.cursor.take().filter(|c| c.step <= step) {
            Some(cursor) => cursor,
            None => Cursor {
                step: 0,
                spread: Spread::new(flow, self.ranks(0)),
                passes: vec![Pass::default(); self.members.len()],
            },
        };
        for _ in self.slots_before(cursor.step)..self.slots_before(step) {
            cursor.spread.next(flow);
        }
        let count = self.slots_before(step + 1) - self.slots_before(step);
        let order = (0..count)
            .filter_map(|_| cursor.spread.next(flow))
            .map(|(source, draw)| self.draw(&mut cursor.passes, source, draw))
            .collect();
        cursor.step = step + 1;
        self.cursor = Some(cursor);
        &self.cached.insert((step, order)).1
    }

    /// Who goes first among sources whose turns fall together: another order every epoch.
    fn ranks(&self, epoch: u64) -> Vec<u32> {
        let mut ranks: Vec<u32> = (0..self.members.len() as u32).collect();
        if self.options.shuffle {
            Philox::new(self.options.seed, stream(STREAM_SLOTS, 0, epoch)).shuffle(&mut ranks);
        }
        ranks
    }

    /// The example of a source's `draw`-th draw of the run.
    fn draw(&self, passes: &mut [Pass], source: usize, draw: u64) -> u32 {
        let members = &self.members[source];
        let (number, at) = (draw / members.len() as u64, (draw % members.len() as u64) as usize);
        let pass = &mut passes[source];
        if pass.order.is_empty() || pass.number != number {
            pass.number = number;
            pass.order.clone_from(members);
            if self.options.shuffle {
                Philox::new(self.options.seed, stream(STREAM_ORDER, source as u64, number))
                    .shuffle(&mut pass.order);
            }
        }
        pass.order[at]
    }
}

/// Checks given shares and takes those of sources without examples out.
fn keep_present(strategy: Strategy, sizes: &[Size]) -> Result<Strategy, MixError> {
    Ok(match strategy {
        Strategy::Shares { shares, epoch } => {
            let good = shares.iter().all(|s| s.is_finite() && *s >= 0.0);
            let present = shares.iter().zip(sizes).filter(|(_, size)| size.examples > 0);
            let shares_there: Vec<f64> = present.map(|(s, _)| *s).collect();
            if !good || shares.len() < sizes.len() || shares_there.iter().sum::<f64>() <= 0.0 {
                return Err(MixError::Shares { key: "interleave_probs", got: format!("{shares:?}") });
            }
            Strategy::Shares { shares: shares_there, epoch }
        }
        Strategy::Schedule(points) => {
            let point = |(at, strategy)| Ok((at, keep_present(strategy, sizes)?));
            Strategy::Schedule(points.into_iter().map(point).collect::<Result<_, MixError>>()?)
        }
        other => other,
    })
}
