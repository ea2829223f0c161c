//! The `medley` binary.
fn main() {}
