//! Packing: the examples of a micro-batch as one sequence, without padding.

use crate::data::{Dataset, TaskId};

/// Examples one after another.
///
/// Attention must not cross `cu_seqlens`, and positions restart at each of them; then the packed sequence
/// gives exactly what each example gives alone.
///
/// With T tokens, S examples and L labelled positions:
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// Token ids, \[T\].
    pub ids: Vec<u32>,
    /// Position of each token in its example, \[T\].
    pub position_ids: Vec<u32>,
    /// Where each example begins, then T: \[S + 1\].
    pub cu_seqlens: Vec<u32>,
    /// Task of each token, \[T\].
    pub tasks: Vec<TaskId>,
    /// Rows of the hidden states that predict a label, ascending, \[L\]: the position before the label's.
    pub label_rows: Vec<u32>,
    /// The token that each of those rows has to predict, \[L\].
    pub labels: Vec<u32>,
    /// Task of each label, \[L\].
    pub label_tasks: Vec<TaskId>,
}

impl PackedBatch {
    /// The length of the longest example.
    pub fn max_seqlen(&self) -> u32 {
        self.cu_seqlens.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0)
    }

    /// How many examples are packed.
    pub fn sequences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }
}

/// Packs the examples at `indices`, in that order. Indices past the end are passed over.
///
/// A label at the first position of an example has nothing to be predicted from and is left out. A
/// micro-batch is `indices` of one chunk of a step: `step.chunks(per_device_train_batch_size)`.
pub fn pack(dataset: &Dataset, indices: &[u32]) -> PackedBatch {
    let mut batch = PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() };
    for example in indices.iter().filter_map(|&i| dataset.get(i as usize)) {
        let start = batch.ids.len() as u32;
        batch.ids.extend_from_slice(example.ids);
        batch.position_ids.extend(0..example.ids.len() as u32);
        batch.tasks.resize(batch.ids.len(), example.task);
        for span in example.labels {
            for position in span.positions.clone().filter(|&p| p > 0) {
                batch.label_rows.push(start + position - 1);
                batch.labels.push(span.token.unwrap_or(example.ids[position as usize]));
                batch.label_tasks.push(example.task);
            }
        }
        batch.cu_seqlens.push(batch.ids.len() as u32);
    }
    batch
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

    /// Ids of single bytes in a vocabulary of nothing but bytes, by decoding back.
    fn text(dataset: &Dataset, ids: &[u32]) -> Vec<u32> {
        let first = dataset.get(0).unwrap().ids;
        ids.iter().map(|id| id.wrapping_sub(first[0])).collect()
    }

    #[test]
    fn packs_without_padding_and_points_rows_at_labels() {
        let data = dataset("empty", false);
        let batch = pack(&data, &[1, 0, 1]);
        // b: p 0 q 2 3, a: x y z 1
        let (a, b) = (data.get(0).unwrap(), data.get(1).unwrap());
        assert_eq!(batch.ids, [b.ids, a.ids, b.ids].concat());
        assert_eq!(batch.cu_seqlens, [0, 5, 9, 14]);
        assert_eq!(batch.position_ids, [0, 1, 2, 3, 4, 0, 1, 2, 3, 0, 1, 2, 3, 4]);
        assert_eq!(batch.label_rows, [0, 2, 3, 7, 9, 11, 12]);
        let predicted: Vec<u32> = batch.label_rows.iter().map(|&r| batch.ids[r as usize + 1]).collect();
        assert_eq!(batch.labels, predicted);
        assert_eq!((batch.max_seqlen(), batch.sequences()), (5, 3));
        let tasks: Vec<u16> = batch.label_tasks.iter().map(|t| t.0).collect();
        assert_eq!(tasks, [1, 1, 1, 0, 1, 1, 1]);
        let tasks: Vec<u16> = batch.tasks.iter().map(|t| t.0).collect();
        assert_eq!(tasks, [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(text(&data, &batch.ids[5..9])[..3], [0, 1, 2], "x y z are neighbours");
    }

    #[test]
    fn a_label_without_a_position_before_it_is_left_out() {
        let data = dataset("empty", true);
        let batch = pack(&data, &[0]);
        assert_eq!(batch.label_rows, [0, 1, 2]);
        assert_eq!(data.get(0).unwrap().label_tokens(), 3);
        assert_eq!(data.reports()[0].label_tokens, 3);
    }

    #[test]
    fn an_end_label_that_is_not_an_input_is_kept() {
        // Under efficient_eos the first token of the second turn carries the label eos (id 0).
        let data = dataset("fewshot", false);
        let batch = pack(&data, &[1]);
        let at = batch.labels.iter().position(|&l| l == 0).unwrap();
        assert_ne!(batch.ids[batch.label_rows[at] as usize + 1], 0);
        assert_eq!(batch.labels.iter().filter(|&&l| l == 0).count(), 2);
        assert_eq!(batch.ids.last(), Some(&0));
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
            assert_eq!(batches.iter().map(|b| b.ids.len()).sum::<usize>(), 23);
        }
        assert_eq!(pack(&data, &[]), PackedBatch { cu_seqlens: vec![0], ..PackedBatch::default() });
    }
}
