//! Strategies: the share of each source in an epoch, and how long an epoch is.

use super::error::MixError;
use crate::config::SamplingUnit;

/// How examples are drawn from sources of nᵢ examples, of mᵢ labelled tokens each on average. A source is
/// a task, or a file where shares are given by file.
///
/// N is the number of draws in an epoch, pᵢ the share of source i in them; an epoch's quotas are pᵢ · N
/// rounded by largest remainders.
#[derive(Debug, Clone, PartialEq)]
pub enum Strategy {
    /// Every example once an epoch, all shuffled together: N = Σ nᵢ, pᵢ = nᵢ / N. LLaMA-Factory's `concat`.
    Proportional,
    /// As proportional, but the tasks at an even pace, so that every step holds its share of each.
    Stratified,
    /// Equal shares: N = K · max nᵢ, pᵢ = 1 / K. The largest source is seen once.
    Balanced,
    /// pᵢ ∝ nᵢ^(1/T), N = Σ nᵢ, each source at least once. T = 1 is proportional, T → ∞ balanced
    /// (mBERT's and XLM-R's exponent α = 1/T, arXiv 1911.02116, section 3.1).
    Temperature(f64),
    /// Examples-proportional mixing with a cap (T5, arXiv 1910.10683, section 3.5.2; FLAN, arXiv
    /// 2109.01652): pᵢ ∝ min(nᵢ, cap), N = Σ min(nᵢ, cap). A source above the cap goes on where it stopped
    /// in the next epoch.
    Capped(u64),
    /// Given shares.
    Shares {
        /// Not negative, not all 0; they need not sum to 1. A source with 0 is left out.
        shares: Vec<f64>,
        /// How long an epoch is.
        epoch: EpochRule,
    },
    /// Shares that change over the run; N = Σ nᵢ.
    Schedule(Vec<(f64, Strategy)>),
}

/// How many draws an epoch of given shares has; LLaMA-Factory's `mix_strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochRule {
    /// As many as there are examples in the sources drawn from: N = Σ nᵢ.
    AsMany,
    /// `interleave_under`: no source comes to a second pass; N = ⌊minᵢ nᵢ / pᵢ⌋.
    FirstExhausted,
    /// `interleave_over`: every source is seen whole; N = ⌈maxᵢ nᵢ / pᵢ⌉.
    AllExhausted,
    /// `interleave_once`: every example exactly once, at these shares among the sources that still have
    /// some; N = Σ nᵢ.
    WithoutReplacement,
}

/// The size of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub examples: u64,
    pub labelled: u64,
}

impl Strategy {
    /// The shares pᵢ of examples, summing to 1; with `unit: tokens` those that give labelled tokens the
    /// strategy's shares: pᵢ ∝ sᵢ / mᵢ.
    pub(super) fn shares(&self, sizes: &[Size], unit: SamplingUnit) -> Result<Vec<f64>, MixError> {
        let tokens = unit == SamplingUnit::Tokens;
        let amount = |s: &Size| if tokens { s.labelled } else { s.examples } as f64;
        let wanted: Vec<f64> = match self {
            Strategy::Proportional | Strategy::Stratified | Strategy::Schedule(_) => {
                sizes.iter().map(amount).collect()
            }
            Strategy::Balanced => vec![1.0; sizes.len()],
            Strategy::Temperature(t) => {
                if !(t.is_finite() && *t > 0.0) {
                    return Err(MixError::Temperature(*t));
                }
                // Relative to the largest, so that no power overflows for a small T.
                let largest = sizes.iter().map(amount).fold(1.0, f64::max);
                sizes.iter().map(|s| (amount(s) / largest).powf(1.0 / t)).collect()
            }
            Strategy::Capped(0) => return Err(MixError::Cap),
            Strategy::Capped(cap) => sizes.iter().map(|s| amount(s).min(*cap as f64)).collect(),
            Strategy::Shares { shares, .. } => shares.clone(),
        };
        let wanted = wanted.iter().zip(sizes);
        let shares: Vec<f64> = wanted
            .map(|(w, s)| {
                let mean = s.labelled as f64 / s.examples as f64;
                if tokens && *w > 0.0 { w / mean } else { *w }
            })
            .collect();
        let sum: f64 = shares.iter().sum();
        Ok(shares.iter().map(|s| s / sum).collect())
    }

