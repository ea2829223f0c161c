//! A curve in a few characters.

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// More points than this are merged by twos: a line of a terminal has no room for them.
const MOST_POINTS: usize = 512;

/// A loss as it goes: smoothed, and short however long the run.
#[derive(Debug, Clone, Default)]
pub struct Trend {
    /// Of the exponential moving average, and of the weights of its terms: their quotient has no bias to the start.
    sums: (f64, f64),
    points: Vec<f64>,
    /// Measurements in a point, and those that the next one has so far.
    stride: usize,
    pending: usize,
}

/// What a step leaves of the average before it.
const DECAY: f64 = 0.9;

impl Trend {
    /// Takes a measurement; what is not finite is passed over.
    pub fn add(&mut self, value: f64) {
        if !value.is_finite() {
            return;
        }
        self.sums = (DECAY * self.sums.0 + value, DECAY * self.sums.1 + 1.0);
        self.stride = self.stride.max(1);
        self.pending += 1;
        if self.pending < self.stride {
            return;
        }
        self.pending = 0;
        self.points.extend(self.now());
        if self.points.len() > MOST_POINTS {
            self.points = self.points.chunks(2).map(mean).collect();
            self.stride *= 2;
        }
    }

    /// The average now.
    pub fn now(&self) -> Option<f64> {
        (self.sums.1 > 0.0).then(|| self.sums.0 / self.sums.1)
    }

    /// The whole course in at most `width` characters, the lowest value at the bottom.
    pub fn line(&self, width: usize) -> String {
        let group = self.points.len().div_ceil(width.max(1)).max(1);
        let means: Vec<f64> = self.points.chunks(group).map(mean).collect();
        let low = means.iter().copied().fold(f64::INFINITY, f64::min);
        let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let level = |value: f64| {
            // One value, or several that are equal, are in the middle.
            let share = if high > low { (value - low) / (high - low) } else { 0.45 };
            LEVELS[((share * 7.0).round() as usize).min(7)]
        };
        means.into_iter().map(level).collect()
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trend(values: impl IntoIterator<Item = f64>) -> Trend {
        let mut trend = Trend::default();
        values.into_iter().for_each(|value| trend.add(value));
        trend
    }

    #[test]
    fn a_falling_loss_falls() {
        let falling = trend((0..80).map(|i| 4.0 - f64::from(i) * 0.04)).line(8);
        assert_eq!(falling.chars().count(), 8);
        assert!(falling.starts_with('█') && falling.ends_with('▁'), "{falling}");
        let levels: Vec<char> = falling.chars().collect();
        assert!(levels.windows(2).all(|pair| pair[0] >= pair[1]), "{falling}");
        assert_eq!(trend([2.0, 2.0]).line(8), "▄▄");
        assert_eq!(trend([]).line(8), "");
        assert_eq!(trend([f64::NAN]).now(), None);
    }

    #[test]
    fn the_average_has_no_bias_and_stays_short() {
        assert!((trend([3.0; 3]).now().unwrap() - 3.0).abs() < 1e-12);
        let long = trend((0..100_000).map(|i| f64::from(i % 7)));
        assert!(long.points.len() <= MOST_POINTS);
        assert!((long.now().unwrap() - 3.0).abs() < 0.5);
        assert!(long.line(16).chars().count() <= 16);
    }
}
