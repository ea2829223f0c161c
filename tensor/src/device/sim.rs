//! The simulator as a driver: `ptxsim` runs the PTX that ships on the CPU and checks every access.
//!
//! It behaves like hardware where the difference would hide mistakes: a kernel that fails is reported by
//! a later copy or synchronisation and the device is unusable afterwards; memory is undefined until
//! written (reading it is a finding); and allocations and launches can be made to fail.

use super::DriverError;
use super::arguments::{self, Header, KernelArg};
use super::driver::{
    DeviceInfo, Driver, DriverResult, Event, Function, HostPointer, LaunchConfig, Module, Stream,
};
use crate::{Error, Result};
use ptxsim::count::Counts;
use ptxsim::{Checks, FaultKind, Gpu, GpuConfig, GpuError, Launch, Loaded};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared memory a block and multiprocessors by compute capability (CUDA C++ programming guide,
/// "Technical Specifications per Compute Capability"; multiprocessors of T4, A100, RTX 3090, 4090, H100).
const CAPABILITIES: [((u32, u32), u32, u32); 5] = [
    ((7, 5), 64 << 10, 40),
    ((8, 0), 163 << 10, 108),
    ((8, 6), 99 << 10, 82),
    ((8, 9), 99 << 10, 128),
    ((9, 0), 227 << 10, 132),
];

/// What the simulated device claims to be, what it checks and what fails on demand.
#[derive(Debug, Clone)]
pub struct SimOptions {
    /// Compute capability it claims: one of 7.5, 8.0, 8.6, 8.9, 9.0.
    pub compute_capability: (u32, u32),
    /// Device memory in bytes.
    pub memory_bytes: usize,
    /// CUDA version its driver claims.
    pub driver_version: (u32, u32),
    /// The n-th allocation of device memory (from 1) finds none left.
    pub fail_alloc: Option<u64>,
    /// The n-th launch (from 1) fails while running.
    pub fail_launch: Option<u64>,
    /// What is checked; everything unless said otherwise.
    pub checks: Checks,
    /// Count instructions, sectors and bank conflicts ([`SimDriver::reports`]).
    pub counts: bool,
    /// CPU threads that run blocks; all cores when 0.
    pub threads: usize,
    /// Cache and round allocations as on a real card. Off, every buffer is an allocation of its own and
    /// the checks see its exact end.
    pub caching: bool,
    /// Warp instructions after which a launch fails as an endless loop.
    pub max_instructions: Option<u64>,
    /// `(file name, PTX)`: loaded in place of the module from that file. A changed kernel then runs through
    /// its ordinary launcher: what mutation tests and experiments with generated code need.
    pub substitutes: Vec<(String, String)>,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions {
            compute_capability: (8, 0),
            memory_bytes: 4 << 30,
            driver_version: (12, 4),
            fail_alloc: None,
            fail_launch: None,
            checks: Checks::default(),
            counts: false,
            threads: 0,
            caching: false,
            max_instructions: None,
            substitutes: vec![],
        }
    }
}

impl SimOptions {
    /// The defaults, changed by these environment variables, each a whole number:
    ///
    /// - `MEDLEY_SIM_SM`: what the device claims to be (86 for sm_86),
    /// - `MEDLEY_SIM_MEMORY`: bytes of device memory,
    /// - `MEDLEY_SIM_FAIL_ALLOC`, `MEDLEY_SIM_FAIL_LAUNCH`: the n-th allocation, or launch, fails.
    ///
    /// # Errors
    /// When one is set and no number.
    pub fn from_environment() -> Result<Self> {
        let number = |name: &'static str| -> Result<Option<u64>> {
            let Some(text) = std::env::var_os(name) else { return Ok(None) };
            let text = text.to_string_lossy();
            let number = text.parse();
            number.map(Some).map_err(|_| Error::value(name, format!("expected a whole number, got `{text}`")))
        };
        let mut options = SimOptions::default();
        if let Some(sm) = number("MEDLEY_SIM_SM")? {
            let sm = u32::try_from(sm).unwrap_or(u32::MAX);
            options.compute_capability = (sm / 10, sm % 10);
        }
        if let Some(bytes) = number("MEDLEY_SIM_MEMORY")? {
            options.memory_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        options.fail_alloc = number("MEDLEY_SIM_FAIL_ALLOC")?;
        options.fail_launch = number("MEDLEY_SIM_FAIL_LAUNCH")?;
        Ok(options)
    }
}

