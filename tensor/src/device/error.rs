//! What a GPU driver, real or simulated, can refuse.

/// Errors of a [`Driver`](super::Driver).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DriverError {
    /// No CUDA driver library on this machine.
    #[error(
        "no CUDA driver: {library} was not found on this machine; install the NVIDIA driver \
         (version 550 or newer), or compute with `--device cpu`, or test with `--device sim`"
    )]
    NoDriver {
        /// The shared library that was looked for.
        library: &'static str,
    },
    /// The driver's own version cannot compile the PTX that ships.
    #[error(
        "the CUDA driver supports CUDA {}.{}, but module {module} is PTX ISA {}.{}, which needs a driver for \
         CUDA {}.{} or newer (NVIDIA driver 550 for 12.4); update the driver or use `--device cpu`",
        .driver.0, .driver.1, .ptx.0, .ptx.1, .needed.0, .needed.1
    )]
    DriverTooOld {
        /// The PTX module.
        module: String,
        /// CUDA version of the driver, (major, minor).
        driver: (u32, u32),
        /// PTX ISA version of the module.
        ptx: (u32, u32),
        /// Oldest CUDA version that knows this PTX ISA.
        needed: (u32, u32),
    },
    /// A device number past the last one.
    #[error("cuda:{ordinal} does not exist: this machine has {count} CUDA device(s), counted from cuda:0")]
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// Device memory is used up.
    #[error("out of device memory: {requested} bytes asked for, {free} of {total} bytes free")]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes free on the device.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },
    /// The device is older than what the PTX was compiled for.
    #[error(
        "module {module} is compiled for sm_{needed} or newer, but {device} is sm_{got}; use a newer card \
         (Ampere or later) or `--device cpu`"
    )]
    UnsupportedTarget {
        /// The PTX module.
        module: String,
        /// Compute capability times ten that the PTX targets.
        needed: u32,
        /// Name of the device.
        device: String,
        /// Compute capability times ten of the device.
        got: u32,
    },
    /// PTX that does not compile.
    #[error("module {module}: the PTX was refused: {message}")]
    Ptx {
        /// The PTX module.
        module: String,
        /// The compiler's words.
        message: String,
    },
    /// An entry point that the module does not have.
    #[error("module {module} has no entry `{entry}`")]
    NoEntry {
        /// The PTX module.
        module: String,
        /// The entry asked for.
        entry: String,
    },
    /// Arguments that are not the kernel's parameters.
    #[error("kernel {entry}: the arguments do not fit: expected {expected}, got {got}")]
    Arguments {
        /// The kernel.
        entry: String,
        /// Sizes of its parameters in bytes, in words.
        expected: String,
        /// Sizes of the arguments in bytes, in words.
        got: String,
    },
    /// A launch that the device cannot start.
    #[error("kernel {entry} cannot be launched: {message}")]
    Launch {
        /// The kernel.
        entry: String,
        /// What is wrong with the grid, the block or the shared memory, and the bound.
        message: String,
    },
    /// A kernel that failed while it ran. It surfaces at a later call, and the device is unusable from
    /// then on, as on hardware.
    #[error("kernel {entry} failed: {message} (reported by a later {call})")]
    Fault {
        /// The kernel.
        entry: String,
        /// What it did, where.
        message: String,
        /// The call that reported it.
        call: &'static str,
    },
    /// An address that is not the start or the inside of a live allocation.
    #[error("{call}: {bytes} bytes at {address:#x} are not inside a live device allocation: {message}")]
    Address {
        /// The call that refused.
        call: &'static str,
        /// The device address.
        address: u64,
        /// Bytes from there.
        bytes: usize,
        /// What lies there.
        message: String,
    },
    /// A handle (stream, event, module, function) that this driver did not make or has destroyed.
    #[error("{call}: there is no such {what}; it belongs to another device or was destroyed")]
    Handle {
        /// The call that refused.
        call: &'static str,
        /// stream, event, module or function.
        what: &'static str,
    },
    /// Any other refusal of the CUDA driver.
    #[error("{call}: {message}")]
    Api {
        /// The CUDA driver function.
        call: &'static str,
        /// Name and text of the CUDA error.
        message: String,
    },
}

/// Everything worth knowing when device memory does not suffice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutOfMemory {
    /// The device, as `--device` names it.
    pub device: String,
    /// Bytes asked for.
    pub requested: usize,
    /// Ledger category they were for.
    pub category: &'static str,
    /// Bytes that tensors hold.
    pub live: usize,
    /// Bytes that the allocator keeps for reuse and could not give back.
    pub cached: usize,
    /// Bytes free on the device.
    pub free: usize,
    /// Bytes the device has.
    pub total: usize,
}

/// Bytes in the unit people read: `1.50 GiB`, `12.0 MiB`, `3.5 KiB`, `300 bytes`.
pub(crate) fn readable(bytes: usize) -> String {
    const MIB: f64 = (1u64 << 20) as f64;
    let b = bytes as f64;
    match bytes {
        ..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{:.1} KiB", b / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", b / MIB),
        _ => format!("{:.2} GiB", b / MIB / 1024.0),
    }
}

impl std::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "out of memory on {}: {} asked for ({}); tensors hold {}, the allocator keeps {} that it cannot \
             give back, {} of {} are free. Use a smaller per_device_train_batch_size or cutoff_len, \
             gradient_checkpointing: true, or quantization_bit: 4",
            self.device,
            readable(self.requested),
            self.category,
            readable(self.live),
            readable(self.cached),
            readable(self.free),
            readable(self.total)
        )
    }
}
