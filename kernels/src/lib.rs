//! Every op, one folder an op: shape rule, CPU kernel, backward, tests. See [`ops`] for the ops,
//! [`updates`] for the kernels outside the graph (optimizer, gradient norm, casts, quantisation), and
//! [`cpu`] for the parts that their CPU kernels share.

pub mod cpu;
pub mod cuda;
pub mod ops;
pub mod updates;

#[cfg(test)]
mod check;
