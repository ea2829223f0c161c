//! Shares that change over the run: `sampling_schedule`.

use super::spread::{Flow, Window, whole};

/// Shares at points of the run, straight lines between them, level before the first and after the last.
///
/// Over the run's S slots (a slot is an example drawn), source i is drawn
/// Fᵢ(t) = ∫₀ᵗ pᵢ(x / S) dx times in the first t, rounded to less than one either way.
#[derive(Debug, Clone)]
pub(super) struct Curriculum {
    /// Slots where the points lie, ascending, the first at 0.
    at: Vec<f64>,
    /// \[point]\[source]: shares there, summing to 1.
    shares: Vec<Vec<f64>>,
    /// \[source]\[point]: Fᵢ there.
    cumulative: Vec<Vec<f64>>,
}

impl Curriculum {
    /// `points`: progress in \[0, 1\], ascending, and the shares there, which sum to 1. `slots`: S.
    pub fn new(points: &[(f64, Vec<f64>)], slots: u64) -> Self {
        let (mut at, mut shares) = (Vec::new(), Vec::new());
        if let Some((first, level)) = points.first()
            && *first > 0.0
        {
            at.push(0.0);
            shares.push(level.clone());
        }
        for (progress, level) in points {
            at.push(progress * slots as f64);
            shares.push(level.clone());
        }
        let sources = shares.first().map_or(0, Vec::len);
        let cumulative = (0..sources)
            .map(|source| {
                let mut sum = 0.0;
                let mut all = vec![0.0];
                for k in 1..at.len() {
                    sum += 0.5 * (shares[k - 1][source] + shares[k][source]) * (at[k] - at[k - 1]);
                    all.push(sum);
                }
                all
            })
            .collect();
        Curriculum { at, shares, cumulative }
    }

    /// pᵢ at slot `t`.
    #[cfg(test)]
    pub fn share(&self, source: usize, t: f64) -> f64 {
        let k = self.at.partition_point(|&x| x <= t).saturating_sub(1);
        match self.shares.get(k + 1) {
            Some(next) => {
                let along = (t - self.at[k]) / (self.at[k + 1] - self.at[k]);
                self.shares[k][source] * (1.0 - along) + next[source] * along
            }
            None => self.shares[k][source],
        }
    }

    /// Fᵢ(t).
    pub fn drawn(&self, source: usize, t: f64) -> f64 {
        let k = self.at.partition_point(|&x| x <= t).saturating_sub(1);
        let (start, slope) = self.segment(source, k);
        let x = t - self.at[k];
        self.cumulative[source][k] + x * (start + 0.5 * slope * x)
    }

    /// The share at point `k` and its change a slot up to the next point.
    fn segment(&self, source: usize, k: usize) -> (f64, f64) {
        let start = self.shares[k][source];
        match self.shares.get(k + 1) {
            Some(next) if self.at[k + 1] > self.at[k] => {
                (start, (next[source] - start) / (self.at[k + 1] - self.at[k]))
            }
            _ => (start, 0.0),
        }
    }

    /// Where, from point `k` on, `more` draws than there are reached: the root of ½·slope·x² + start·x = more.
    fn reach(&self, source: usize, k: usize, more: f64) -> Option<f64> {
        if more <= 0.0 {
            return Some(self.at[k]);
        }
        let (start, slope) = self.segment(source, k);
        let root = (start * start + 2.0 * slope * more).max(0.0).sqrt();
        let x = 2.0 * more / (start + root);
        // The root may pass the segment's end by rounding only.
        let end = self.at.get(k + 1).copied().unwrap_or(f64::INFINITY);
        x.is_finite().then(|| (self.at[k] + x).min(end))
    }
}

impl Flow for Curriculum {
    fn window(&self, source: usize, unit: u64) -> Option<Window> {
        let cumulative = &self.cumulative[source];
        // The last point with Fᵢ ≤ unit, so that a stretch without a share is passed over.
        let k = cumulative.partition_point(|&f| f <= unit as f64 + 1e-9).max(1) - 1;
        let release = self.reach(source, k, unit as f64 - cumulative[k]).filter(|_| {
            // After the last point the share stays; at 0 there are no further draws.
            k + 1 < cumulative.len() || self.shares[k][source] > 0.0
        })?;
        let wanted = (unit + 1) as f64;
        let k = cumulative.partition_point(|&f| f < wanted - 1e-9).max(1) - 1;
        let deadline = self.reach(source, k, wanted - cumulative[k]);
        Some(Window {
            release: whole(release).floor() as u64,
            deadline: deadline.map_or(u64::MAX, |slot| whole(slot).ceil() as u64),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integral_is_that_of_the_straight_lines() {
        let c = Curriculum::new(&[(0.25, vec![1.0, 0.0]), (0.75, vec![0.0, 1.0])], 400);
        assert_eq!((c.share(0, 50.0), c.share(0, 200.0), c.share(1, 250.0)), (1.0, 0.5, 0.75));
        assert_eq!((c.drawn(0, 100.0), c.drawn(0, 300.0), c.drawn(0, 400.0)), (100.0, 200.0, 200.0));
        // ∫ of a line from 0 to 1 over 200 slots, at its half: 100 · 0.25.
        assert!((c.drawn(1, 200.0) - 25.0).abs() < 1e-9);
        let first = c.window(1, 0).unwrap();
        // F₁ = x² / 400 after slot 100: 1 at x = 20.
        assert_eq!((first.release, first.deadline), (100, 120));
        assert_eq!(c.window(0, 199).unwrap().deadline, 300);
        assert_eq!(c.window(0, 200), None, "its share has ended");
        assert_eq!(c.window(1, 200).unwrap().release, 400, "beyond the run its share stays");
    }
}
