//! The edge to the hardware: what the engine asks of a GPU, and nothing else.
//!
//! Two implementations: [`CudarcDriver`](super::CudarcDriver) talks to NVIDIA's driver, and
//! [`SimDriver`](super::SimDriver) runs the same PTX on the CPU. Everything above (allocator, tensors,
//! ops) is the same code for both. Addresses are device addresses in bytes, sizes are bytes, times
//! milliseconds.

use super::DriverError;
use super::arguments::KernelArg;
use std::ptr::NonNull;

/// Shorthand for results of a driver.
pub type DriverResult<T> = std::result::Result<T, DriverError>;

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The card's name, or what the simulator says it is.
    pub name: String,
    /// `(major, minor)`: (8, 0) is sm_80.
    pub compute_capability: (u32, u32),
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Device memory in bytes.
    pub total_memory: usize,
    /// Most shared memory one block may opt in to, static and dynamic together, in bytes.
    pub max_shared_per_block: u32,
    /// CUDA version of the driver: (12, 4) is 12.4.
    pub driver_version: (u32, u32),
    /// True for the simulator.
    pub simulated: bool,
}

impl DeviceInfo {
    /// The compute capability as in `sm_80`.
    pub fn sm(&self) -> u32 {
        self.compute_capability.0 * 10 + self.compute_capability.1
    }
}

/// A stream: work on it happens in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stream(pub(crate) u64);

/// A point in a stream's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event(pub(crate) u64);

/// A loaded PTX module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Module(pub(crate) u64);

/// A kernel of a loaded module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Function(pub(crate) u64);

/// Page-locked host memory. Only [`PinnedBuffer`](super::PinnedBuffer) reads and writes through it.
#[derive(Debug, Clone, Copy)]
pub struct HostPointer(pub(crate) NonNull<u8>);

// SAFETY: an address; `PinnedBuffer` owns what it points to and hands out borrowed slices only.
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

/// Threads of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaunchConfig {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads a block in x, y, z; at most 1,024 together.
    pub block: [u32; 3],
    /// Dynamic shared memory a block, in bytes.
    pub shared_bytes: u32,
}

/// A GPU. All methods may be called from any thread.
///
/// Work on a stream is asynchronous: a kernel that fails is reported by a later copy or
/// synchronisation ([`DriverError::Fault`]), and from then on by every call.
pub trait Driver: Send + Sync {
    /// What the device is.
    fn info(&self) -> &DeviceInfo;

    /// `(free, total)` device memory in bytes.
    fn memory_info(&self) -> DriverResult<(usize, usize)>;

    /// Allocates `bytes` > 0 of device memory, at least 256-byte aligned, contents undefined.
    ///
    /// # Errors
    /// [`DriverError::OutOfMemory`].
    fn alloc(&self, bytes: usize) -> DriverResult<u64>;

    /// Frees what [`Driver::alloc`] returned.
    ///
    /// # Errors
    /// [`DriverError::Address`] when it is not a live allocation.
    fn free(&self, address: u64) -> DriverResult<()>;

    /// Allocates `bytes` > 0 of page-locked host memory.
    fn alloc_host(&self, bytes: usize) -> DriverResult<HostPointer>;

    /// Frees what [`Driver::alloc_host`] returned for `bytes`.
    fn free_host(&self, pointer: HostPointer, bytes: usize) -> DriverResult<()>;

    /// Copies `source` to device address `to`. `source` may be reused on return unless it is page-locked:
    /// then only once the stream has passed the copy.
    fn copy_to_device(&self, to: u64, source: &[u8], stream: Stream) -> DriverResult<()>;

    /// Copies from device address `from`. `target` is complete once the stream has passed the copy.
    fn copy_to_host(&self, target: &mut [u8], from: u64, stream: Stream) -> DriverResult<()>;

    /// Copies `bytes` between device addresses that do not overlap.
    fn copy_on_device(&self, to: u64, from: u64, bytes: usize, stream: Stream) -> DriverResult<()>;

    /// Sets `bytes` bytes to `value`.
    fn memset(&self, address: u64, value: u8, bytes: usize, stream: Stream) -> DriverResult<()>;

    /// Compiles and loads PTX.
    ///
    /// # Errors
    /// [`DriverError::Ptx`], [`DriverError::DriverTooOld`], [`DriverError::UnsupportedTarget`].
    fn load_module(&self, name: &str, ptx: &str) -> DriverResult<Module>;

    /// The kernel `entry` of a module, which may use all the shared memory a block can have.
    ///
    /// # Errors
    /// [`DriverError::NoEntry`].
    fn function(&self, module: Module, entry: &str) -> DriverResult<Function>;

    /// Starts a kernel. The arguments must be the kernel's parameters, in order.
    ///
    /// # Errors
    /// [`DriverError::Launch`] or [`DriverError::Arguments`] when it cannot start.
    fn launch(
        &self,
        function: Function,
        config: LaunchConfig,
        arguments: &[KernelArg],
        stream: Stream,
    ) -> DriverResult<()>;

    /// A new stream that does not wait for others.
    fn create_stream(&self) -> DriverResult<Stream>;

    /// Gives a stream back.
    fn destroy_stream(&self, stream: Stream) -> DriverResult<()>;

    /// A new event; `timed` ones can be measured with [`Driver::elapsed`].
    fn create_event(&self, timed: bool) -> DriverResult<Event>;

    /// Gives an event back.
    fn destroy_event(&self, event: Event) -> DriverResult<()>;

    /// Marks the present end of the stream's work.
    fn record(&self, event: Event, stream: Stream) -> DriverResult<()>;

    /// Makes later work of `stream` wait for the event.
    fn stream_wait(&self, stream: Stream, event: Event) -> DriverResult<()>;

    /// Blocks this thread until the event has passed.
    fn event_synchronize(&self, event: Event) -> DriverResult<()>;

    /// Milliseconds between two timed events that have passed.
    fn elapsed(&self, start: Event, end: Event) -> DriverResult<f32>;

    /// Blocks until the stream, or with `None` the whole device, has nothing left to do.
    fn synchronize(&self, stream: Option<Stream>) -> DriverResult<()>;
}
