//! Rotary frequencies and their scaling rules, as transformers' `modeling_rope_utils.py` computes
//! them: default, linear, dynamic NTK, llama3 and YaRN (arXiv 2309.00071).

use crate::Result;
use medley_kernels::ops::rope::RopeTable;
use serde_json::{Map, Value};
use std::f64::consts::PI;
use std::sync::{Arc, Mutex, PoisonError};

/// How the rotary frequencies are stretched beyond the trained context.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All frequencies divided by `factor`.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// The base grows once a sequence is longer than `original_max_position_embeddings`.
    Dynamic {
        /// The stretch.
        factor: f64,
        /// Tokens up to which nothing changes.
        original_max_position_embeddings: f64,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (LLaMA 3.1).
    Llama3 {
        /// The stretch.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// The context the model was trained with.
        original_max_position_embeddings: f64,
    },
    /// YaRN: a ramp over dimensions between stretched and kept, and hotter attention.
    Yarn {
        /// The stretch.
        factor: f64,
        /// The context the model was trained with.
        original_max_position_embeddings: f64,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is stretched fully.
        beta_slow: f64,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
}

impl RopeScaling {
    /// Reads a `rope_scaling` or `rope_parameters` object.
    ///
    /// # Errors
    /// A message naming the key that is missing or of the wrong type, or a rope type that is not known.
    pub fn parse(
        map: &Map<String, Value>,
        max_position_embeddings: usize,
    ) -> std::result::Result<Self, String> {
        let optional = |key: &str| match map.get(key).filter(|v| !v.is_null()) {
            None => Ok(None),
            Some(v) => v
                .as_f64()
                .filter(|x| x.is_finite() && *x > 0.0)
                .map(Some)
                .ok_or_else(|| format!("\"{key}\" is {v}; expected a positive number")),
        };
        let number =
            |key: &str| optional(key)?.ok_or_else(|| format!("\"{key}\" is missing; expected a number"));
        let kind = map.get("rope_type").or(map.get("type"));
        let original = optional("original_max_position_embeddings")?;
        let max = max_position_embeddings as f64;
        match kind.and_then(Value::as_str) {
            None if kind.is_none() => Ok(RopeScaling::Default),
            Some("default") => Ok(RopeScaling::Default),
            Some("linear") => Ok(RopeScaling::Linear { factor: number("factor")? }),
            Some("dynamic") => {
                Ok(RopeScaling::Dynamic { factor: number("factor")?, original_max_position_embeddings: max })
            }
            Some("llama3") => Ok(RopeScaling::Llama3 {
                factor: number("factor")?,
                low_freq_factor: number("low_freq_factor")?,
                high_freq_factor: number("high_freq_factor")?,
                original_max_position_embeddings: original.unwrap_or(max),
            }),
            Some("yarn") => {
                let original = original.unwrap_or(max);
                let factor = optional("factor")?.unwrap_or(max / original);
                let mscale = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
                let attention_factor =
                    match (optional("attention_factor")?, optional("mscale")?, optional("mscale_all_dim")?) {
                        (Some(given), _, _) => given,
                        (None, Some(m), Some(all)) => mscale(factor, m) / mscale(factor, all),
                        _ => mscale(factor, 1.0),
                    };
                Ok(RopeScaling::Yarn {
                    factor,
                    original_max_position_embeddings: original,
                    beta_fast: optional("beta_fast")?.unwrap_or(32.0),
                    beta_slow: optional("beta_slow")?.unwrap_or(1.0),
                    attention_factor,
                    truncate: map.get("truncate").and_then(Value::as_bool).unwrap_or(true),
                })
            }
            _ => Err(format!(
                "rope type {} is not known; expected default, linear, dynamic, llama3 or yarn",
                kind.unwrap_or(&Value::Null)
            )),
        }
    }
}

/// Inverse frequencies `[dim / 2]` and the factor on cos and sin, for sequences up to `seq_len`.
pub fn inverse_frequencies(theta: f64, dim: usize, scaling: &RopeScaling, seq_len: usize) -> (Vec<f32>, f32) {
    let plain = |theta: f64| -> Vec<f64> {
        (0..dim / 2).map(|i| 1.0 / theta.powf(2.0 * i as f64 / dim as f64)).collect()
    };
    let (frequencies, attention_factor) = match *scaling {
        RopeScaling::Default => (plain(theta), 1.0),
        RopeScaling::Linear { factor } => (plain(theta).into_iter().map(|f| f / factor).collect(), 1.0),
        RopeScaling::Dynamic { factor, original_max_position_embeddings: max } => {
            let length = (seq_len as f64).max(max);
            let d = dim as f64;
            let stretched = theta * ((factor * length / max) - (factor - 1.0)).powf(d / (d - 2.0));
            (plain(stretched), 1.0)
        }
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            let original = original_max_position_embeddings;
            let scale = |f: f64| {
                let wavelength = 2.0 * PI / f;
                if wavelength > original / low_freq_factor {
                    f / factor
                } else if wavelength < original / high_freq_factor {
                    f
                } else {
                    let smooth =
                        (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    (1.0 - smooth) * f / factor + smooth * f
                }
            };
            (plain(theta).into_iter().map(scale).collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            beta_fast,
            beta_slow,
            attention_factor,
            truncate,
        } => {
            // The dimension that turns `rotations` times over the trained context.
            let dimension = |rotations: f64| {
                dim as f64 * (original_max_position_embeddings / (rotations * 2.0 * PI)).ln()
                    / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            let mix = |(i, f): (usize, f64)| {
                let ramp = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                f / factor * ramp + f * (1.0 - ramp)
            };
            (plain(theta).into_iter().enumerate().map(mix).collect(), attention_factor)
        }
    };
    (frequencies.into_iter().map(|f: f64| f as f32).collect(), attention_factor as f32)
}

/// The table made last: what it covers, and whether it serves that length only.
#[derive(Debug)]
struct Kept {
    covers: usize,
    exact: bool,
    table: Arc<RopeTable>,
}

/// Makes rotary tables on demand and keeps the longest.
#[derive(Debug)]
pub struct Rope {
    theta: f64,
    head_dim: usize,
    scaling: RopeScaling,
    table: Mutex<Option<Kept>>,
}

impl Rope {
    /// Tables for heads of width `head_dim`.
    pub fn new(theta: f64, head_dim: usize, scaling: RopeScaling) -> Self {
        Rope { theta, head_dim, scaling, table: Mutex::new(None) }
    }

    /// A table that covers positions `0..length`.
    ///
    /// # Errors
    /// Those of the table.
    pub fn table(&self, length: usize) -> Result<Arc<RopeTable>> {
        let mut kept = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        // Dynamic scaling depends on the length once past the trained context.
        let exact = match self.scaling {
            RopeScaling::Dynamic { original_max_position_embeddings: max, .. } => length as f64 > max,
            _ => false,
        };
        if let Some(kept) = &*kept
            && kept.exact == exact
            && if exact { kept.covers == length } else { kept.covers >= length }
        {
            return Ok(kept.table.clone());
        }
        let covers = match self.scaling {
            RopeScaling::Dynamic { original_max_position_embeddings: max, .. } if !exact => max as usize,
            _ if exact => length,
            _ => length.next_power_of_two().max(256),
        };
        let (frequencies, factor) = inverse_frequencies(self.theta, self.head_dim, &self.scaling, covers);
        let table = Arc::new(RopeTable::new(&frequencies, factor, covers, false)?);
        *kept = Some(Kept { covers, exact, table: table.clone() });
        Ok(table)
    }
}
