//! Rotary position embedding (Su et al., "RoFormer", arXiv 2104.09864): pairs of a head's features are
//! rotated by `position · inv_freq`.
//!
//! ```text
//! half split (Hugging Face rotate_half)   pair i = (x[i], x[i + rot/2])
//! interleaved (GPT-J, ChatGLM)            pair i = (x[2i], x[2i + 1])
//! y₁ = x₁·cos − x₂·sin      y₂ = x₂·cos + x₁·sin      features rot_dim.. pass through
//! ```
//!
//! Floor: memory-bound, 8 bytes an element each way; the tables stay in cache.

pub(crate) mod cpu;
pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, Error, Op, Result, Tensor, alloc};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Cosines and sines of all positions, shared by every layer.
#[derive(Debug)]
pub struct RopeTable {
    /// `[max_position, rot_dim / 2]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
    half: usize,
    max_position: usize,
    interleaved: bool,
    on_devices: cuda::OnDevices,
}

impl RopeTable {
    /// The table for positions below `max_position`, with `rot_dim = 2 · inv_freq.len()`.
    ///
    /// `attention_factor` scales cosines and sines (YaRN's mscale; 1 elsewhere). `interleaved` chooses
    /// the pairs, see the [module](self). As Hugging Face's `LlamaRotaryEmbedding` does, the angle is
    /// the f32 product of position and frequency; cosine and sine are that angle's, rounded to f32.
    ///
    /// # Errors
    /// When a frequency or the factor is not finite, or a position is not exact in f32 (from 2²⁴).
    pub fn new(
        inv_freq: &[f32],
        attention_factor: f32,
        max_position: usize,
        interleaved: bool,
    ) -> Result<Self> {
        if let Some(bad) = inv_freq.iter().chain([&attention_factor]).find(|f| !f.is_finite()) {
            let message = format!("inv_freq and attention_factor must be finite, got {bad}");
            return Err(Error::value(Rope::NAME, message));
        }
        if max_position > 1 << 24 {
            let message = format!("max_position {max_position} is above 16777216, past which f32 skips positions");
            return Err(Error::value(Rope::NAME, message));
        }
        let angles = || (0..max_position).flat_map(|p| inv_freq.iter().map(move |f| f64::from(p as f32 * f)));
        Ok(RopeTable {
            cos: angles().map(|a| a.cos() as f32 * attention_factor).collect(),
            sin: angles().map(|a| a.sin() as f32 * attention_factor).collect(),
            half: inv_freq.len(),
            max_position,
            interleaved,
            on_devices: cuda::OnDevices::default(),
        })
    }

    /// How many features of a head are rotated.
    pub fn rot_dim(&self) -> usize {
        2 * self.half
    }

    /// The number of positions the table holds.
    pub fn max_position(&self) -> usize {
        self.max_position
    }

    /// Cosines and sines of a position, `[rot_dim / 2]` each.
    fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let from = position as usize * self.half;
        (&self.cos[from..from + self.half], &self.sin[from..from + self.half])
    }
}

/// `x [T, H, D] f32 (on a GPU also bf16, f16) → [T, H, D]`, token `t` rotated to position `positions[t]`.
#[derive(Debug, Clone)]
pub struct Rope {
    /// Angles, with `rot_dim ≤ D`.
    pub table: Arc<RopeTable>,
    /// One position a token, all below the table's `max_position`.
    pub positions: Arc<[u32]>,
}

impl Rope {
    fn rotate(&self, x: &Tensor, inverse: bool) -> Result<Tensor> {
        let &[t, _, d] = x.shape() else {
            return Err(Error::shape(Self::NAME, "x [T, H, D]", x.shape()));
        };
        if t != self.positions.len() {
            let expected = format!("{} tokens, one a position", self.positions.len());
            return Err(Error::shape(Self::NAME, expected, x.shape()));
        }
        if d < self.table.rot_dim() {
            let expected = format!("a head dimension of at least rot_dim {}", self.table.rot_dim());
            return Err(Error::shape(Self::NAME, expected, x.shape()));
        }
        let max = self.table.max_position;
        if let Some(at) = self.positions.iter().position(|&p| p as usize >= max) {
            let message = format!(
                "position {} of token {at} is beyond the table's {max} positions; build the table for longer sequences or shorten the input",
                self.positions[at]
            );
            return Err(Error::value(Self::NAME, message));
        }
        // Heads cut out of a fused projection are read where they lie.
        let x = if d <= 1 || x.strides()[2] == 1 { x.clone() } else { x.contiguous()? };
        if let Some(device) = x.cuda_device() {
            return cuda::rotate(device, self, &x, inverse);
        }
        let mut y = alloc::take(x.numel());
        cpu::rotate(&self.table, &self.positions, x.storage_slice()?, x.layout(), inverse, &mut y);
        Tensor::from_vec(y, x.shape())
    }
}

impl Op for Rope {
    const NAME: &'static str = "rope";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// The rotation is linear: its gradient needs no value.
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        Ok((vec![self.rotate(inputs[0], false)?], ()))
    }

    fn backward(&self, (): (), grads: &[Option<Tensor>], needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        match &grads[0] {
            Some(dy) if needs[0] => Ok(vec![Some(self.rotate(dy, true)?)]),
            _ => Ok(vec![None]),
        }
    }
}
