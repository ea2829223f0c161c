//! Where tensors live. The CPU is the default; the CUDA driver and the simulator driver join
//! here behind one `Driver` trait.

/// A place that holds tensors and runs kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// The host processor, all its cores.
    #[default]
    Cpu,
}
