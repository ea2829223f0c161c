//! Trainable weights.

use crate::Var;
use crate::var::{Kind, Node};
use medley_kernels::updates::accumulate;
use medley_tensor::ledger::{self, Category};
use medley_tensor::{DType, Error, Result, Tensor};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockWriteGuard};

/// A trainable weight with the gradient accumulated so far, both f32 and on one device: the master copy
/// that ops cast to the compute dtype as they read it.
pub struct Param {
    name: String,
    value: RwLock<Tensor>,
    version: AtomicU64,
    grad: Mutex<Option<Tensor>>,
}

impl Param {
    /// A parameter under its full name (`model.layers.0.self_attn.q_proj.lora_A.weight`).
    ///
    /// # Errors
    /// When the value is not contiguous f32: trainable weights are kept in full precision.
    pub fn new(name: impl Into<String>, value: Tensor) -> Result<Arc<Self>> {
        check(&value)?;
        let (value, version, grad) = (RwLock::new(value), AtomicU64::new(0), Mutex::new(None));
        Ok(Arc::new(Param { name: name.into(), value, version, grad }))
    }

    /// Its full name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The present value.
    pub fn value(&self) -> Tensor {
        self.value.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts the times that the value was handed out to be written: what was made from it is good as long as this
    /// is the same.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Replaces the value (loading a checkpoint); it is moved to the device of the present one.
    ///
    /// # Errors
    /// When the shape differs, the value is not contiguous f32, or device memory runs out.
    pub fn set(&self, value: Tensor) -> Result<()> {
        check(&value)?;
        let mut slot = self.write();
        if slot.shape() != value.shape() {
            return Err(Error::shape("set", format!("{:?} for {}", slot.shape(), self.name), value.shape()));
        }
        *slot = value.to_device(&slot.device())?;
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
            Some(sum) => accumulate::add_into(sum, &grad),
            None => {
                let _scope = ledger::scope(Category::Gradients);
                // A copy of its own: charged as a gradient, and never shared with the tape.
                *slot = Some(match grad.cuda_device() {
                    None => Tensor::from_vec(grad.to_vec_f32()?, grad.shape())?,
                    Some(_) => {
                        let mut copy = Tensor::zeros_on(&grad.device(), grad.shape(), DType::F32)?;
                        accumulate::add_into(&mut copy, &grad)?;
                        copy
                    }
                });
                Ok(())
            }
        }
    }

    /// Runs `update(value, gradient)` in place; does nothing without a gradient. The gradient is kept; call
    /// [`Param::zero_grad`] after.
    ///
    /// # Errors
    /// Those of `update`.
    pub fn update(&self, update: impl FnOnce(&mut Tensor, &Tensor) -> Result<()>) -> Result<()> {
        let Some(grad) = self.grad() else { return Ok(()) };
        update(&mut self.write(), &grad)
    }

    /// The value, to be written while the guard is held.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Tensor> {
        let guard = self.value.write().unwrap_or_else(PoisonError::into_inner);
        self.version.fetch_add(1, Ordering::Release);
        guard
    }
}

/// Refuses what is not contiguous f32.
fn check(value: &Tensor) -> Result<()> {
    if value.dtype() != DType::F32 {
        return Err(Error::dtype("param", "f32: trained weights are kept in full precision", value.dtype()));
    }
    if !value.is_contiguous() {
        let (shape, strides) = (value.shape().to_vec(), value.strides().to_vec());
        return Err(Error::NotContiguous { op: "param", shape, strides });
    }
    Ok(())
}
