//! Dynamic loss scaling for half precision, as `torch.amp.GradScaler` does it (Micikevicius et al.,
//! "Mixed Precision Training", arXiv 1710.03740, section 3.2).
//!
//! The loss is multiplied by a large scale before the backward pass, so that small gradients do not vanish
//! below f16's 6·10⁻⁸, and the optimizer divides by it again. A step whose gradients overflowed is
//! skipped and the scale halved; after 2,000 good steps in a row it is doubled.

use medley_tensor::{Error, Result};
use serde::{Deserialize, Serialize};

/// The smallest scale: gradients that overflow even here are not finite because of the scale.
const SMALLEST: f32 = 1.0 / 65_536.0;

/// The rule by which the scale moves; the default is `torch.amp.GradScaler`'s.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalerConfig {
    /// The first scale.
    pub init_scale: f32,
    /// Multiplies the scale after `growth_interval` good steps in a row.
    pub growth_factor: f32,
    /// Multiplies the scale after an overflow.
    pub backoff_factor: f32,
    /// Good steps in a row between two growths.
    pub growth_interval: u32,
}

impl Default for ScalerConfig {
    fn default() -> Self {
        ScalerConfig { init_scale: 65_536.0, growth_factor: 2.0, backoff_factor: 0.5, growth_interval: 2000 }
    }
}

/// What a checkpoint keeps of a [`GradScaler`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScalerState {
    /// The present scale.
    pub scale: f32,
    /// Good steps since the last change of the scale.
    pub growth_tracker: u32,
    /// Steps skipped so far.
    pub skipped: u64,
}

/// The loss scale of a run in half precision.
///
/// ```text
/// loss.backward_scaled(scaler.scale())           gradients · scale; the op that forms the first gradient
///                                                is told so: LinearCrossEntropy::expected_upstream
/// optimizer.step(… loss_scale: scaler.scale())   unscales, or skips when a gradient is not finite
/// scaler.update(report.skipped)                  halves, or counts towards doubling
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct GradScaler {
    config: ScalerConfig,
    state: ScalerState,
}

impl GradScaler {
    /// A scaler at its first scale.
    ///
    /// # Errors
    /// When the factors do not grow and back off, or the first scale is not a positive number.
    pub fn new(config: ScalerConfig) -> Result<Self> {
        let refuse = |message: String| Err(Error::value("grad_scaler", message));
        let state = ScalerState { scale: config.init_scale, growth_tracker: 0, skipped: 0 };
        if config.growth_factor.is_nan() || config.growth_factor <= 1.0 {
            return refuse(format!("growth_factor is {}, it must be above 1", config.growth_factor));
        }
        if !(config.backoff_factor > 0.0 && config.backoff_factor < 1.0) {
            return refuse(format!(
                "backoff_factor is {}, it must be between 0 and 1",
                config.backoff_factor
            ));
        }
        if config.growth_interval == 0 {
            return refuse("growth_interval is 0, it must be at least 1".into());
        }
        let mut scaler = GradScaler { config, state };
        scaler.restore(state)?;
        Ok(scaler)
    }

    /// What the next loss is to be multiplied with.
    pub fn scale(&self) -> f32 {
        self.state.scale
    }

    /// Steps skipped so far.
    pub fn skipped(&self) -> u64 {
        self.state.skipped
    }

    /// Takes note of a step: `found_inf` says that a gradient was not finite and the step was skipped.
    ///
    /// # Errors
    /// When the scale has backed off to 2⁻¹⁶ and gradients still are not finite: then it is not the scale.
    pub fn update(&mut self, found_inf: bool) -> Result<()> {
        let state = &mut self.state;
        if found_inf {
            state.skipped += 1;
            state.growth_tracker = 0;
            let smaller = state.scale * self.config.backoff_factor;
            if smaller < SMALLEST {
                return Err(Error::value(
                    "grad_scaler",
                    format!(
                        "gradients are not finite even with a loss scale of {}: the model diverges. A lower \
                         learning_rate or a warm-up usually helps; bf16 has f32's range",
                        state.scale
                    ),
                ));
            }
            state.scale = smaller;
            return Ok(());
        }
        state.growth_tracker += 1;
        if state.growth_tracker == self.config.growth_interval {
            state.growth_tracker = 0;
            // As torch: a scale that would overflow stays.
            let larger = state.scale * self.config.growth_factor;
            if larger.is_finite() {
                state.scale = larger;
            }
        }
        Ok(())
    }

