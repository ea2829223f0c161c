//! SwiGLU on a GPU. See `swiglu.cu`.

use super::{Gated, Swiglu};
use crate::cuda::{Kernel, ptx};
use medley_tensor::Op;
use medley_tensor::device::Ptx;

static PTX: Ptx = ptx!("swiglu.ptx");

/// The two kernels.
pub(crate) const GATED: Gated = Gated {
    forward: Kernel { op: Swiglu::NAME, ptx: &PTX, entry: "swiglu_fwd" },
    backward: Kernel { op: Swiglu::NAME, ptx: &PTX, entry: "swiglu_bwd" },
    argument: None,
};
