//! Packing: the examples of a micro-batch as one sequence, without padding.

use crate::data::{Dataset, TaskId};
use medley_model::Sequences;
use std::sync::Arc;

/// Examples one after another, with what they have to predict.
///
/// Attention does not cross `cu_seqlens` and positions restart at each of them, so the packed sequences
/// give exactly what each example gives alone. With S examples and L labelled positions:
#[derive(Debug, Clone)]
pub struct PackedBatch {
    /// Token ids, positions and `cu_seqlens`.
    pub sequences: Sequences,
    /// Task of each example, \[S\].
    pub tasks: Vec<TaskId>,
    /// Rows of the hidden states that predict a label, ascending, \[L\]: the position before the label's.
    pub label_rows: Arc<[u32]>,
    /// The token that each of those rows has to predict, \[L\].
    pub targets: Arc<[u32]>,
    /// Task of each label, \[L\].
    pub label_tasks: Vec<TaskId>,
}

impl PackedBatch {
    /// How many tokens are packed.
    pub fn tokens(&self) -> usize {
        self.sequences.ids.len()
    }
}

/// Packs the examples at `indices`, in that order. Indices past the end are passed over.
///
/// A label at the first position of an example has nothing to be predicted from and is left out. A
/// micro-batch is `indices` of one chunk of a step: `step.chunks(per_device_train_batch_size)`.
pub fn pack(dataset: &Dataset, indices: &[u32]) -> PackedBatch {
    let examples = || indices.iter().filter_map(|&i| dataset.get(i as usize));
    let (mut rows, mut targets, mut label_tasks) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0;
    for example in examples() {
        for span in example.labels {
            for position in span.positions.clone().filter(|&p| p > 0) {
                rows.push(start + position - 1);
                targets.push(span.token.unwrap_or(example.ids[position as usize]));
                label_tasks.push(example.task);
            }
        }
        start += example.ids.len() as u32;
    }
    PackedBatch {
        sequences: Sequences::pack(examples().map(|e| e.ids)),
        tasks: examples().map(|e| e.task).collect(),
        label_rows: rows.into(),
        targets: targets.into(),
        label_tasks,
    }
}

/// Labels by task over the micro-batches of a step: the denominators of the step's loss, which must be
/// known before the first of its backward passes. As long as `tasks`.
pub fn label_counts(batches: &[PackedBatch], tasks: usize) -> Vec<u64> {
    let mut counts = vec![0; tasks];
    for task in batches.iter().flat_map(|b| &b.label_tasks) {
        if let Some(count) = counts.get_mut(task.index()) {
            *count += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{LoadOptions, Split, Tasks, data_files, load_sft};
    use medley_model::template::{RenderOptions, Renderer};
    use medley_model::tokenizer::{BpeOptions, train_bpe};
    use std::sync::Arc;

    /// Two tasks, replies `1` and `23`, the template that writes nothing around them.
    fn dataset(template: &str, train_on_prompt: bool) -> Dataset {
        let dir = tempfile::tempdir().unwrap();
        let options = BpeOptions { vocab_size: 259, ..BpeOptions::default() };
        let tokenizer = Arc::new(train_bpe(["x"].iter(), &options, dir.path()).unwrap());
        std::fs::write(dir.path().join("a.jsonl"), r#"{"instruction": "xyz", "output": "1"}"#).unwrap();
        std::fs::write(
            dir.path().join("b.jsonl"),
            r#"{"instruction": "q", "output": "23", "history": [["p", "0"]]}"#,
        )
        .unwrap();
        let args = crate::config::DataArgs {
            data_files: vec!["a.jsonl".into(), "b.jsonl".into()],
            dataset_dir: dir.path().to_path_buf(),
            ..Default::default()
        };
        let files = data_files(&args, Split::Train).unwrap();
        let options = RenderOptions { train_on_prompt, ..RenderOptions::default() };
        let renderer = Renderer::new(Some(template), tokenizer, options).unwrap();
        load_sft(&files, &renderer, &LoadOptions::default(), &mut Tasks::default()).unwrap()
    }

    #[test]
    fn packs_without_padding_and_points_rows_at_labels() {
        let data = dataset("empty", false);
        let batch = pack(&data, &[1, 0, 1]);
        // b: p 0 q 2 3, a: x y z 1
        let (a, b) = (data.get(0).unwrap(), data.get(1).unwrap());
        assert_eq!(batch.sequences.ids[..], [b.ids, a.ids, b.ids].concat());
        assert_eq!(batch.sequences.cu_seqlens[..], [0, 5, 9, 14]);
        assert_eq!(batch.sequences.positions[..], [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 3, 4]);
        assert_eq!(batch.label_rows[..], [0, 2, 3, 7, 9, 11, 12]);
        let predicted: Vec<u32> =
            batch.label_rows.iter().map(|&r| batch.sequences.ids[r as usize + 1]).collect();
        assert_eq!(batch.targets[..], predicted);
        assert_eq!(batch.label_tasks, [1, 1, 1, 0, 1, 1, 1].map(TaskId));
        assert_eq!(batch.tasks, [1, 0, 1].map(TaskId));
        assert_eq!(batch.tokens(), 14);
        assert_eq!(a.ids[1], a.ids[0] + 1, "y follows x in a vocabulary of bytes");
    }

    #[test]
    fn a_label_without_a_position_before_it_is_left_out() {
        let data = dataset("empty", true);
        let batch = pack(&data, &[0]);
        assert_eq!(batch.label_rows[..], [0, 1, 2]);
        assert_eq!(data.get(0).unwrap().label_tokens(), 3);
        assert_eq!(data.reports()[0].label_tokens, 3);
    }

    #[test]
    fn an_end_label_that_is_not_an_input_is_kept() {
        // Under efficient_eos the first token of the second turn carries the label eos (id 0).
        let data = dataset("fewshot", false);
        let batch = pack(&data, &[1]);
        let at = batch.targets.iter().position(|&l| l == 0).unwrap();
        assert_ne!(batch.sequences.ids[batch.label_rows[at] as usize + 1], 0);
        assert_eq!(batch.targets.iter().filter(|&&l| l == 0).count(), 2);
        assert_eq!(batch.sequences.ids.last(), Some(&0));
    }

    #[test]
    fn counts_do_not_depend_on_the_cut_into_micro_batches() {
        let data = dataset("empty", false);
        let step = [0u32, 1, 1, 0, 1];
        let whole = label_counts(&[pack(&data, &step)], 2);
        assert_eq!(whole, [2, 9]);
        for size in 1..5 {
            let batches: Vec<PackedBatch> = step.chunks(size).map(|c| pack(&data, c)).collect();
            assert_eq!(label_counts(&batches, 2), whole);
            assert_eq!(batches.iter().map(PackedBatch::tokens).sum::<usize>(), 23);
        }
        assert_eq!(pack(&data, &[]).sequences.cu_seqlens[..], [0]);
    }
}