/// A failed kernel, and whether a call has reported it.
#[derive(Debug, Clone)]
struct Failure {
    entry: String,
    message: String,
    reported: bool,
}

struct State {
    gpu: Gpu,
    allocations: u64,
    launches: u64,
    failure: Option<Failure>,
    modules: Vec<(String, Arc<Loaded>)>,
    functions: Vec<(Arc<Loaded>, String)>,
    streams: BTreeSet<u64>,
    events: BTreeMap<u64, Option<Instant>>,
    next_handle: u64,
    reports: BTreeMap<String, (u64, Counts)>,
}

/// The simulator behind the [`Driver`] trait.
pub struct SimDriver {
    info: DeviceInfo,
    options: SimOptions,
    state: Mutex<State>,
}

impl SimDriver {
    /// A device of its own.
    ///
    /// # Errors
    /// When no card has the compute capability.
    pub fn new(options: SimOptions) -> Result<Self> {
        let (major, minor) = options.compute_capability;
        let known = CAPABILITIES.iter().find(|(c, _, _)| *c == (major, minor)).copied();
        let Some((_, max_shared_per_block, multiprocessors)) = known else {
            let names: Vec<String> = CAPABILITIES.iter().map(|((a, b), _, _)| format!("{a}{b}")).collect();
            let message = format!("expected one of sm_{}, got sm_{major}{minor}", names.join(", sm_"));
            return Err(Error::value("simulator", message));
        };
        let mut config = GpuConfig {
            compute_capability: options.compute_capability,
            memory_bytes: options.memory_bytes as u64,
            checks: options.checks,
            counts: options.counts,
            multiprocessors,
            max_instructions: options.max_instructions,
            ..GpuConfig::default()
        };
        if options.threads > 0 {
            config.threads = options.threads;
        }
        let gpu = Gpu::new(config).map_err(|e| Error::value("simulator", e.to_string()))?;
        Ok(SimDriver {
            info: DeviceInfo {
                name: format!("simulated sm_{major}{minor}"),
                compute_capability: options.compute_capability,
                multiprocessors,
                total_memory: options.memory_bytes,
                max_shared_per_block,
                driver_version: options.driver_version,
                simulated: true,
            },
            options,
            state: Mutex::new(State {
                gpu,
                allocations: 0,
                launches: 0,
                failure: None,
                modules: vec![],
                functions: vec![],
                streams: BTreeSet::new(),
                events: BTreeMap::new(),
                next_handle: 1,
                reports: BTreeMap::new(),
            }),
        })
    }

    /// What each kernel did since [`SimDriver::reset_reports`], by name: launches and counts of all of
    /// them together. Counts are zero unless [`SimOptions::counts`].
    pub fn reports(&self) -> Vec<(String, u64, Counts)> {
        self.state().reports.iter().map(|(name, (n, counts))| (name.clone(), *n, counts.clone())).collect()
    }

    /// Starts the counts again.
    pub fn reset_reports(&self) {
        self.state().reports.clear();
    }

    /// Device allocations so far: what `fail_alloc` counts.
    pub fn allocations(&self) -> u64 {
        self.state().allocations
    }

    /// Launches so far: what `fail_launch` counts.
    pub fn launches(&self) -> u64 {
        self.state().launches
    }

