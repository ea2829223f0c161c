//! Reverse-mode autograd over the ops: variables, gradients, checkpointing, clipping, optimizers.
