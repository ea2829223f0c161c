//! Every op, one folder an op: shape rule, CPU kernel, backward, tests.
pub mod cpu;
