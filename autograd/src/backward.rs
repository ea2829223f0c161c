//! The backward pass: nodes in descending order of recording, each run once when the gradients
//! of all its outputs are complete.

use crate::Var;
use crate::var::{Kind, Node};
use medley_kernels::updates::accumulate;
use medley_tensor::{Error, Result, Tensor};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

/// Gradients of the [`Var::leaf`]s a backward pass reached.
#[derive(Default)]
pub struct Gradients {
    by_node: HashMap<u64, Tensor>,
}

impl Gradients {
    /// The gradient of a leaf, `None` when the result did not depend on it.
    pub fn get(&self, leaf: &Var) -> Option<&Tensor> {
        self.by_node.get(&leaf.node()?.0.id)
    }

    pub(crate) fn take(&mut self, leaf: &Var) -> Option<Tensor> {
        self.by_node.remove(&leaf.node()?.0.id)
    }
}

impl Var {
    /// Propagates a gradient of one from this scalar to every parameter and leaf it depends on.
    ///
    /// # Errors
    /// When this is not a scalar or carries no gradient, and what the ops' backwards refuse.
    pub fn backward(&self) -> Result<Gradients> {
        self.backward_scaled(1.0)
    }

    /// [`Var::backward`] with a gradient of `scale` instead of one: the loss scale of
    /// [`crate::GradScaler`], by which all gradients come out multiplied.
    ///
    /// # Errors
    /// As [`Var::backward`].
    pub fn backward_scaled(&self, scale: f32) -> Result<Gradients> {
        if self.value().numel() != 1 {
            return Err(Error::shape("backward", "a scalar; use backward_with for others", self.shape()));
        }
        let upstream = Tensor::from_vec(vec![scale], self.shape())?;
        backward_from(&[(self.clone(), upstream.to_device(&self.value().device())?)])
    }

    /// Propagates `grad`, a tensor of this variable's shape.
    ///
    /// # Errors
    /// When the shapes differ, nothing was recorded, or an op's backward refuses.
    pub fn backward_with(&self, grad: Tensor) -> Result<Gradients> {
        backward_from(&[(self.clone(), grad)])
    }
}

/// Propagates gradients of several variables at once.
pub(crate) fn backward_from(roots: &[(Var, Tensor)]) -> Result<Gradients> {
    let mut pending: BTreeMap<u64, (Arc<Node>, Vec<Option<Tensor>>)> = BTreeMap::new();
    for (root, grad) in roots {
        if root.shape() != grad.shape() {
            return Err(Error::shape("backward", format!("a gradient {:?}", root.shape()), grad.shape()));
        }
        let Some((node, output)) = root.node() else {
            return Err(Error::value(
                "backward",
                "nothing was recorded for this variable: it depends on no parameter, or was made under no_grad",
            ));
        };
        add_pending(&mut pending, node, *output, grad.clone())?;
    }
    let mut gradients = Gradients::default();
    while let Some((_, (node, grads))) = pending.pop_last() {
        match &node.kind {
            Kind::Param(param) => {
                for g in grads.into_iter().flatten() {
                    param.accumulate(g)?;
                }
            }
            Kind::Leaf => {
                for g in grads.into_iter().flatten() {
                    gradients.by_node.insert(node.id, g);
                }
            }
            Kind::Op(backward) => {
                let backward =
                    backward.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| {
                        Error::value("backward", "this graph was already used: run the forward pass again")
                    })?;
                let inputs = backward(&grads)?;
                drop(grads);
                for (edge, grad) in node.parents.iter().zip(inputs) {
                    if let (Some((parent, output)), Some(grad)) = (edge, grad) {
                        add_pending(&mut pending, parent, *output, grad)?;
                    }
                }
            }
        }
    }
    Ok(gradients)
}

fn add_pending(
    pending: &mut BTreeMap<u64, (Arc<Node>, Vec<Option<Tensor>>)>,
    node: &Arc<Node>,
    output: usize,
    grad: Tensor,
) -> Result<()> {
    let entry = pending.entry(node.id).or_insert_with(|| (node.clone(), vec![None; node.outputs]));
    match &mut entry.1[output] {
        Some(sum) => accumulate::add_into(sum, &grad),
        slot @ None => {
            *slot = Some(grad);
            Ok(())
        }
    }
}
