//! Choosing the next token, in transformers' order: repetition penalty, temperature, top-k, top-p.

use crate::{Error, Result};
use medley_tensor::rng::Philox;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingParams {
    /// `false`: the likeliest token (greedy).
    pub do_sample: bool,
    /// Divides the logits.
    pub temperature: f32,
    /// Only the `k` likeliest tokens; 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability; 1 for all.
    pub top_p: f32,
    /// Logits of tokens seen so far are divided by it when positive, multiplied when negative
    /// (CTRL, arXiv 1909.05858); 1 for none.
    pub repetition_penalty: f32,
}

impl SamplingParams {
    /// The likeliest token, always.
    pub const GREEDY: SamplingParams =
        SamplingParams { do_sample: false, temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0 };
}

/// Draws tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Sampler {
    params: SamplingParams,
    rng: Philox,
}

impl Sampler {
    /// A sampler with its own stream of random numbers.
    pub fn new(params: SamplingParams, seed: u64, stream: u64) -> Self {
        Sampler { params, rng: Philox::new(seed, 0x5361_6D70 << 32 | stream) }
    }

    /// The next token after `seen`, given its logits `[vocab]`.
    ///
    /// # Errors
    /// When a logit is not finite: the model or its adapter is damaged.
    pub fn sample(&mut self, logits: &[f32], seen: &[u32]) -> Result<u32> {
        self.next(logits, seen, None)
    }

    /// As [`Sampler::sample`], among the tokens `allowed` only: as if every other logit were −∞.
    ///
    /// # Errors
    /// When a logit is not finite, or nothing is allowed that the vocabulary has.
    pub fn sample_among(&mut self, logits: &[f32], seen: &[u32], allowed: &[u32]) -> Result<u32> {
        self.next(logits, seen, Some(allowed))
    }

    fn next(&mut self, logits: &[f32], seen: &[u32], allowed: Option<&[u32]>) -> Result<u32> {
        if let Some(bad) = logits.iter().position(|l| !l.is_finite()) {
            return Err(Error::Request(format!(
                "the model gave {} for token {bad}; its weights or its adapter hold non-finite values",
                logits[bad]
            )));
        }
        let mut logits = logits.to_vec();
        let penalty = self.params.repetition_penalty;
        if penalty != 1.0 {
            let mut penalised = vec![false; logits.len()];
            for &id in seen {
                if let Some(l) = logits.get_mut(id as usize)
                    && !std::mem::replace(&mut penalised[id as usize], true)
                {
                    *l = if *l > 0.0 { *l / penalty } else { *l * penalty };
                }
            }
        }
        let greedy = !self.params.do_sample || self.params.temperature <= 0.0;
        let mut order: Vec<u32> = match allowed {
            None if greedy => return Ok(argmax(&logits, 0..logits.len() as u32)),
            None => (0..logits.len() as u32).collect(),
            Some(allowed) => {
                let mut known: Vec<u32> =
                    allowed.iter().copied().filter(|id| (*id as usize) < logits.len()).collect();
                known.sort_unstable();
                known.dedup();
                known
            }
        };
        if order.is_empty() {
            return Err(Error::Request("no token of the vocabulary is allowed next".into()));
        }
        if greedy {
            return Ok(argmax(&logits, order.into_iter()));
        }
        // Likeliest first; ties by id, so that the order never depends on the sort.
        let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let k = self.params.top_k;
        if k > 0 && k < order.len() {
            order.select_nth_unstable_by(k - 1, by_logit);
            order.truncate(k);
        }
        order.sort_unstable_by(by_logit);
        let best = logits[order[0] as usize];
        let inverse_temperature = 1.0 / f64::from(self.params.temperature);
        let mut probabilities: Vec<f64> = order
            .iter()
            .map(|&i| (f64::from(logits[i as usize] - best) * inverse_temperature).exp())
            .collect();
        let total: f64 = probabilities.iter().sum();
        let mut kept = 0.0;
        let mut n = 0;
        // A token stays when what is likelier does not reach top_p yet; the first always does.
        while n < order.len() && (n == 0 || kept < f64::from(self.params.top_p) * total) {
            kept += probabilities[n];
            n += 1;
        }
        probabilities.truncate(n);
        let mut at = f64::from(self.rng.uniform_f32()) * kept;
        for (id, p) in order.iter().zip(&probabilities) {
            at -= p;
            if at < 0.0 {
                return Ok(*id);
            }
        }
        Ok(order[n - 1])
    }
}

/// The first of the ascending ids `among` with the largest value; 0 for none.
fn argmax(values: &[f32], mut among: impl Iterator<Item = u32>) -> u32 {
    let first = among.next().unwrap_or(0);
    among.fold(first, |best, id| if values[id as usize] > values[best as usize] { id } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.5];

    fn draws(params: SamplingParams) -> Vec<usize> {
        let mut sampler = Sampler::new(params, 1, 0);
        let mut counts = vec![0; 5];
        for _ in 0..4000 {
            counts[sampler.sample(&LOGITS, &[]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_and_penalty() {
        let mut greedy = Sampler::new(SamplingParams::GREEDY, 1, 0);
        assert_eq!(greedy.sample(&LOGITS, &[]).unwrap(), 1);
        let params = SamplingParams { repetition_penalty: 2.0, ..SamplingParams::GREEDY };
        // 3.0 / 2 = 1.5 < 2.0, however often token 1 was seen.
        assert_eq!(Sampler::new(params, 1, 0).sample(&LOGITS, &[1, 1, 1]).unwrap(), 2);
        assert_eq!(greedy.sample_among(&LOGITS, &[], &[4, 3, 0]).unwrap(), 0);
        assert_eq!(greedy.sample_among(&[1.0, 2.0, 2.0], &[], &[2, 1]).unwrap(), 1, "a tie: the smaller id");
        assert!(greedy.sample_among(&LOGITS, &[], &[5]).unwrap_err().to_string().contains("allowed"));
        assert!(greedy.sample(&[0.0, f32::NAN], &[]).unwrap_err().to_string().contains("token 1"));
    }

    #[test]
    fn sampling_follows_the_distribution_and_its_cuts() {
        let full = SamplingParams { do_sample: true, ..SamplingParams::GREEDY };
        let weights: Vec<f64> = LOGITS.iter().map(|l| f64::from(*l).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (count, w) in draws(full).iter().zip(&weights) {
            assert!((*count as f64 / 4000.0 - w / total).abs() < 0.03);
        }
        let k2 = draws(SamplingParams { top_k: 2, ..full });
        assert_eq!(k2[0] + k2[3] + k2[4], 0);
        assert!(k2[1] > 0 && k2[2] > 0);
        // The likeliest token alone holds 0.62: with top_p 0.6 nothing else is left.
        assert_eq!(draws(SamplingParams { top_p: 0.6, ..full })[1], 4000);
        let mut sampler = Sampler::new(full, 1, 0);
        let among: Vec<u32> =
            (0..200).map(|_| sampler.sample_among(&LOGITS, &[], &[0, 4]).unwrap()).collect();
        assert!(among.contains(&0) && among.contains(&4) && among.iter().all(|id| [0, 4].contains(id)));
        let cold = draws(SamplingParams { temperature: 0.05, ..full });
        assert_eq!(cold[1], 4000);
    }
}