    /// Draws of each source in an epoch.
    pub(super) fn quotas(&self, sizes: &[Size], unit: SamplingUnit) -> Result<Vec<u64>, MixError> {
        let shares = self.shares(sizes, unit)?;
        let examples = || sizes.iter().map(|s| s.examples);
        let needed = || {
            let each = shares.iter().zip(sizes).filter(|(p, _)| **p > 0.0);
            each.map(|(p, s)| s.examples as f64 / p)
        };
        let drawn = || shares.iter().zip(examples()).filter(|(p, _)| **p > 0.0).map(|(_, n)| n).sum::<u64>();
        let largest = |shares: &[f64], slots: f64| largest_remainders(shares, slots.max(1.0) as u64);
        // Rounding must not make a whole number of slots one more or less.
        let up = |slots: f64| super::spread::whole(slots).ceil();
        Ok(match self {
            Strategy::Proportional | Strategy::Stratified => examples().collect(),
            Strategy::Schedule(_) => examples().collect(),
            Strategy::Balanced if unit == SamplingUnit::Examples => {
                vec![examples().max().unwrap_or(0); sizes.len()]
            }
            Strategy::Balanced => largest(&shares, up(needed().fold(0.0, f64::max))),
            Strategy::Temperature(_) => {
                let quotas = largest_remainders(&shares, drawn());
                quotas.into_iter().map(|q| q.max(1)).collect()
            }
            Strategy::Capped(cap) if unit == SamplingUnit::Examples => {
                examples().map(|n| n.min(*cap)).collect()
            }
            Strategy::Capped(cap) => {
                let each = sizes.iter().map(|s| {
                    let mean = s.labelled as f64 / s.examples as f64;
                    (s.labelled.min(*cap) as f64 / mean).round().max(1.0) as u64
                });
                each.collect()
            }
            Strategy::Shares { epoch, .. } => match epoch {
                EpochRule::AsMany => largest_remainders(&shares, drawn()),
                EpochRule::FirstExhausted => {
                    let slots = super::spread::whole(needed().fold(f64::INFINITY, f64::min)).floor();
                    largest(&shares, slots)
                }
                EpochRule::AllExhausted => largest(&shares, up(needed().fold(0.0, f64::max))),
                EpochRule::WithoutReplacement => {
                    let each = shares.iter().zip(examples());
                    each.map(|(p, n)| if *p > 0.0 { n } else { 0 }).collect()
                }
            },
        })
    }
}

