//! Functions of one variable, element by element. A function is one line of the table at the end.
//! Negation is [`Affine`](super::Affine) with a factor of −1, which keeps nothing for its gradient.
//!
//! Floor: memory-bound, 8 bytes an element forward and 12 backward.

pub(crate) mod cuda;
#[cfg(test)]
pub(crate) mod tests;

use crate::cpu::activation::{exp, gelu_erf, gelu_tanh, sigmoid, silu};
use crate::cpu::elementwise::{Kernel, map};
use medley_tensor::{Cost, DType, Op, Result, Tensor};
use std::ops::RangeInclusive;

/// `x [..] any plain float dtype → f32` of the same shape; on a GPU in x's dtype.
#[derive(Debug, Clone, Copy)]
pub struct Unary {
    /// The function.
    pub kind: UnaryKind,
}

/// A function whose value is wanted.
struct Value<F>(F);
impl<F: Function> Kernel<1, 1> for Value<F> {
    #[inline(always)]
    fn apply(&self, [x]: [f32; 1]) -> [f32; 1] {
        [F::both(x).0]
    }
}

/// A function whose slope at x is wanted, times the gradient.
struct Slope<F>(F);
impl<F: Function> Kernel<2, 1> for Slope<F> {
    #[inline(always)]
    fn apply(&self, [dy, x]: [f32; 2]) -> [f32; 1] {
        [dy * F::both(x).1]
    }
}

trait Function: Sync {
    /// Value and derivative at x. The half that is not used is optimised away.
    fn both(x: f32) -> (f32, f32);
}

impl Op for Unary {
    const NAME: &'static str = "unary";
    const ARITY: RangeInclusive<usize> = 1..=1;
    const OUTPUTS: usize = 1;
    const COST: Cost = Cost::Memory;
    /// The input.
    type Saved = Option<Tensor>;

    fn forward(&self, inputs: &[&Tensor], needs: &[bool]) -> Result<(Vec<Tensor>, Self::Saved)> {
        if let Some(device) = inputs[0].cuda_device() {
            let y = cuda::forward(device, self.kind, inputs[0])?;
            return Ok((vec![y], needs[0].then(|| inputs[0].clone())));
        }
        let x = inputs[0].to_dtype(DType::F32)?;
        let y = Tensor::from_vec(self.kind.value(&x)?, x.shape())?;
        Ok((vec![y], needs[0].then_some(x)))
    }

    fn backward(
        &self,
        saved: Self::Saved,
        grads: &[Option<Tensor>],
        _needs: &[bool],
    ) -> Result<Vec<Option<Tensor>>> {
        let (Some(x), Some(dy)) = (saved, &grads[0]) else { return Ok(vec![None]) };
        if let Some(device) = x.cuda_device() {
            return Ok(vec![Some(cuda::backward(device, self.kind, dy, &x)?)]);
        }
        Ok(vec![Some(Tensor::from_vec(self.kind.gradient(dy, &x)?, x.shape())?)])
    }
}

macro_rules! functions {
    ($($kind:ident $doc:literal |$x:ident| $both:expr;)*) => {
        /// What a [`Unary`] computes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum UnaryKind {
            $(
                #[doc = $doc]
                $kind,
            )*
        }

        impl UnaryKind {
            /// Every function.
            pub const ALL: &[UnaryKind] = &[$(UnaryKind::$kind),*];

            fn value(self, x: &Tensor) -> Result<Vec<f32>> {
                let [y] = match self {
                    $(UnaryKind::$kind => map(x.shape(), [x], &Value(table::$kind)),)*
                }?;
                Ok(y)
            }

            fn gradient(self, dy: &Tensor, x: &Tensor) -> Result<Vec<f32>> {
                let [dx] = match self {
                    $(UnaryKind::$kind => map(x.shape(), [dy, x], &Slope(table::$kind)),)*
                }?;
                Ok(dx)
            }
        }

        mod table {
            use super::*;
            $(
                pub(super) struct $kind;
                impl Function for $kind {
                    #[inline(always)]
                    fn both($x: f32) -> (f32, f32) {
                        $both
                    }
                }
            )*
        }
    };
}

functions! {
    Exp "`eˣ`" |x| { let y = exp(x); (y, y) };
    Log "`ln x`" |x| (x.ln(), 1.0 / x);
    Sqrt "`√x`" |x| { let y = x.sqrt(); (y, 0.5 / y) };
    Rsqrt "`1/√x`" |x| { let y = 1.0 / x.sqrt(); (y, -0.5 * y / x) };
    Square "`x²`" |x| (x * x, 2.0 * x);
    Abs "`|x|`, with slope 0 at 0" |x| (x.abs(), if x == 0.0 { 0.0 } else { 1.0f32.copysign(x) });
    Sin "`sin x`, x in radians" |x| (x.sin(), x.cos());
    Cos "`cos x`, x in radians" |x| (x.cos(), -x.sin());
    Tanh "`tanh x`" |x| { let y = x.tanh(); (y, 1.0 - y * y) };
    Relu "`max(x, 0)`, with slope 0 at 0; NaN stays NaN" |x| if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) };
    Sigmoid "`1/(1 + e⁻ˣ)`" |x| { let y = sigmoid(x); (y, y * (1.0 - y)) };
    Silu "`x·sigmoid(x)`" |x| silu(x);
    Gelu "GELU with the error function" |x| gelu_erf(x);
    GeluTanh "GELU by its tanh formula" |x| gelu_tanh(x);
}
