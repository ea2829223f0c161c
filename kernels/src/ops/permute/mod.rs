//! Dimensions in another order: a view, free both ways.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use medley_tensor::{Cost, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `x → y` with dimension `i` of `y` being dimension `order[i]` of `x`. Any dtype.
#[derive(Debug, Clone)]
pub struct Permute {
    /// A permutation of the dimensions.
    pub order: Vec<usize>,
}

impl Op for Permute {
    const NAME: &'static str = "permute";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    type Saved = ();

    fn forward(&self, inputs: &[&Tensor], _needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        Ok((vec![inputs[0].permute(&self.order)?], ()))
    }

    fn backward(&self, (): (), grads: &[Option<Tensor>], _needs: &[bool]) -> Result<Vec<Option<Tensor>>> {
        let mut inverse = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(i, d)| inverse[*d] = i);
        Ok(vec![grads[0].as_ref().map(|g| g.permute(&inverse)).transpose()?])
    }
}
