//! From encoded turns to one sequence with its labels: truncation and loss masks as LLaMA-Factory does
//! them (its `data/processor/supervised.py` and `processor_utils.py`).

use std::ops::Range;

/// One turn, tokenised: what the model is given and what it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Turn {
    pub source: Vec<u32>,
    pub target: Vec<u32>,
}

/// A run of labelled positions of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSpan {
    /// The positions, as indices into the sequence's ids.
    pub positions: Range<u32>,
    /// `None`: each position's label is its own id. `Some(id)`: the label is this id instead, as under
    /// `efficient_eos`, where a reply is followed not by an eos token but by the next turn.
    pub token: Option<u32>,
}

/// A conversation as the model sees it, with what it has to learn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The token ids.
    pub ids: Vec<u32>,
    /// The labelled positions, ascending, not overlapping. Position `p` is predicted from `p - 1`.
    pub labels: Vec<LabelSpan>,
    /// How many positions of replies are labelled. 0 means that nothing of a reply is left to learn.
    pub reply_tokens: usize,
    /// Whether the cutoff took something away.
    pub truncated: bool,
}

impl Rendered {
    /// Whether each position is labelled; as long as `ids`.
    pub fn label_mask(&self) -> Vec<bool> {
        let mut mask = vec![false; self.ids.len()];
        for span in &self.labels {
            mask[span.positions.start as usize..span.positions.end as usize].fill(true);
        }
        mask
    }

    /// The label of each position, `None` where there is none; as long as `ids`.
    pub fn label_ids(&self) -> Vec<Option<u32>> {
        let mut labels = vec![None; self.ids.len()];
        for span in &self.labels {
            let range = span.positions.start as usize..span.positions.end as usize;
            for (label, &id) in labels[range.clone()].iter_mut().zip(&self.ids[range]) {
                *label = Some(span.token.unwrap_or(id));
            }
        }
        labels
    }
}

/// Which positions are learned.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct MaskRule {
    pub train_on_prompt: bool,
    pub mask_history: bool,
    /// The eos id under `efficient_eos`.
    pub efficient_eos: Option<u32>,
}

/// How many source and target tokens of a turn are kept within `budget`: the source is cut where the
/// target takes less than half, the target where the source does, else both in proportion.
pub fn infer_seqlen(source_len: usize, target_len: usize, budget: usize) -> (usize, usize) {
    let max_target = if target_len * 2 < budget {
        budget
    } else if source_len * 2 < budget {
        budget - source_len
    } else {
        // In f64, as the original: int(budget * (target / (source + target))).
        (budget as f64 * (target_len as f64 / (source_len + target_len) as f64)) as usize
    };
    let target = max_target.min(target_len);
    (budget.saturating_sub(target).min(source_len), target)
}

/// Joins `turns` into one sequence of at most `cutoff_len` ids.
///
/// Turns are served in order until the budget is used up; under `mask_history` from the last to the
/// first, and only the last reply is labelled.
pub(super) fn assemble(turns: &[Turn], rule: MaskRule, cutoff_len: Option<usize>) -> Rendered {
    let cutoff = cutoff_len.unwrap_or(usize::MAX);
    let mut used = usize::from(rule.efficient_eos.is_some());
    let mut kept: Vec<(usize, usize)> = vec![(0, 0); turns.len()];
    let order: Vec<usize> =
        if rule.mask_history { (0..turns.len()).rev().collect() } else { (0..turns.len()).collect() };
    let mut first_kept = turns.len();
    let mut last_kept = 0;
    for i in order {
        if used >= cutoff {
            break;
        }
        let (source, target) = (turns[i].source.len(), turns[i].target.len());
        kept[i] =
            if cutoff_len.is_none() { (source, target) } else { infer_seqlen(source, target, cutoff - used) };
        used += kept[i].0 + kept[i].1;
        first_kept = first_kept.min(i);
        last_kept = last_kept.max(i + 1);
    }
    let mut out = Rendered {
        truncated: turns.iter().zip(&kept).any(|(t, k)| (t.source.len(), t.target.len()) != *k),
        ..Rendered::default()
    };
    for i in first_kept..last_kept {
        let (source, target) = kept[i];
        let start = out.ids.len();
        out.ids.extend_from_slice(&turns[i].source[..source]);
        let middle = out.ids.len();
        out.ids.extend_from_slice(&turns[i].target[..target]);
        match rule.efficient_eos {
            _ if rule.train_on_prompt => out.label(start..middle, None),
            // The reply before ended here; under mask_history that reply is not learned.
            Some(eos) if i > first_kept && source > 0 && !rule.mask_history => {
                out.label(start..start + 1, Some(eos));
            }
            _ => {}
        }
        if !rule.mask_history || i + 1 == turns.len() {
            out.label(middle..middle + target, None);
            out.reply_tokens += target;
        }
    }
    if let Some(eos) = rule.efficient_eos {
        out.ids.push(eos);
        out.label(out.ids.len() - 1..out.ids.len(), None);
    }
    out
}

