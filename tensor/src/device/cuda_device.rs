//! A GPU as the engine sees it: driver, allocator, modules and one compute stream.

use super::arguments::{self, KernelArg, Ptx};
use super::driver::{DeviceInfo, Driver, Function, LaunchConfig, Stream};
use super::pinned::PinnedBuffer;
use super::pool::{Pool, PoolStats};
use super::{CudarcDriver, DriverError, OutOfMemory, SimDriver, SimOptions};
use crate::ledger::{Category, Charge};
use crate::{Error, Result};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Uploads of at least this many bytes go through page-locked memory.
const STAGED: usize = 1 << 20;
/// Bytes of each of the two staging buffers: one is filled while the other is on its way.
const STAGE: usize = 8 << 20;

/// A GPU, real or simulated; cloning shares it. All kernels run in its one compute stream.
#[derive(Clone)]
pub struct CudaDevice(Arc<Inner>);

struct Inner {
    driver: Arc<dyn Driver>,
    simulator: Option<Arc<SimDriver>>,
    /// As `--device` names it.
    name: String,
    stream: Stream,
    pool: Mutex<Pool>,
    modules: Mutex<HashMap<usize, Loaded>>,
    staging: Mutex<Vec<PinnedBuffer>>,
}

struct Loaded {
    module: super::driver::Module,
    functions: HashMap<String, (Function, Vec<usize>)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CudaDevice {
    fn new(
        driver: Arc<dyn Driver>,
        simulator: Option<Arc<SimDriver>>,
        name: String,
        caching: bool,
    ) -> Result<Self> {
        let stream = driver.create_stream()?;
        Ok(CudaDevice(Arc::new(Inner {
            driver,
            simulator,
            name,
            stream,
            pool: Mutex::new(Pool::new(caching)),
            modules: Mutex::default(),
            staging: Mutex::default(),
        })))
    }

    /// A simulated device of its own.
    ///
    /// # Errors
    /// When the options make no sense (a compute capability that does not exist).
    pub fn sim(options: SimOptions) -> Result<Self> {
        let caching = options.caching;
        let simulator = Arc::new(SimDriver::new(options)?);
        CudaDevice::new(simulator.clone(), Some(simulator), "sim".into(), caching)
    }

    /// The n-th CUDA card.
    ///
    /// # Errors
    /// [`DriverError::NoDriver`] without a CUDA driver, [`DriverError::NoSuchDevice`].
    pub fn cuda(ordinal: usize) -> Result<Self> {
        CudaDevice::new(Arc::new(CudarcDriver::new(ordinal)?), None, format!("cuda:{ordinal}"), true)
    }

    /// What the device is.
    pub fn info(&self) -> &DeviceInfo {
        self.0.driver.info()
    }

    /// `cuda:N` or `sim`, as `--device` takes it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The driver, for streams, events and copies beside the compute stream.
    pub fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    pub(crate) fn shared_driver(&self) -> Arc<dyn Driver> {
        self.0.driver.clone()
    }

    /// The stream that all kernels of this device run in.
    pub fn stream(&self) -> Stream {
        self.0.stream
    }

    /// The simulator behind this device, if it is one.
    pub fn simulator(&self) -> Option<&SimDriver> {
        self.0.simulator.as_deref()
    }

    /// What the allocator holds.
    pub fn memory(&self) -> PoolStats {
        lock(&self.0.pool).stats()
    }

    /// `(address, bytes)` of every buffer alive.
    pub fn live_buffers(&self) -> Vec<(u64, usize)> {
        lock(&self.0.pool).live()
    }

    /// Gives cached memory back to the driver and says how many bytes that were.
    ///
    /// # Errors
    /// When an earlier kernel failed.
    pub fn trim(&self) -> Result<usize> {
        Ok(lock(&self.0.pool).trim(self.driver())?)
    }

    /// `bytes` of device memory, contents undefined, charged to the thread's ledger category.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] when neither the cache nor the driver has that much.
    pub fn alloc(&self, bytes: usize) -> Result<DeviceBuffer> {
        let charge = Charge::new(bytes);
        let mut pool = lock(&self.0.pool);
        let address = if bytes == 0 {
            0
        } else {
            match pool.take(self.driver(), bytes) {
                Err(DriverError::OutOfMemory { free, total, .. }) => {
                    let stats = pool.stats();
                    return Err(Error::OutOfMemory(Box::new(OutOfMemory {
                        device: self.0.name.clone(),
                        requested: bytes,
                        category: Category::current().name(),
                        live: stats.live_bytes,
                        cached: stats.cached_bytes(),
                        free,
                        total,
                    })));
                }
                other => other?,
            }
        };
        drop(pool);
        Ok(DeviceBuffer { device: self.clone(), address, bytes, _charge: charge })
    }

    /// A copy of `bytes` on the device. Large ones go through page-locked memory in pieces, so that the
    /// host fills one piece while the device fetches the other.
    ///
    /// # Errors
    /// As [`CudaDevice::alloc`].
    pub fn upload(&self, bytes: &[u8]) -> Result<DeviceBuffer> {
        let buffer = self.alloc(bytes.len())?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// Copies `bytes` into `buffer` at byte `offset`.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn write(&self, buffer: &DeviceBuffer, offset: usize, bytes: &[u8]) -> Result<()> {
        let address = buffer.range("write", offset, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() < STAGED {
            return Ok(self.driver().copy_to_device(address, bytes, self.stream())?);
        }
        let mut staging = lock(&self.0.staging);
        while staging.len() < 2 {
            staging.push(PinnedBuffer::new(self, STAGE)?);
        }
        for (i, piece) in bytes.chunks(STAGE).enumerate() {
            let stage = &mut staging[i % 2];
            stage.as_mut_slice()?[..piece.len()].copy_from_slice(piece);
            stage.copy_to(buffer, offset + i * STAGE, piece.len(), self.stream())?;
        }
        Ok(())
    }

    /// Copies `out.len()` bytes of `buffer` from byte `offset`, after all work before.
    ///
    /// # Errors
    /// When they lie outside, or when a kernel before failed.
    pub fn download(&self, buffer: &DeviceBuffer, offset: usize, out: &mut [u8]) -> Result<()> {
        let address = buffer.range("download", offset, out.len())?;
        if !out.is_empty() {
            self.driver().copy_to_host(out, address, self.stream())?;
        }
        self.synchronize()
    }

    /// Copies `bytes` bytes between buffers of this device.
    ///
    /// # Errors
    /// When they lie outside either.
    pub fn copy(
        &self,
        to: &DeviceBuffer,
        to_offset: usize,
        from: &DeviceBuffer,
        from_offset: usize,
        bytes: usize,
    ) -> Result<()> {
        let target = to.range("copy", to_offset, bytes)?;
        let source = from.range("copy", from_offset, bytes)?;
        if bytes == 0 {
            return Ok(());
        }
        Ok(self.driver().copy_on_device(target, source, bytes, self.stream())?)
    }

    /// Sets every byte of `buffer`.
    ///
    /// # Errors
    /// When an earlier kernel failed.
    pub fn memset(&self, buffer: &DeviceBuffer, byte: u8) -> Result<()> {
        if buffer.bytes == 0 {
            return Ok(());
        }
        Ok(self.driver().memset(buffer.address, byte, buffer.bytes, self.stream())?)
    }

    /// Starts kernel `entry` of `ptx` in the compute stream, loading the module the first time. A grid
    /// without blocks is no work and no error.
    ///
    /// # Errors
    /// [`Error::Driver`] when the PTX or its target is refused, the entry does not exist, the arguments are
    /// not its parameters, or the launch asks for more than the device has. A kernel that fails while
    /// running is reported by a later copy or synchronisation.
    pub fn launch(
        &self,
        ptx: &'static Ptx,
        entry: &str,
        config: LaunchConfig,
        arguments: &[KernelArg],
    ) -> Result<()> {
        let function = self.function(ptx, entry, arguments)?;
        if config.grid.contains(&0) {
            return Ok(());
        }
        let refuse = |message: String| Err(DriverError::Launch { entry: entry.to_string(), message }.into());
        let threads: u64 = config.block.iter().map(|&n| u64::from(n)).product();
        if !(1..=1024).contains(&threads) {
            return refuse(format!(
                "{:?} are {threads} threads a block, and 1 to 1024 are possible",
                config.block
            ));
        }
        if config.grid[1] > 65_535 || config.grid[2] > 65_535 || config.grid[0] > i32::MAX as u32 {
            return refuse(format!("a grid of {:?} exceeds 2147483647 × 65535 × 65535 blocks", config.grid));
        }
        let most = self.info().max_shared_per_block;
        if config.shared_bytes > most {
            return refuse(format!(
                "{} bytes of dynamic shared memory a block, and {} has {most}",
                config.shared_bytes,
                self.info().name
            ));
        }
        match self.driver().launch(function, config, arguments, self.stream()) {
            Err(DriverError::Api { message, .. }) => refuse(message),
            other => Ok(other?),
        }
    }

    fn function(&self, ptx: &'static Ptx, entry: &str, arguments: &[KernelArg]) -> Result<Function> {
        let mut modules = lock(&self.0.modules);
        let no_entry = || DriverError::NoEntry { module: ptx.name.to_string(), entry: entry.to_string() };
        let loaded = match modules.entry(ptx.source.as_ptr() as usize) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let module = self.driver().load_module(ptx.name, ptx.source)?;
                place.insert(Loaded { module, functions: HashMap::new() })
            }
        };
        // Looked up first: the common path makes no String.
        if let Some((function, parameters)) = loaded.functions.get(entry) {
            arguments::check(entry, parameters, arguments)?;
            return Ok(*function);
        }
        let parameters = arguments::parameters(ptx.source, entry).ok_or_else(no_entry)?;
        let function = self.driver().function(loaded.module, entry)?;
        let checked = arguments::check(entry, &parameters, arguments);
        loaded.functions.insert(entry.to_string(), (function, parameters));
        checked?;
        Ok(function)
    }

