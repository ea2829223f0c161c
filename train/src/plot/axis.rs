//! Scales from data to pixels, and round numbers to mark them with.

/// A map from a range of data onto a range of pixels, linear in the data or in its logarithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    /// Of the logarithms, where they count.
    data: (f64, f64),
    pixels: (f64, f64),
    log: bool,
}

impl Scale {
    /// Maps `data` onto `pixels`; a range of one value is widened around it.
    pub fn new(data: (f64, f64), pixels: (f64, f64)) -> Self {
        let (low, high) = data;
        let widened = if high > low {
            data
        } else {
            let margin = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low - margin, low + margin)
        };
        Self { data: widened, pixels, log: false }
    }

    /// Maps the decimal logarithms of `data` onto `pixels`, at least half a decade of them. What is not above zero has
    /// no place ([`Self::at`] is not finite there); a range from zero or below starts six decades under its top.
    pub fn log(data: (f64, f64), pixels: (f64, f64)) -> Self {
        let high = if data.1 > 0.0 { data.1.log10() } else { 0.0 };
        let low = if data.0 > 0.0 { data.0.log10().max(high - 6.0) } else { high - 6.0 };
        let margin = (0.06 * (high - low)).max((0.5 - (high - low)) / 2.0);
        Self { data: (low - margin, high + margin), pixels, log: true }
    }

    /// The pixel of a value.
    pub fn at(&self, value: f64) -> f64 {
        let value = match self.log {
            true if value > 0.0 => value.log10(),
            true => return f64::NAN,
            false => value,
        };
        let share = (value - self.data.0) / (self.data.1 - self.data.0);
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// About `count` multiples of 1, 2 or 5 times a power of ten within the range; of a logarithmic one, powers of
    /// ten, with 2 and 5 between them where there is room.
    pub fn ticks(&self, count: usize) -> Vec<f64> {
        if self.log {
            return self.log_ticks(count);
        }
        let (low, high) = self.data;
        let step = round_step((high - low) / count.max(1) as f64);
        let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
        (first..=last).map(|index| index as f64 * step).collect()
    }

    fn log_ticks(&self, count: usize) -> Vec<f64> {
        let (low, high) = self.data;
        let (first, last) = (low.floor() as i32, high.ceil() as i32);
        let of = |digits: &[f64], every: usize| -> Vec<f64> {
            (first..=last)
                .step_by(every)
                .flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)))
                .filter(|tick| (low..=high).contains(&tick.log10()))
                .collect()
        };
        let most = count.max(2) * 2;
        [&[1.0, 2.0, 5.0][..], &[1.0, 3.0], &[1.0]]
            .into_iter()
            .map(|digits| of(digits, 1))
            .find(|ticks| ticks.len() <= most)
            .unwrap_or_else(|| of(&[1.0], ((high - low) / count.max(1) as f64).ceil().max(1.0) as usize))
    }

    /// As [`Self::ticks`], whole numbers only.
    pub fn whole_ticks(&self, count: usize) -> Vec<f64> {
        self.ticks(count).into_iter().filter(|tick| tick.fract().abs() < 1e-9).collect()
    }
}

/// The nearest of 1, 2, 5 × 10ⁿ that is not smaller.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let digit = [1.0, 2.0, 5.0].into_iter().find(|digit| digit * power >= step * (1.0 - 1e-9));
    digit.unwrap_or(10.0) * power
}

/// Lowest and highest finite value; `None` where there is none.
pub fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.filter(|value| value.is_finite()).fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((low.min(value), high.max(value))),
    })
}

/// A number as short as it can be told from its neighbours at this distance.
pub fn label(value: f64, step: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs();
    // Beside ticks too small for decimals, 0.001 is 1e-3.
    if !(1e-3..1e6).contains(&magnitude) || (step < 9e-4 && magnitude < 0.01) {
        let text = format!("{value:.2e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.'));
    }
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{value:.decimals$}")
}

/// A whole number with commas between thousands.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
        Scale::new((low, high), (0.0, 1.0)).ticks(count)
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(ticks(0.0, 100.0, 5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(1.3, 2.9, 4), [1.5, 2.0, 2.5]);
        assert_eq!(ticks(-1.0, 1.0, 4), [-1.0, -0.5, 0.0, 0.5, 1.0]);
        let small: Vec<String> = ticks(0.0, 1e-4, 2).iter().map(|tick| label(*tick, 5e-5)).collect();
        assert_eq!(small, ["0", "5e-5", "1e-4"]);
        assert_eq!(Scale::new((1.0, 3.0), (0.0, 1.0)).whole_ticks(10), [1.0, 2.0, 3.0]);
    }

    #[test]
    fn one_value_is_in_the_middle() {
        for value in [0.0, 2.0, -3.0, 1e-5] {
            let scale = Scale::new((value, value), (0.0, 10.0));
            assert!((scale.at(value) - 5.0).abs() < 1e-9, "{value}");
            assert!(!scale.ticks(4).is_empty(), "{value}");
        }
    }

    #[test]
    fn logarithms_have_round_ticks_too() {
        let ticks = |low, high| Scale::log((low, high), (0.0, 100.0)).ticks(3);
        assert_eq!(ticks(0.3, 8.0), [0.5, 1.0, 2.0, 5.0]);
        assert_eq!(ticks(1e-3, 10.0), [1e-3, 1e-2, 0.1, 1.0, 10.0]);
        assert!((1..=5).contains(&ticks(1e-6, 1e9).len()), "{:?}", ticks(1e-6, 1e9));
        for value in [0.7, 1.0, 2.3, 9.0] {
            assert!(!ticks(value, value).is_empty(), "{value}");
        }
        let scale = Scale::log((1.0, 100.0), (0.0, 100.0));
        assert!((scale.at(10.0) - 50.0).abs() < 1e-9);
        assert!(scale.at(0.0).is_nan() && scale.at(-1.0).is_nan());
        assert!(!Scale::log((0.0, 4.0), (0.0, 1.0)).ticks(3).is_empty());
    }

    #[test]
    fn labels_tell_neighbours_apart() {
        assert_eq!(label(1.5, 0.5), "1.5");
        assert_eq!(label(2.0, 0.05), "2.00");
        assert_eq!(label(120.0, 20.0), "120");
        assert_eq!(label(2.5e7, 5e6), "2.5e7");
        assert_eq!([label(1e-3, 5e-4), label(5e-4, 5e-4)], ["1e-3", "5e-4"]);
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(123), "123");
    }

    #[test]
    fn ranges_skip_what_is_not_finite() {
        assert_eq!(range([3.0, f64::NAN, 1.0, f64::INFINITY].into_iter()), Some((1.0, 3.0)));
        assert_eq!(range([f64::NAN].into_iter()), None);
    }
}
