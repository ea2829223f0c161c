//! Every op, one folder an op: shape rule, CPU kernel, backward, tests. See [`ops`].

pub mod ops;

#[cfg(test)]
mod check;