    /// What a checkpoint keeps.
    pub fn state(&self) -> ScalerState {
        self.state
    }

    /// Goes on from a checkpoint.
    ///
    /// # Errors
    /// When the scale is not a positive number, or the tracker is past the interval.
    pub fn restore(&mut self, state: ScalerState) -> Result<()> {
        if !state.scale.is_finite() || state.scale <= 0.0 {
            return Err(Error::value(
                "grad_scaler",
                format!("a scale of {} is no positive number", state.scale),
            ));
        }
        if state.growth_tracker >= self.config.growth_interval {
            return Err(Error::value(
                "grad_scaler",
                format!(
                    "growth_tracker is {}, but the scale grows after {} steps; the checkpoint was written with \
                     another growth_interval",
                    state.growth_tracker, self.config.growth_interval
                ),
            ));
        }
        self.state = state;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler() -> GradScaler {
        GradScaler::new(ScalerConfig { growth_interval: 3, ..ScalerConfig::default() }).unwrap()
    }

    #[test]
    fn defaults_are_torchs() {
        let s = GradScaler::new(ScalerConfig::default()).unwrap();
        assert_eq!(s.scale(), 65_536.0);
        let c = ScalerConfig::default();
        assert_eq!((c.growth_factor, c.backoff_factor, c.growth_interval), (2.0, 0.5, 2000));
    }

    /// The sequence that torch.amp.GradScaler(growth_interval=3) goes through.
    #[test]
    fn grows_after_good_steps_in_a_row_and_backs_off() {
        let mut s = scaler();
        let mut scales = vec![];
        for found in [false, false, true, false, false, false, false, true, true, false, false, false] {
            s.update(found).unwrap();
            scales.push(s.scale() / 65_536.0);
        }
        assert_eq!(scales, [1.0, 1.0, 0.5, 0.5, 0.5, 1.0, 1.0, 0.5, 0.25, 0.25, 0.25, 0.5]);
        assert_eq!(s.skipped(), 3);
    }

    #[test]
    fn a_restored_scaler_goes_on_where_it_was() {
        let mut s = scaler();
        for found in [true, false, false] {
            s.update(found).unwrap();
        }
        let text = serde_json::to_string(&s.state()).unwrap();
        let mut other = scaler();
        other.restore(serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(s, other);
        other.update(false).unwrap();
        assert_eq!((other.scale(), other.skipped()), (65_536.0, 1));
        assert!(
            serde_json::from_str::<ScalerState>(r#"{"scale":1.0,"growth_tracker":0,"skipped":0,"x":1}"#)
                .is_err()
        );
    }

    #[test]
    fn endless_overflow_is_an_error_and_growth_stops_at_the_largest_number() {
        let mut s = scaler();
        let refused = (0..100).find_map(|_| s.update(true).err()).unwrap().to_string();
        assert!(refused.contains("diverges"), "{refused}");
        assert!(s.scale() > 0.0);
        s.restore(ScalerState { scale: f32::MAX, growth_tracker: 2, skipped: 0 }).unwrap();
        s.update(false).unwrap();
        assert_eq!(s.scale(), f32::MAX);
    }

    #[test]
    fn senseless_settings_are_refused() {
        let with = |f: &dyn Fn(&mut ScalerConfig)| {
            let mut c = ScalerConfig::default();
            f(&mut c);
            GradScaler::new(c).unwrap_err().to_string()
        };
        assert!(with(&|c| c.growth_factor = 1.0).contains("growth_factor is 1"));
        assert!(with(&|c| c.backoff_factor = 2.0).contains("backoff_factor is 2"));
        assert!(with(&|c| c.growth_interval = 0).contains("growth_interval"));
        assert!(with(&|c| c.init_scale = 0.0).contains("scale of 0"));
        let state = ScalerState { scale: 1.0, growth_tracker: 3, skipped: 0 };
        assert!(scaler().restore(state).unwrap_err().to_string().contains("growth_interval"));
    }
}