/// `slots` in the ratio of `shares` (which sum to 1), each rounded down or up: up where most was cut off.
pub(super) fn largest_remainders(shares: &[f64], slots: u64) -> Vec<u64> {
    let exact: Vec<f64> = shares.iter().map(|p| super::spread::whole(p * slots as f64)).collect();
    let mut quotas: Vec<u64> = exact.iter().map(|x| x.floor() as u64).collect();
    let mut order: Vec<usize> = (0..shares.len()).filter(|&i| shares[i] > 0.0).collect();
    order.sort_by(|&a, &b| exact[b].fract().total_cmp(&exact[a].fract()).then(a.cmp(&b)));
    let left = slots.saturating_sub(quotas.iter().sum());
    order.iter().cycle().take(left as usize).for_each(|&i| quotas[i] += 1);
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(examples: &[u64]) -> Vec<Size> {
        examples.iter().map(|&n| Size { examples: n, labelled: 10 * n }).collect()
    }

    fn quotas(strategy: Strategy, examples: &[u64]) -> Vec<u64> {
        strategy.quotas(&sizes(examples), SamplingUnit::Examples).unwrap()
    }

    fn given(shares: &[f64], epoch: EpochRule) -> Strategy {
        Strategy::Shares { shares: shares.to_vec(), epoch }
    }

    #[test]
    fn temperature_shares_follow_the_formula() {
        // 1600, 400, 100 examples at T = 2: 40 : 20 : 10.
        let at = |t, n: &[u64]| quotas(Strategy::Temperature(t), n);
        assert_eq!(at(2.0, &[1600, 400, 100]), [1200, 600, 300]);
        assert_eq!(at(1.0, &[1600, 400, 100]), [1600, 400, 100]);
        assert_eq!(at(1e12, &[1600, 400, 100]), [700, 700, 700]);
        assert_eq!(at(0.05, &[1000, 1]), [1001, 1]);
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = Strategy::Temperature(bad).quotas(&sizes(&[1]), SamplingUnit::Examples);
            assert!(matches!(error, Err(MixError::Temperature(_))));
        }
    }

    #[test]
    fn a_cap_limits_what_a_large_task_counts() {
        assert_eq!(quotas(Strategy::Capped(200), &[1600, 400, 100]), [200, 200, 100]);
        assert_eq!(quotas(Strategy::Capped(9999), &[1600, 400, 100]), [1600, 400, 100]);
        let none = Strategy::Capped(0).quotas(&sizes(&[1]), SamplingUnit::Examples);
        assert_eq!(none, Err(MixError::Cap));
    }

    #[test]
    fn epochs_of_given_shares_end_as_documented() {
        let n = [600, 300, 100];
        let at = |epoch| quotas(given(&[2.0, 1.0, 1.0], epoch), &n);
        assert_eq!(at(EpochRule::AsMany), [500, 250, 250]);
        // 100 / 0.25 = 400 draws until the smallest ends, 600 / 0.5 = 1200 until the last has.
        assert_eq!(at(EpochRule::FirstExhausted), [200, 100, 100]);
        assert_eq!(at(EpochRule::AllExhausted), [600, 300, 300]);
        assert_eq!(at(EpochRule::WithoutReplacement), n);
        assert_eq!(quotas(given(&[1.0, 1.0, 0.0], EpochRule::AllExhausted), &n), [600, 600, 0]);
        assert_eq!(quotas(given(&[1.0, 1.0, 0.0], EpochRule::WithoutReplacement), &n), [600, 300, 0]);
    }

    #[test]
    fn tokens_are_shared_by_drawing_short_replies_more_often() {
        // 2 and 50 labelled tokens an example.
        let sizes = [Size { examples: 1000, labelled: 2000 }, Size { examples: 100, labelled: 5000 }];
        let tokens = |strategy: Strategy| {
            let q = strategy.quotas(&sizes, SamplingUnit::Tokens).unwrap();
            (q[0] * 2) as f64 / (q[0] * 2 + q[1] * 50) as f64
        };
        assert!((tokens(Strategy::Balanced) - 0.5).abs() < 0.01);
        assert!((tokens(given(&[1.0, 3.0], EpochRule::AllExhausted)) - 0.25).abs() < 0.01);
        let root = 2000f64.sqrt() / (2000f64.sqrt() + 5000f64.sqrt());
        assert!((tokens(Strategy::Temperature(2.0)) - root).abs() < 0.01);
        assert!((tokens(Strategy::Capped(2000)) - 0.5).abs() < 0.01);
        assert!((tokens(Strategy::Proportional) - 2.0 / 7.0).abs() < 1e-9, "as it is");
        let balanced = Strategy::Balanced.quotas(&sizes, SamplingUnit::Tokens).unwrap();
        assert_eq!(balanced, [2500, 100], "both seen whole: 100 examples of 50 tokens ask for 2500 of 2");
    }
}
