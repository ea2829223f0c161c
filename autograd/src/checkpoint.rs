//! Activation checkpointing (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016):
//! a segment keeps its inputs and is run again in the backward pass.

use crate::Var;
use crate::backward::backward_from;
use crate::var::{Kind, Node, is_recording, no_grad, recording};
use medley_tensor::{Result, Tensor};
use std::sync::Mutex;

/// Runs `segment` over `inputs` without keeping its intermediate values. In the backward pass it
/// is run again, recorded, and its gradients go to `inputs` and to the parameters it uses.
/// `segment` must compute the same values both times (counter-based dropout does).
///
/// # Errors
/// Those of the segment.
pub fn checkpoint<F>(inputs: &[&Var], segment: F) -> Result<Vec<Var>>
where
    F: Fn(&[Var]) -> Result<Vec<Var>> + Send + 'static,
{
    let constants: Vec<Var> = inputs.iter().map(|v| v.detach()).collect();
    let outputs = no_grad(|| segment(&constants))?;
    if !is_recording() {
        return Ok(outputs);
    }
    let needs: Vec<bool> = inputs.iter().map(|v| v.requires_grad()).collect();
    let kept: Vec<Tensor> = inputs.iter().map(|v| v.value().clone()).collect();
    let rerun_needs = needs;
    let backward = move |grads: &[Option<Tensor>]| {
        recording(true, || {
            let leaves: Vec<Var> = kept
                .into_iter()
                .zip(&rerun_needs)
                .map(|(t, need)| if *need { Var::leaf(t) } else { Var::from(t) })
                .collect();
            let outputs = segment(&leaves)?;
            let roots: Vec<(Var, Tensor)> = outputs
                .into_iter()
                .zip(grads)
                .filter(|(v, _)| v.requires_grad())
                .filter_map(|(v, g)| g.clone().map(|g| (v, g)))
                .collect();
            let mut gradients = backward_from(&roots)?;
            Ok(leaves.iter().map(|leaf| gradients.take(leaf)).collect())
        })
    };
    let parents = inputs.iter().map(|v| v.node().cloned()).collect();
    let node = Node::new(parents, outputs.len(), Kind::Op(Mutex::new(Some(Box::new(backward)))));
    Ok(outputs.iter().enumerate().map(|(i, v)| Var::on_node(v.value().clone(), node.clone(), i)).collect())
}
