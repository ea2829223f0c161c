//! From the options and the data to what the sampler draws from: tasks, or files.

use super::error::MixError;
use super::sampler::{Drawable, Sampler, SamplerOptions};
use super::strategy::{EpochRule, Strategy};
use crate::config::{MixStrategy, SamplingStrategy, SamplingUnit, Shares, TaskArgs};
use crate::data::Dataset;
use std::path::Path;

/// What is drawn from.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Task,
    File,
}

impl Sampler {
    /// The sampler that `args` asks for over `data`, and what the user should know about it.
    ///
    /// Shares given as a list are those of the files where there are as many (LLaMA-Factory's datasets),
    /// else of the tasks in the order of their first examples. `interleave_*` without shares shares
    /// equally among the files, or among the tasks where there is one file.
    ///
    /// # Errors
    /// Shares that do not fit the data's files and tasks; whatever [`Sampler::new`] refuses.
    pub fn from_config(
        args: &TaskArgs,
        data: &Dataset,
        step_size: usize,
        shuffle: bool,
        seed: u64,
    ) -> Result<(Sampler, Vec<String>), MixError> {
        let mut files: Vec<&Path> = Vec::new();
        let mut numbers = Vec::with_capacity(data.len());
        for example in data.iter() {
            // Examples of a file follow one another, so the search nearly always ends at once.
            let number = files.iter().rposition(|f| *f == example.file).unwrap_or_else(|| {
                files.push(example.file);
                files.len() - 1
            });
            numbers.push(number as u16);
        }
        let known = Known { names: data.tasks().names(), files: files.len() };
        let mut notes = Vec::new();
        let (strategy, by) = known.strategy(args, &mut notes)?;
        let examples: Vec<Drawable> = data
            .iter()
            .zip(numbers)
            .map(|(example, file)| Drawable {
                task: example.task,
                source: if by == By::File { file } else { example.task.0 },
                labelled: example.label_tokens() as u32,
            })
            .collect();
        if args.sampling_unit == SamplingUnit::Tokens && by == By::Task {
            let labelled = |task: usize| {
                examples.iter().filter(move |e| e.task.index() == task).map(|e| u64::from(e.labelled))
            };
            for (task, name) in known.names.iter().enumerate() {
                if labelled(task).next().is_some() && labelled(task).sum::<u64>() == 0 {
                    return Err(MixError::NoLabels(name.clone()));
                }
            }
        }
        let options = SamplerOptions { strategy, unit: args.sampling_unit, step_size, shuffle, seed };
        Ok((Sampler::new(&examples, options)?, notes))
    }
}

/// What the data has.
struct Known<'a> {
    names: &'a [String],
    files: usize,
}

impl Known<'_> {
    fn strategy(&self, args: &TaskArgs, notes: &mut Vec<String>) -> Result<(Strategy, By), MixError> {
        if !args.sampling_schedule.is_empty() {
            return Ok((self.schedule(args)?, self.schedule_by(args)?));
        }
        let epoch = match args.mix_strategy {
            MixStrategy::Concat => EpochRule::AsMany,
            MixStrategy::InterleaveUnder => EpochRule::FirstExhausted,
            MixStrategy::InterleaveOver => EpochRule::AllExhausted,
            MixStrategy::InterleaveOnce => EpochRule::WithoutReplacement,
        };
        match &args.interleave_probs {
            Some(given) => {
                let (shares, by) = self.shares("interleave_probs", given)?;
                let sum: f64 = shares.iter().sum();
                if (sum - 1.0).abs() > 1e-6 {
                    let each: Vec<String> = shares.iter().map(|s| format!("{:.4}", s / sum)).collect();
                    let each = each.join(", ");
                    notes.push(format!("interleave_probs sum to {sum}, not 1: taken as {each}"));
                }
                Ok((Strategy::Shares { shares, epoch }, by))
            }
            None if args.mix_strategy == MixStrategy::Concat => {
                Ok((named(args.sampling_strategy, args), By::Task))
            }
            None => {
                let (count, by) =
                    if self.files > 1 { (self.files, By::File) } else { (self.names.len(), By::Task) };
                Ok((Strategy::Shares { shares: vec![1.0; count], epoch }, by))
            }
        }
    }

    fn schedule(&self, args: &TaskArgs) -> Result<Strategy, MixError> {
        let point = |point: &crate::config::SchedulePoint| {
            let strategy = match (&point.shares, point.strategy) {
                (Some(given), _) => {
                    let (shares, _) = self.shares("sampling_schedule", given)?;
                    Strategy::Shares { shares, epoch: EpochRule::AsMany }
                }
                (None, strategy) => named(strategy.unwrap_or_default(), args),
            };
            Ok((point.at, strategy))
        };
        Ok(Strategy::Schedule(args.sampling_schedule.iter().map(point).collect::<Result<_, MixError>>()?))
    }

    /// Files where a point lists shares by file; points of strategies go along with either.
    fn schedule_by(&self, args: &TaskArgs) -> Result<By, MixError> {
        let given = args.sampling_schedule.iter().filter_map(|point| point.shares.as_ref());
        let by = given.map(|s| Ok(self.shares("sampling_schedule", s)?.1)).collect::<Result<Vec<By>, _>>()?;
        match by.first() {
            Some(first) if by.iter().any(|b| b != first) => Err(MixError::MixedSources),
            Some(first) => Ok(*first),
            None => Ok(By::Task),
        }
    }

    fn shares(&self, key: &'static str, given: &Shares) -> Result<(Vec<f64>, By), MixError> {
        let names = || self.names.join(", ");
        match given {
            Shares::InOrder(shares) if shares.len() == self.files => Ok((shares.clone(), By::File)),
            Shares::InOrder(shares) if shares.len() == self.names.len() => Ok((shares.clone(), By::Task)),
            Shares::InOrder(shares) => Err(MixError::ShareCount {
                key,
                given: shares.len(),
                files: self.files,
                tasks: self.names.len(),
                names: names(),
                example: self.names.first().cloned().unwrap_or_default(),
            }),
            Shares::ByTask(by_task) => {
                if let Some(task) = by_task.keys().find(|task| !self.names.contains(task)) {
                    return Err(MixError::UnknownTask { key, task: task.clone(), names: names() });
                }
                let share = |name: &String| {
                    let missing = || MixError::MissingTask { key, task: name.clone() };
                    by_task.get(name).copied().ok_or_else(missing)
                };
                Ok((self.names.iter().map(share).collect::<Result<_, _>>()?, By::Task))
            }
        }
    }
}

fn named(strategy: SamplingStrategy, args: &TaskArgs) -> Strategy {
    match strategy {
        SamplingStrategy::Proportional => Strategy::Proportional,
        SamplingStrategy::Stratified => Strategy::Stratified,
        SamplingStrategy::Balanced => Strategy::Balanced,
        SamplingStrategy::Temperature => Strategy::Temperature(args.sampling_temperature),
        SamplingStrategy::Capped => Strategy::Capped(args.sampling_cap.unwrap_or(u64::MAX)),
    }
}
