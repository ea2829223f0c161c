//! GEGLU on a GPU. See `geglu.cu`.

use super::Geglu;
use crate::cuda::{Kernel, ptx};
use crate::ops::swiglu::Gated;
use medley_tensor::Op;
use medley_tensor::device::{KernelArg, Ptx};

static PTX: Ptx = ptx!("geglu.ptx");

/// The two kernels, set to one of the formulas.
pub(crate) fn gated(tanh: bool) -> Gated {
    Gated {
        forward: Kernel { op: Geglu::NAME, ptx: &PTX, entry: "geglu_fwd" },
        backward: Kernel { op: Geglu::NAME, ptx: &PTX, entry: "geglu_bwd" },
        argument: Some(KernelArg::U32(u32::from(tanh))),
    }
}
