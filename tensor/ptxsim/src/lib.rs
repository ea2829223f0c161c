//! A simulator of PTX, the virtual instruction set of NVIDIA GPUs: it runs kernels on the CPU, checks
//! every memory access and barrier, and counts what the kernel would cost on a card.

pub mod count;
pub mod semantics;
