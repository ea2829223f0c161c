//! Every op, one folder an op: shape rule, CPU kernel, backward, tests. See [`ops`] for the ops
//! and [`cpu`] for the parts their CPU kernels share.

pub mod cpu;
pub mod ops;

#[cfg(test)]
mod check;
