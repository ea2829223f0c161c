//! Execution: registers, warps, blocks, grids.

pub(crate) mod access;
pub(crate) mod async_copy;
pub(crate) mod atomic;
pub(crate) mod barrier;
pub(crate) mod block;
pub(crate) mod call;
pub(crate) mod collective;
pub(crate) mod context;
pub(crate) mod fma;
pub(crate) mod fragment;
pub(crate) mod grid;
pub(crate) mod local;
pub(crate) mod matrix;
pub(crate) mod mbarrier;
pub(crate) mod memory;
pub(crate) mod regs;
pub(crate) mod warp;
