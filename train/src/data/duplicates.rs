//! Rows that repeat others: inside the training data, and between training and evaluation data.

use super::dataset::{Dataset, TaskId};
use super::format::location;
use super::store::print;
use medley_model::template::{Message, Role};
use std::collections::HashMap;
use std::path::PathBuf;

/// A row of a file: path and line.
pub type Place = (PathBuf, u64);

/// How many pairs of rows a finding names.
const PAIRS: usize = 3;

/// Rows of one task that repeat others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeats {
    /// The task.
    pub task: String,
    /// Rows of the task that are trained on.
    pub rows: usize,
    /// How many of them repeat another; for contamination: whose prompt is one of the evaluation data.
    pub repeated: usize,
    /// For contamination: how many of those have the same reply as well.
    pub same_reply: usize,
    /// A few of them, each with the row it repeats.
    pub pairs: Vec<(Place, Place)>,
}

impl Repeats {
    fn new(dataset: &Dataset, task: usize) -> Repeats {
        let name = dataset.tasks().names().get(task).cloned().unwrap_or_default();
        Repeats { task: name, rows: 0, repeated: 0, same_reply: 0, pairs: Vec::new() }
    }

    /// `a.jsonl:7 = b.jsonl:3, …`
    pub fn examples(&self) -> String {
        let show = |(path, line): &Place| location(path, *line);
        let pairs: Vec<String> =
            self.pairs.iter().map(|(a, b)| format!("{} = {}", show(a), show(b))).collect();
        let more = if self.repeated > self.pairs.len() { ", …" } else { "" };
        format!("{}{more}", pairs.join(", "))
    }
}

/// Rows with the ids and labels of an earlier row of the same task. A row that `num_samples` draws
/// several times does not repeat itself.
#[derive(Debug, Clone, Default)]
pub struct Duplicates {
    /// Tasks that have any.
    pub tasks: Vec<Repeats>,
    /// The examples that repeat none, ascending.
    pub distinct: Vec<usize>,
}

/// Finds the rows that repeat an earlier one; of pre-training, the documents.
pub fn duplicates(dataset: &Dataset) -> Duplicates {
    let count = dataset.tasks().len();
    let mut tasks: Vec<Repeats> = (0..count).map(|t| Repeats::new(dataset, t)).collect();
    let mut distinct = Vec::new();
    let place = |file: u32, line: u64| (dataset.file(file).to_path_buf(), line);
    if !dataset.marks().is_empty() {
        let mut seen: HashMap<u64, usize> = HashMap::with_capacity(dataset.marks().len());
        for (i, mark) in dataset.marks().iter().enumerate() {
            let first = &dataset.marks()[*seen.entry(mark.print).or_insert(i)];
            let Some(found) = tasks.get_mut(mark.task as usize) else { continue };
            found.rows += 1;
            if (first.file, first.line) != (mark.file, mark.line) {
                found.repeated += 1;
                if found.pairs.len() < PAIRS {
                    found.pairs.push((place(mark.file, mark.line), place(first.file, first.line)));
                }
            }
        }
        distinct.extend(0..dataset.len());
    } else {
        let entries: Vec<_> = dataset.entries().collect();
        for (i, first) in dataset.first_of_equals(true).into_iter().enumerate() {
            let (entry, first) = (entries[i], entries[first as usize]);
            let found = &mut tasks[TaskId(entry.task).index()];
            found.rows += 1;
            if (entry.file, entry.line) == (first.file, first.line) {
                distinct.push(i);
                continue;
            }
            found.repeated += 1;
            if found.pairs.len() < PAIRS {
                found.pairs.push((place(entry.file, entry.line), place(first.file, first.line)));
            }
        }
    }
    tasks.retain(|t| t.repeated > 0);
    Duplicates { tasks, distinct }
}

/// Training rows that the evaluation data has too, in normal form: case and white space apart.
#[derive(Debug, Clone, Default)]
pub struct Contamination {
    /// Tasks that have any.
    pub tasks: Vec<Repeats>,
    /// The training examples whose prompt is not in the evaluation data, ascending.
    pub clean: Vec<usize>,
}

/// Finds training rows whose prompt, or prompt and reply, is in the evaluation data; of pre-training,
/// documents that are in both. Holds one entry a row of the evaluation data.
pub fn contamination(train: &Dataset, eval: &Dataset) -> Contamination {
    let mut tasks: Vec<Repeats> = (0..train.tasks().len()).map(|t| Repeats::new(train, t)).collect();
    if !train.marks().is_empty() {
        let known: HashMap<u64, usize> =
            eval.marks().iter().enumerate().rev().map(|(i, m)| (m.print, i)).collect();
        for mark in train.marks() {
            let Some(found) = tasks.get_mut(mark.task as usize) else { continue };
            found.rows += 1;
            if let Some(other) = known.get(&mark.print).map(|&i| &eval.marks()[i]) {
                found.repeated += 1;
                found.same_reply += 1;
                if found.pairs.len() < PAIRS {
                    let here = (train.file(mark.file).to_path_buf(), mark.line);
                    found.pairs.push((here, (eval.file(other.file).to_path_buf(), other.line)));
                }
            }
        }
        tasks.retain(|t| t.repeated > 0);
        return Contamination { tasks, clean: (0..train.len()).collect() };
    }
    let (mut prompts, mut rows) = (HashMap::new(), HashMap::new());
    for entry in eval.entries().filter(|e| e.prompt != 0) {
        prompts.entry(entry.prompt).or_insert((entry.file, entry.line));
        rows.entry(entry.row).or_insert((entry.file, entry.line));
    }
    let mut clean = Vec::new();
    for (i, entry) in train.entries().enumerate() {
        let Some(found) = tasks.get_mut(TaskId(entry.task).index()) else { continue };
        found.rows += 1;
        let Some(&same_prompt) = prompts.get(&entry.prompt).filter(|_| entry.prompt != 0) else {
            clean.push(i);
            continue;
        };
        let same_row = rows.get(&entry.row).copied();
        found.repeated += 1;
        found.same_reply += usize::from(same_row.is_some());
        if found.pairs.len() < PAIRS {
            let (file, line) = same_row.unwrap_or(same_prompt);
            let here = (train.file(entry.file).to_path_buf(), entry.line);
            found.pairs.push((here, (eval.file(file).to_path_buf(), line)));
        }
    }
    tasks.retain(|t| t.repeated > 0);
    Contamination { tasks, clean }
}

/// Prints of a conversation in normal form: of its prompt, and of prompt and reply. System messages do
/// not count: the same question under another persona is the same question.
pub(super) fn prints(messages: &[Message]) -> (u64, u64) {
    let said: Vec<Vec<u8>> =
        messages.iter().filter(|m| m.role != Role::System).map(|m| normal(&m.content)).collect();
    let parts: Vec<&[u8]> = said.iter().map(Vec::as_slice).collect();
    let Some((_, prompt)) = parts.split_last() else { return (0, 0) };
    // 0 is kept for "none".
    (print(prompt).max(1), print(&parts).max(1))
}

/// The print of a document in normal form.
pub(super) fn document_print(text: &str) -> u64 {
    print(&[&normal(text)])
}

/// Lower case, runs of white space as one space, none at the ends.
fn normal(text: &str) -> Vec<u8> {
    let mut out = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !out.is_empty() {
            out.push(' ');
        }
        out.extend(word.chars().flat_map(char::to_lowercase));
    }
    out.into_bytes()
}
