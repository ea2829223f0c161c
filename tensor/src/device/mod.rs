//! Where tensors live: host memory, a CUDA card, or the simulator that stands in for one.
//!
//! ```text
//! Tensor → Storage::Cuda(CudaStorage) → DeviceBuffer → Pool ┐
//! kernels::cuda::launch → CudaDevice::launch → modules ─────┤
//!                                                           ▼
//!                                     dyn Driver: CudarcDriver (a card) | SimDriver (ptxsim on the CPU)
//! ```

mod arguments;
mod cuda_device;
mod cudarc_driver;
mod driver;
mod error;
mod nf4;
mod pinned;
mod pool;
mod sim;
mod strided_copy;
#[cfg(test)]
mod tests;

pub use arguments::{KernelArg, Ptx};
pub use cuda_device::{CudaDevice, DeviceBuffer};
pub use cudarc_driver::CudarcDriver;
pub use driver::{
    DeviceInfo, Driver, DriverResult, Event, Function, HostPointer, LaunchConfig, Module, Stream,
};
pub use error::{DriverError, OutOfMemory};
pub use nf4::{CudaAbsmax, CudaNf4};
pub use pinned::PinnedBuffer;
pub use pool::PoolStats;
pub use sim::{SimDriver, SimOptions};
pub(crate) use strided_copy::strided_copy;

use crate::{Error, Result};

/// A place that holds tensors and runs kernels.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Device {
    /// The host processor, all its cores.
    #[default]
    Cpu,
    /// A GPU, real or simulated. Two are equal when they are the same opened device.
    Cuda(CudaDevice),
}

impl Device {
    /// True when this machine has a CUDA card and a driver that starts.
    pub fn cuda_present() -> bool {
        CudarcDriver::count() > 0
    }

    /// Opens `cpu`, `cuda` (card 0), `cuda:N` or `sim`. Each call of `sim` makes a device of its own; the
    /// environment says what it claims to be and which faults it has ([`SimOptions::from_environment`]).
    ///
    /// # Errors
    /// For another name, without a CUDA driver, and for a card that does not exist.
    pub fn open(name: &str) -> Result<Device> {
        let wrong = || Error::value("device", format!("expected cpu, cuda, cuda:N or sim, got `{name}`"));
        match name {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(CudaDevice::cuda(0)?)),
            "sim" => Ok(Device::Cuda(CudaDevice::sim(SimOptions::from_environment()?)?)),
            _ => {
                let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
                Ok(Device::Cuda(CudaDevice::cuda(ordinal)?))
            }
        }
    }
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Cuda(device) => f.write_str(device.name()),
        }
    }
}