    /// `(address, bytes)` of the allocations that were not freed.
    pub fn leaks(&self) -> Vec<(u64, usize)> {
        self.state().gpu.leaks().into_iter().map(|leak| (leak.address, leak.bytes as usize)).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state, unless a kernel has failed: then that, as every CUDA call reports it.
    fn working(&self, call: &'static str) -> DriverResult<MutexGuard<'_, State>> {
        let mut state = self.state();
        if let Some(failure) = &mut state.failure {
            failure.reported = true;
            let Failure { entry, message, .. } = failure.clone();
            return Err(DriverError::Fault { entry, message, call });
        }
        Ok(state)
    }
}

impl State {
    fn handle(&mut self) -> u64 {
        self.next_handle += 1;
        self.next_handle
    }

    fn on_stream(&self, call: &'static str, stream: Stream) -> DriverResult<()> {
        if self.streams.contains(&stream.0) {
            return Ok(());
        }
        Err(DriverError::Handle { call, what: "stream" })
    }
}

fn refused(call: &'static str, address: u64, bytes: usize, error: GpuError) -> DriverError {
    match error {
        GpuError::OutOfMemory { requested, free, total } => DriverError::OutOfMemory {
            requested: requested as usize,
            free: free as usize,
            total: total as usize,
        },
        other => DriverError::Address { call, address, bytes, message: other.to_string() },
    }
}

impl Driver for SimDriver {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn memory_info(&self) -> DriverResult<(usize, usize)> {
        let state = self.working("memory_info")?;
        let (used, total) = (state.gpu.used_bytes(), state.gpu.total_bytes());
        Ok((total.saturating_sub(used) as usize, total as usize))
    }

    fn alloc(&self, bytes: usize) -> DriverResult<u64> {
        let mut state = self.working("alloc")?;
        state.allocations += 1;
        if self.options.fail_alloc == Some(state.allocations) {
            let total = self.options.memory_bytes;
            return Err(DriverError::OutOfMemory { requested: bytes, free: 0, total });
        }
        state.gpu.alloc(bytes as u64).map_err(|e| refused("alloc", 0, bytes, e))
    }

    fn free(&self, address: u64) -> DriverResult<()> {
        // Memory is given back even after a failure, so that leaks can still be told from it.
        let freed = self.state().gpu.free(address).map_err(|e| refused("free", address, 0, e));
        drop(self.working("free")?);
        freed
    }

    fn alloc_host(&self, bytes: usize) -> DriverResult<HostPointer> {
        drop(self.working("alloc_host")?);
        let memory: Box<[u8]> = vec![0; bytes].into_boxed_slice();
        let refused = || DriverError::Api { call: "alloc_host", message: "no memory".into() };
        Ok(HostPointer(NonNull::new(Box::into_raw(memory).cast::<u8>()).ok_or_else(refused)?))
    }

    fn free_host(&self, pointer: HostPointer, bytes: usize) -> DriverResult<()> {
        let slice = std::ptr::slice_from_raw_parts_mut(pointer.0.as_ptr(), bytes);
        // SAFETY: `alloc_host` leaked a box of `bytes` bytes here; the caller frees it once.
        drop(unsafe { Box::from_raw(slice) });
        Ok(())
    }

    fn copy_to_device(&self, to: u64, source: &[u8], stream: Stream) -> DriverResult<()> {
        let state = self.working("copy_to_device")?;
        state.on_stream("copy_to_device", stream)?;
        state.gpu.write(to, source).map_err(|e| refused("copy_to_device", to, source.len(), e))
    }

    fn copy_to_host(&self, target: &mut [u8], from: u64, stream: Stream) -> DriverResult<()> {
        let state = self.working("copy_to_host")?;
        state.on_stream("copy_to_host", stream)?;
        let bytes = target.len();
        state.gpu.read(from, target).map_err(|e| refused("copy_to_host", from, bytes, e))
    }

    fn copy_on_device(&self, to: u64, from: u64, bytes: usize, stream: Stream) -> DriverResult<()> {
        let state = self.working("copy_on_device")?;
        state.on_stream("copy_on_device", stream)?;
        state.gpu.copy(from, to, bytes as u64).map_err(|e| refused("copy_on_device", to, bytes, e))
    }

    fn memset(&self, address: u64, value: u8, bytes: usize, stream: Stream) -> DriverResult<()> {
        let state = self.working("memset")?;
        state.on_stream("memset", stream)?;
        state.gpu.fill(address, bytes as u64, value).map_err(|e| refused("memset", address, bytes, e))
    }

    fn load_module(&self, name: &str, ptx: &str) -> DriverResult<Module> {
        let mut state = self.working("load_module")?;
        let file = name.rsplit('/').next().unwrap_or(name);
        let substitute = self.options.substitutes.iter().find(|(replaced, _)| replaced == file);
        let ptx = substitute.map_or(ptx, |(_, ptx)| ptx.as_str());
        Header::of(name, ptx)?.check(name, &self.info)?;
        let wrong = |message: String| DriverError::Ptx { module: name.to_string(), message };
        let module = ptxsim::Module::parse(ptx).map_err(|e| wrong(e.to_string()))?;
        let loaded = state.gpu.load(&module).map_err(|e| wrong(e.to_string()))?;
        state.modules.push((name.to_string(), Arc::new(loaded)));
        Ok(Module(state.modules.len() as u64 - 1))
    }

    fn function(&self, module: Module, entry: &str) -> DriverResult<Function> {
        let mut state = self.working("function")?;
        let Some((name, kernels)) = state.modules.get(module.0 as usize).cloned() else {
            return Err(DriverError::Handle { call: "function", what: "module" });
        };
        if kernels.entry(entry).is_none() {
            return Err(DriverError::NoEntry { module: name, entry: entry.to_string() });
        }
        state.functions.push((kernels, entry.to_string()));
        Ok(Function(state.functions.len() as u64 - 1))
    }

    fn launch(
        &self,
        function: Function,
        config: LaunchConfig,
        arguments: &[KernelArg],
        stream: Stream,
    ) -> DriverResult<()> {
        // A failure that nobody has met yet: the host cannot know of it, and the kernel does not run.
        if self.state().failure.as_ref().is_some_and(|failure| !failure.reported) {
            return Ok(());
        }
        let mut state = self.working("launch")?;
        state.on_stream("launch", stream)?;
        self.run(&mut state, function, config, arguments)
    }

    fn create_stream(&self) -> DriverResult<Stream> {
        let mut state = self.working("create_stream")?;
        let handle = state.handle();
        state.streams.insert(handle);
        Ok(Stream(handle))
    }

    fn destroy_stream(&self, stream: Stream) -> DriverResult<()> {
        if self.state().streams.remove(&stream.0) {
            return Ok(());
        }
        Err(DriverError::Handle { call: "destroy_stream", what: "stream" })
    }

    fn create_event(&self, _timed: bool) -> DriverResult<Event> {
        let mut state = self.working("create_event")?;
        let handle = state.handle();
        state.events.insert(handle, None);
        Ok(Event(handle))
    }

    fn destroy_event(&self, event: Event) -> DriverResult<()> {
        match self.state().events.remove(&event.0) {
            Some(_) => Ok(()),
            None => Err(DriverError::Handle { call: "destroy_event", what: "event" }),
        }
    }

    fn record(&self, event: Event, stream: Stream) -> DriverResult<()> {
        let mut state = self.working("record")?;
        state.on_stream("record", stream)?;
        match state.events.get_mut(&event.0) {
            Some(time) => *time = Some(Instant::now()),
            None => return Err(DriverError::Handle { call: "record", what: "event" }),
        }
        Ok(())
    }

    fn stream_wait(&self, stream: Stream, event: Event) -> DriverResult<()> {
        let state = self.working("stream_wait")?;
        state.on_stream("stream_wait", stream)?;
        if state.events.contains_key(&event.0) {
            return Ok(());
        }
        Err(DriverError::Handle { call: "stream_wait", what: "event" })
    }

    fn event_synchronize(&self, event: Event) -> DriverResult<()> {
        let state = self.working("event_synchronize")?;
        if state.events.contains_key(&event.0) {
            return Ok(());
        }
        Err(DriverError::Handle { call: "event_synchronize", what: "event" })
    }

    /// Wall time of the simulation, not of a card.
    fn elapsed(&self, start: Event, end: Event) -> DriverResult<f32> {
        let state = self.working("elapsed")?;
        let at = |event: Event| {
            let time = state.events.get(&event.0).copied().flatten();
            time.ok_or(DriverError::Handle { call: "elapsed", what: "recorded event" })
        };
        Ok(at(end)?.saturating_duration_since(at(start)?).as_secs_f32() * 1e3)
    }

    fn synchronize(&self, stream: Option<Stream>) -> DriverResult<()> {
        let state = self.working("synchronize")?;
        stream.map_or(Ok(()), |stream| state.on_stream("synchronize", stream))
    }
}

impl SimDriver {
    fn run(
        &self,
        state: &mut State,
        function: Function,
        config: LaunchConfig,
        arguments: &[KernelArg],
    ) -> DriverResult<()> {
        let Some((kernels, entry)) = state.functions.get(function.0 as usize).cloned() else {
            return Err(DriverError::Handle { call: "launch", what: "function" });
        };
        let LaunchConfig { grid, block, shared_bytes } = config;
        state.launches += 1;
        if self.options.fail_launch == Some(state.launches) {
            let message = format!("launch {} fails on demand", state.launches);
            state.failure = Some(Failure { entry, message, reported: false });
            return Ok(());
        }
        let block_of_arguments = arguments::pack(arguments);
        let launch = Launch { grid, block, shared_bytes };
        match state.gpu.launch(&kernels, &entry, launch, &block_of_arguments) {
            Ok(counts) => {
                let report = state.reports.entry(entry).or_default();
                report.0 += 1;
                report.1.merge(&counts);
            }
            Err(fault) if fault.kind == FaultKind::InvalidLaunch => {
                state.launches -= 1;
                return Err(DriverError::Launch { entry, message: fault.message });
            }
            Err(fault) => {
                state.failure = Some(Failure { entry, message: fault.to_string(), reported: false });
            }
        }
        Ok(())
    }
}