impl Rendered {
    fn label(&mut self, positions: Range<usize>, token: Option<u32>) {
        if positions.is_empty() {
            return;
        }
        let positions = positions.start as u32..positions.end as u32;
        if let Some(last) = self.labels.last_mut()
            && last.positions.end == positions.start
            && last.token.is_none()
            && token.is_none()
        {
            last.positions.end = positions.end;
            return;
        }
        self.labels.push(LabelSpan { positions, token });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(source: &[u32], target: &[u32]) -> Turn {
        Turn { source: source.to_vec(), target: target.to_vec() }
    }

    /// LLaMA-Factory's rule on cases of each branch.
    #[test]
    fn lengths_follow_llama_factory() {
        for (source, target, budget, kept) in [
            (1000, 10, 100, (90, 10)), // short reply: the prompt is cut
            (10, 1000, 100, (10, 90)), // short prompt: the reply is cut
            (300, 100, 100, (75, 25)), // both, in proportion
            (60, 60, 100, (50, 50)),   // both
            (30, 20, 100, (30, 20)),   // all fits
            (1000, 6, 10, (10, 0)),    // nothing of the reply is left
            (0, 7, 5, (0, 5)),
        ] {
            assert_eq!(infer_seqlen(source, target, budget), kept, "{source} {target} {budget}");
        }
    }

    #[test]
    fn replies_are_labelled_and_prompts_are_not() {
        let turns = [turn(&[1, 2], &[3]), turn(&[4], &[5, 6])];
        let out = assemble(&turns, MaskRule::default(), None);
        assert_eq!(out.ids, [1, 2, 3, 4, 5, 6]);
        assert_eq!(out.label_mask(), [false, false, true, false, true, true]);
        assert_eq!((out.reply_tokens, out.truncated), (3, false));
        let all = assemble(&turns, MaskRule { train_on_prompt: true, ..MaskRule::default() }, None);
        assert_eq!(all.label_mask(), [true; 6]);
        assert_eq!(all.labels.len(), 1, "adjacent runs are joined");
        let last = assemble(&turns, MaskRule { mask_history: true, ..MaskRule::default() }, None);
        assert_eq!(last.label_mask(), [false, false, false, false, true, true]);
    }

    #[test]
    fn efficient_eos_labels_the_next_turn_and_the_end() {
        let turns = [turn(&[1, 2], &[3]), turn(&[4, 7], &[5])];
        let rule = MaskRule { efficient_eos: Some(9), ..MaskRule::default() };
        let out = assemble(&turns, rule, None);
        assert_eq!(out.ids, [1, 2, 3, 4, 7, 5, 9]);
        assert_eq!(out.label_ids(), [None, None, Some(3), Some(9), None, Some(5), Some(9)]);
        // The end token is within the cutoff.
        assert_eq!(assemble(&turns, rule, Some(6)).ids.len(), 6);
    }

    #[test]
    fn the_cutoff_serves_first_turns_first_or_last_turns_first() {
        let turns = [turn(&[1, 2, 3], &[4]), turn(&[5, 6], &[7])];
        let out = assemble(&turns, MaskRule::default(), Some(5));
        assert_eq!(out.ids, [1, 2, 3, 4, 5], "of the second turn's budget of 1 the reply gets int(1 / 3)");
        assert!(out.truncated);
        let out = assemble(&turns, MaskRule { mask_history: true, ..MaskRule::default() }, Some(5));
        assert_eq!(out.ids, [1, 2, 5, 6, 7]);
        assert_eq!(out.label_mask(), [false, false, false, false, true]);
        assert!(!assemble(&turns, MaskRule::default(), Some(7)).truncated);
    }
}