    /// Waits for all work of this device.
    ///
    /// # Errors
    /// When a kernel failed.
    pub fn synchronize(&self) -> Result<()> {
        Ok(self.driver().synchronize(Some(self.stream()))?)
    }
}

impl PartialEq for CudaDevice {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl std::fmt::Debug for CudaDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CudaDevice({}, {})", self.0.name, self.info().name)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // After a failed kernel the driver refuses these calls too; the failure itself was reported by
        // the call that met it, and the process gives the memory back.
        let driver = &*self.driver;
        let _ = driver.synchronize(Some(self.stream));
        let _ = lock(&self.pool).trim(driver);
        let _ = driver.destroy_stream(self.stream);
    }
}

/// Device memory; goes back to the allocator when dropped.
#[derive(Debug)]
pub struct DeviceBuffer {
    device: CudaDevice,
    address: u64,
    bytes: usize,
    _charge: Charge,
}

impl DeviceBuffer {
    /// Address of the first byte; 0 for an empty buffer.
    pub fn ptr(&self) -> u64 {
        self.address
    }

    /// Bytes asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The device it lies on.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    fn range(&self, op: &'static str, offset: usize, bytes: usize) -> Result<u64> {
        if offset.checked_add(bytes).is_some_and(|end| end <= self.bytes) {
            return Ok(self.address + offset as u64);
        }
        Err(Error::value(op, format!("bytes {offset}..{offset}+{bytes} of a buffer of {} bytes", self.bytes)))
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // Only a failed device refuses, and its failure is reported by the next call.
            let _ = lock(&self.device.0.pool).give(&*self.device.0.driver, self.address);
        }
    }
}
