//! What each PTX instruction computes, as pure functions of its operand values.
//!
//! Nothing here knows about registers, memory or threads: the executor reads operands, calls one of
//! these functions and writes the result. Every rule is taken from the PTX ISA 8.x document; the
//! section is named where a rule is not obvious.
//!
//! * [`exact`] — exact arithmetic on unpacked floats, rounded once, in any rounding mode
//! * [`float`] — f32 and f64 arithmetic, minimum, maximum, comparison
//! * [`convert`] — `cvt` between all scalar types and the packed forms
//! * [`approx`] — the `.approx` and `.full` functions
//! * [`half2`] — f16 and bf16 arithmetic, scalar and packed
//! * [`integer`] — permutes, bit fields, shifts, wide products, dot products, carries
//! * [`video`] — SIMD within a register
//! * [`mma`] — matrix multiply-accumulate and its fragment layouts

//! * [`tensor`] — `mma` and `wmma.mma` opcodes: what they name, how many registers, FLOPs
//! * [`wmma`] — the opaque fragments of `wmma.load`, `wmma.mma` and `wmma.store`
//! * [`matrix_load`] — which lane gets what from `ldmatrix`, and back for `stmatrix`
//! * [`warp`] — shuffles, votes, matches, reductions across a warp

pub mod approx;
pub mod convert;
pub mod exact;
pub mod float;
pub mod half2;
pub mod integer;
pub mod matrix_load;
pub mod mma;
pub mod tensor;
pub mod video;
pub mod warp;
pub mod wmma;
