//! Trainable weights.

use crate::Var;
use crate::var::{Kind, Node};
use medley_tensor::ledger::{self, Category};
use medley_tensor::{Error, Result, Tensor};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// A trainable weight, f32, with the gradient accumulated so far.
pub struct Param {
    name: String,
    value: RwLock<Tensor>,
    grad: Mutex<Option<Tensor>>,
}

impl Param {
    /// A parameter under its full name (`model.layers.0.self_attn.q_proj.lora_A.weight`).
    ///
    /// # Errors
    /// When the value is not contiguous f32: trainable weights are kept in full precision.
    pub fn new(name: impl Into<String>, value: Tensor) -> Result<Arc<Self>> {
        value.as_slice::<f32>()?;
        Ok(Arc::new(Param { name: name.into(), value: RwLock::new(value), grad: Mutex::new(None) }))
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The present value.
    pub fn value(&self) -> Tensor {
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the value (loading a checkpoint).
    ///
    /// # Errors
    /// When the shape differs or the value is not contiguous f32.
    pub fn set(&self, value: Tensor) -> Result<()> {
        value.as_slice::<f32>()?;
        let mut slot = self.value.write().unwrap_or_else(PoisonError::into_inner);
        if slot.shape() != value.shape() {
            return Err(Error::shape("set", format!("{:?} for {}", slot.shape(), self.name), value.shape()));
        }
        *slot = value;
        Ok(())
    }

    /// The parameter as a variable whose gradient is accumulated here.
    pub fn var(self: &Arc<Self>) -> Var {
        if !crate::is_recording() {
            return Var::from(self.value());
        }
        Var::on_node(self.value(), Node::new(vec![], 1, Kind::Param(self.clone())), 0)
    }

    /// The gradient accumulated so far.
    pub fn grad(&self) -> Option<Tensor> {
        self.grad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the gradient.
    pub fn zero_grad(&self) {
        *self.grad.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Adds to the gradient, in f32.
    pub(crate) fn accumulate(&self, grad: Tensor) -> Result<()> {
        let mut slot = self.grad.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *slot {
            Some(sum) => crate::backward::add_into(sum, &grad),
            None => {
                let _scope = ledger::scope(Category::Gradients);
                // A copy of its own: charged as a gradient, and never shared with the tape.
                *slot = Some(Tensor::from_vec(grad.to_vec_f32()?, grad.shape())?);
                Ok(())
            }
        }
    }

    /// Runs `update(value, gradient)` in place on the f32 elements; does nothing without a
    /// gradient. The gradient is kept; call [`Param::zero_grad`] after.
    ///
    /// # Errors
    /// Those of `update`.
    pub fn update(&self, update: impl FnOnce(&mut [f32], &[f32]) -> Result<()>) -> Result<()> {
        let Some(grad) = self.grad() else { return Ok(()) };
        let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
        update(value.as_mut_slice::<f32>()?, grad.as_slice::<f32>()?)
    }
}
