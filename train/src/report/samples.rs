//! `sample_predictions.jsonl`: what the model wrote for a few examples before training and what it writes after.
//!
//! A handful of greedy completions of at most [`MOST_TOKENS`] tokens: cheap beside a run, and the quickest way to see
//! whether a run learned a task or only lowered a number.

use crate::data::{Dataset, Example};
use crate::{Error, Result};
use medley_model::Llama;
use medley_model::generate::{GenerateOptions, SamplingParams, generate};
use medley_model::tokenizer::Tokenizer;
use medley_tensor::io::write_atomic;
use serde::{Deserialize, Serialize};
use std::io::ErrorKind;
use std::path::Path;

/// File name in an output folder.
pub const SAMPLE_PREDICTIONS: &str = "sample_predictions.jsonl";

/// Of a completion.
pub const MOST_TOKENS: usize = 48;

/// Prompts longer than this are passed over where the task has shorter ones.
const LONG_PROMPT: usize = 512;

/// Where an example was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Held out: the model has not trained on it.
    Evaluation,
    /// Trained on, for want of evaluation examples.
    Training,
}

/// An example, and what the model makes of it: a line of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The example's task.
    pub task_name: String,
    /// Where it was taken from.
    pub source: Source,
    /// The file, as the configuration names it.
    pub file: String,
    /// Its line, counted from 1.
    pub line: u64,
    /// The prompt as the model sees it.
    pub prompt: String,
    /// The reference.
    pub label: String,
    /// What the model wrote before the run's first step.
    pub before: Option<String>,
    /// What it writes now that the run is over.
    pub after: Option<String>,
}

/// When completions are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the first step.
    Before,
    /// After the last.
    After,
}

/// The examples that are shown: the first `each` of every task, held-out ones where a task has any, chosen the same
/// way every time. `room` is the longest prompt that leaves room for a completion.
fn chosen<'d>(
    train: &'d Dataset,
    eval: Option<&'d Dataset>,
    each: usize,
    room: usize,
) -> Vec<(Source, Example<'d>, usize)> {
    let mut all = vec![];
    for task in 0..train.tasks().len() {
        let fitting = |data: &'d Dataset, source, most: usize| -> Vec<(Source, Example<'d>, usize)> {
            data.iter()
                .filter(|example| example.task.index() == task)
                .filter_map(|example| Some((source, example, reply_start(&example)?)))
                .filter(|(_, _, start)| *start <= most.min(room))
                .take(each)
                .collect()
        };
        let of_source = |data, source| {
            let short = fitting(data, source, LONG_PROMPT);
            if short.is_empty() { fitting(data, source, room) } else { short }
        };
        let held_out = eval.map(|eval| of_source(eval, Source::Evaluation)).unwrap_or_default();
        all.extend(if held_out.is_empty() { of_source(train, Source::Training) } else { held_out });
    }
    all
}

/// Where the last reply begins: the length of its prompt; `None` where nothing comes before it.
fn reply_start(example: &Example<'_>) -> Option<usize> {
    let mut spans = example.labels.iter().rev();
    let mut start = spans.next()?.positions.start;
    for span in spans {
        if span.positions.end != start {
            break;
        }
        start = span.positions.start;
    }
    (start > 0).then_some(start as usize)
}

/// What it takes to have a model write.
pub struct Writer<'a> {
    /// The model, as it is at that moment.
    pub model: &'a Llama,
    /// Its tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Ids that end a reply.
    pub stop_ids: &'a [u32],
    /// Completions made at once.
    pub batch_size: usize,
}

impl Writer<'_> {
    /// Has the model complete `each` examples of every task, and writes them into `folder`. What was written there
    /// before training is kept when it is written after, for the same examples.
    ///
    /// # Errors
    /// The model yields logits that are not finite, or the file cannot be read or written.
    pub fn write(
        &self,
        folder: &Path,
        train: &Dataset,
        eval: Option<&Dataset>,
        each: usize,
        moment: Moment,
    ) -> Result<()> {
        let room = self.model.config().max_position_embeddings.saturating_sub(MOST_TOKENS);
        let chosen = chosen(train, eval, each, room);
        let prompts: Vec<Vec<u32>> =
            chosen.iter().map(|(_, example, start)| example.ids[..*start].to_vec()).collect();
        let options = GenerateOptions {
            sampling: SamplingParams {
                do_sample: false,
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                repetition_penalty: 1.0,
            },
            max_new_tokens: MOST_TOKENS,
            stop_ids: self.stop_ids.to_vec(),
            batch_size: self.batch_size,
            seed: 0,
        };
        let completions = generate(self.model, &prompts, &options, &mut |_, _| true)?;
        let earlier = match moment {
            Moment::Before => vec![],
            Moment::After => read(folder)?,
        };
        let mut samples = vec![];
        for ((source, example, start), done) in chosen.into_iter().zip(completions) {
            let text = self.tokenizer.decode(&done.ids, true)?.trim().to_string();
            let mut sample = Sample {
                task_name: train.tasks().name(example.task).to_string(),
                source,
                file: example.file.display().to_string(),
                line: example.line,
                prompt: self.tokenizer.decode(&example.ids[..start], false)?,
                label: self.tokenizer.decode(&example.ids[start..], true)?.trim().to_string(),
                before: None,
                after: None,
            };
            match moment {
                Moment::Before => sample.before = Some(text),
                Moment::After => {
                    let same = |other: &&Sample| {
                        (&other.task_name, &other.file, other.line, &other.prompt)
                            == (&sample.task_name, &sample.file, sample.line, &sample.prompt)
                    };
                    sample.before = earlier.iter().find(same).and_then(|other| other.before.clone());
                    sample.after = Some(text);
                }
            }
            samples.push(sample);
        }
        write(folder, &samples)
    }
}

/// Reads the samples of a folder; none where there is no file.
///
/// # Errors
/// The file cannot be read, or a line is not in this form.
pub fn read(folder: &Path) -> Result<Vec<Sample>> {
    let path = folder.join(SAMPLE_PREDICTIONS);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(Error::io(&path)(error)),
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                Error::Run(format!("{}:{}: not a sample: {error}", path.display(), index + 1))
            })
        })
        .collect()
}

fn write(folder: &Path, samples: &[Sample]) -> Result<()> {
    let path = folder.join(SAMPLE_PREDICTIONS);
    let mut text = vec![];
    for sample in samples {
        serde_json::to_writer(&mut text, sample)
            .map_err(|e| Error::Run(format!("{}: a line cannot be written as JSON: {e}", path.display())))?;
        text.push(b'\n');
    }
    Ok(write_atomic(&path, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), []);
        let sample = Sample {
            task_name: "qa".into(),
            source: Source::Evaluation,
            file: "qa.jsonl".into(),
            line: 3,
            prompt: "Where?".into(),
            label: "Here".into(),
            before: Some("There".into()),
            after: None,
        };
        write(dir.path(), std::slice::from_ref(&sample)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [sample]);
        let path = dir.path().join(SAMPLE_PREDICTIONS);
        let good = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, good + "{\"task\"").unwrap();
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("sample_predictions.jsonl:2"), "{error}");
    }
}
