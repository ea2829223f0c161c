//! The simulated device: memory, modules, launches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::count::Counts;
use crate::error::{Fault, FaultKind, GpuError};
use crate::exec::context::{ConstantRow, Context};
use crate::exec::grid;
use crate::memory::global::Global;
use crate::module::{Entry, Module};
use crate::parse::ast::{Initial, Literal, Space};
use crate::program::{Constant, Kind};

/// Which checks run. All are on by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Global accesses outside every allocation fault; without it they read zeros and write nothing.
    /// Accesses outside shared, local and parameter memory always fault.
    pub bounds: bool,
    /// Global accesses whose address is not a multiple of their size fault; without it they work byte by
    /// byte. Atomics and accesses of shared and local memory always fault.
    pub alignment: bool,
    /// Reads of global and shared memory that nothing has written fault.
    pub uninitialised: bool,
    /// Unordered accesses of different warps to the same shared memory fault.
    pub races: bool,
    /// Threads that exit without reaching a barrier others wait at, and member masks that name exited
    /// lanes, fault; without it threads that are gone no longer hold a barrier up.
    pub barriers: bool,
    /// Use of a `cp.async`'s target before the wait faults.
    pub async_copies: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Self = Self {
        bounds: true,
        alignment: true,
        uninitialised: true,
        races: true,
        barriers: true,
        async_copies: true,
    };
    /// No check but those that keep the simulator itself sound.
    pub const NONE: Self = Self {
        bounds: false,
        alignment: false,
        uninitialised: false,
        races: false,
        barriers: false,
        async_copies: false,
    };
}

impl Default for Checks {
    fn default() -> Self {
        Self::ALL
    }
}

/// What device to simulate, and how.
#[derive(Clone, Debug)]
pub struct GpuConfig {
    /// Claimed compute capability.
    pub compute_capability: (u32, u32),
    /// Device memory in bytes.
    pub memory_bytes: u64,
    /// CPU threads that run blocks.
    pub threads: usize,
    /// Checks that run.
    pub checks: Checks,
    /// Whether launches count.
    pub counts: bool,
    /// Claimed number of multiprocessors (`%nsmid`).
    pub multiprocessors: u32,
    /// Newest PTX version the claimed driver accepts.
    pub ptx_version: (u32, u32),
    /// Warp instructions a launch may execute before it faults as an endless loop.
    pub max_instructions: Option<u64>,
}

impl Default for GpuConfig {
    /// An sm_80 device with 16 GiB, all checks, no counts, a thread a CPU core, PTX up to 8.8.
    fn default() -> Self {
        Self {
            compute_capability: (8, 0),
            memory_bytes: 16 << 30,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            checks: Checks::ALL,
            counts: false,
            multiprocessors: 108,
            ptx_version: (8, 8),
            max_instructions: None,
        }
    }
}

/// Dimensions of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub shared_bytes: u32,
}

/// A live allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A module on a device: its global and constant variables have addresses.
#[derive(Clone)]
pub struct Loaded {
    entries: HashMap<String, Arc<Entry>>,
    symbols: Arc<HashMap<String, u64>>,
}

impl Loaded {
    /// Address of a module-level variable.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.get(name).copied()
    }

    /// The kernel called `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name).map(Arc::as_ref)
    }
}

/// A simulated device.
pub struct Gpu {
    config: GpuConfig,
    memory: Global,
    pool: rayon::ThreadPool,
    /// Allocations of modules, which are not leaks.
    owned: Vec<u64>,
    launches: u64,
}

/// Dynamic and static shared memory a block may have on compute capability `cc` (CUDA C++ Programming
/// Guide, table "Technical Specifications per Compute Capability"), in bytes.
pub fn shared_limit(cc: (u32, u32)) -> u32 {
    match cc {
        (7, 0 | 2) => 96 << 10,
        (7, _) => 64 << 10,
        (8, 0 | 7) => 163 << 10,
        (8, _) => 99 << 10,
        (9, _) | (10, _) => 227 << 10,
        (12, _) => 99 << 10,
        _ => 48 << 10,
    }
}

impl Gpu {
    /// A device with no allocations.
    ///
    /// # Errors
    /// When the worker threads cannot be started.
    pub fn new(config: GpuConfig) -> Result<Self, GpuError> {
        let threads = config.threads.max(1);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("ptxsim-{i}"))
            .build()
            .map_err(|e| GpuError::Unsupported(format!("cannot start {threads} threads: {e}")))?;
        let memory = Global::new(config.memory_bytes);
        Ok(Self { config, memory, pool, owned: Vec::new(), launches: 0 })
    }

    /// The configuration the device was made with.
    pub fn config(&self) -> &GpuConfig {
        &self.config
    }

    /// Bytes in use, allocation granularity of 256 included.
    pub fn used_bytes(&self) -> u64 {
        self.memory.used()
    }

    /// Bytes of device memory.
    pub fn total_bytes(&self) -> u64 {
        self.memory.total()
    }

    /// Allocates `bytes` bytes of memory that counts as unwritten; the address is a multiple of 256.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, GpuError> {
        self.memory.alloc(bytes)
    }

    /// Frees the allocation that begins at `address`.
    ///
    /// # Errors
    /// [`GpuError::NotAllocated`].
    pub fn free(&mut self, address: u64) -> Result<(), GpuError> {
        self.memory.free(address)
    }

    /// Copies `data` to the device.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn write(&self, address: u64, data: &[u8]) -> Result<(), GpuError> {
        self.memory.write(address, data)
    }

    /// Copies from the device. Bytes nothing has written read as zero.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), GpuError> {
        self.memory.read(address, out)
    }

    /// Sets `bytes` bytes to `byte`.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn fill(&self, address: u64, bytes: u64, byte: u8) -> Result<(), GpuError> {
        self.memory.fill(address, bytes, byte)
    }

    /// Copies within the device; the bytes count as written.
    ///
    /// # Errors
    /// [`GpuError::OutOfBounds`].
    pub fn copy(&self, from: u64, to: u64, bytes: u64) -> Result<(), GpuError> {
        let mut data = vec![0; bytes as usize];
        self.memory.read(from, &mut data)?;
        self.memory.write(to, &data)
    }

    /// Declares the whole allocation at `address` unwritten again, as fresh memory from a pool is.
    ///
    /// # Errors
    /// [`GpuError::NotAllocated`].
    pub fn forget_contents(&self, address: u64) -> Result<(), GpuError> {
        self.memory.forget(address)
    }

    /// Allocations not freed, those of modules apart.
    pub fn leaks(&self) -> Vec<Leak> {
        let live = self.memory.snapshot();
        let owned = |base: &u64| self.owned.contains(base);
        live.iter().filter(|a| !owned(&a.base)).map(|a| Leak { address: a.base, bytes: a.bytes }).collect()
    }

    /// Gives the module's variables addresses and initial values.
    ///
    /// # Errors
    /// [`GpuError::Unsupported`] for a `.target` above the claimed compute capability or a `.version`
    /// above the claimed driver's; [`GpuError::OutOfMemory`].
    pub fn load(&mut self, module: &Module) -> Result<Loaded, GpuError> {
        self.accepts(module)?;
        let mut symbols = HashMap::new();
        for v in &module.file.variables {
            if matches!(v.space, Space::Global | Space::Const) {
                let address = self.memory.alloc(v.bytes)?;
                self.owned.push(address);
                // Variables without an initial value are zero (PTX ISA §5.4.4).
                self.memory.fill(address, v.bytes, 0)?;
                symbols.insert(v.name.clone(), address);
            }
        }
        for function in &module.file.functions {
            if let Some(address) = module.file.function_address(&function.name) {
                symbols.insert(function.name.clone(), address);
            }
        }
        for v in &module.file.variables {
            let Some(&address) = symbols.get(&v.name) else { continue };
            let data = initial_bytes(&v.initial, v.ty.bytes(), &symbols)
                .map_err(|m| GpuError::Parse(module.source.error(v.line, m)))?;
            self.memory.write(address, &data)?;
            if v.space == Space::Const {
                self.memory.make_read_only(address)?;
            }
        }
        let entries = module.shared_entries().iter().map(|e| (e.name.clone(), e.clone())).collect();
        Ok(Loaded { entries, symbols: Arc::new(symbols) })
    }

    fn accepts(&self, module: &Module) -> Result<(), GpuError> {
        let (major, minor) = self.config.compute_capability;
        let digits = module.target.strip_prefix("sm_").unwrap_or(&module.target);
        let plain = digits.trim_end_matches(['a', 'f']);
        let wanted: u32 = plain.parse().map_err(|_| {
            GpuError::Unsupported(format!("target {} is not a known sm version", module.target))
        })?;
        let have = 10 * major + minor;
        if wanted > have || plain != digits && wanted != have {
            return Err(GpuError::Unsupported(format!(
                "the PTX is for {}, the device is sm_{have}: compile it for sm_{have} or older",
                module.target
            )));
        }
        if module.version > self.config.ptx_version {
            let ((a, b), (c, d)) = (module.version, self.config.ptx_version);
            return Err(GpuError::Unsupported(format!(
                "the PTX is of version {a}.{b}, the driver knows up to {c}.{d}: update the driver or compile with an older toolkit"
            )));
        }
        Ok(())
    }

    /// Runs kernel `entry`. `arguments` is the packed parameter block, each value at its natural alignment.
    ///
    /// # Errors
    /// A [`Fault`] for a launch that is refused or the first mistake a check finds.
    pub fn launch(
        &mut self,
        loaded: &Loaded,
        entry: &str,
        launch: Launch,
        arguments: &[u8],
    ) -> Result<Counts, Fault> {
        self.launches += 1;
        let refuse = |message: String| Fault {
            kind: FaultKind::InvalidLaunch,
            entry: entry.to_string(),
            line: 0,
            text: String::new(),
            block: [0; 3],
            thread: [0; 3],
            message,
        };
        let Some(kernel) = loaded.entries.get(entry) else {
            let mut names: Vec<&str> = loaded.entries.keys().map(String::as_str).collect();
            names.sort_unstable();
            return Err(refuse(format!("no such entry; the module has {}", names.join(", "))));
        };
        self.check_launch(kernel, &launch, arguments).map_err(refuse)?;
        let context = self.context(loaded, kernel, &launch, arguments).map_err(refuse)?;
        let result = grid::run(&context, &self.pool, self.config.threads);
        for allocation in &context.allocations {
            allocation.settle();
        }
        let accumulated = result.map_err(|fault| *fault)?;
        if !self.config.counts {
            return Ok(Counts::default());
        }
        let code = kernel.program.code.iter().map(|i| {
            let target = match i.kind {
                Kind::Branch(target) => Some(target),
                _ => None,
            };
            (i.line, i.class, target)
        });
        Ok(accumulated.finish(entry, code))
    }

    fn check_launch(&self, entry: &Entry, launch: &Launch, arguments: &[u8]) -> Result<(), String> {
        let [bx, by, bz] = launch.block;
        let [gx, gy, gz] = launch.grid;
        let threads = u64::from(bx) * u64::from(by) * u64::from(bz);
        if threads == 0 {
            return Err(format!("block {bx}×{by}×{bz} has no threads"));
        }
        if [gx, gy, gz].contains(&0) {
            return Err(format!("grid {gx}×{gy}×{gz} has no blocks"));
        }
        if bx > 1024 || by > 1024 || bz > 64 || threads > 1024 {
            return Err(format!(
                "block {bx}×{by}×{bz} has {threads} threads: at most 1024 (64 in z) are possible"
            ));
        }
        if gx > i32::MAX as u32 || gy > 65535 || gz > 65535 {
            return Err(format!("grid {gx}×{gy}×{gz}: y and z are at most 65535"));
        }
        if let Some(max) = entry.max_threads.filter(|&max| threads > u64::from(max)) {
            return Err(format!("{threads} threads a block: the kernel's .maxntid allows {max}"));
        }
        if let Some([x, y, z]) = entry.required_threads.filter(|&r| r != launch.block) {
            return Err(format!("block {bx}×{by}×{bz}: the kernel's .reqntid wants {x}×{y}×{z}"));
        }
        let expected = entry.param_bytes();
        if arguments.len() != expected {
            let list: Vec<String> =
                entry.params.iter().map(|p| format!("{} ({} bytes)", p.name, p.bytes)).collect();
            return Err(format!(
                "the parameter block has {} bytes, the kernel's parameters take {expected}: {}",
                arguments.len(),
                list.join(", ")
            ));
        }
        let shared = u64::from(entry.program.dynamic_shared) + u64::from(launch.shared_bytes);
        let (major, minor) = self.config.compute_capability;
        let limit = shared_limit((major, minor));
        if shared > u64::from(limit) {
            return Err(format!(
                "{} bytes of static and {} of dynamic shared memory: a block has at most {limit} on sm_{major}{minor}",
                entry.shared_bytes, launch.shared_bytes
            ));
        }
        Ok(())
    }

    fn context<'a>(
        &self,
        loaded: &Loaded,
        entry: &'a Entry,
        launch: &Launch,
        arguments: &[u8],
    ) -> Result<Context<'a>, String> {
        let resolve = |constant: &Constant| match constant {
            Constant::Bits(bits) => Ok(ConstantRow::Same(*bits)),
            Constant::Special(special) => Ok(ConstantRow::Special(*special)),
            Constant::Symbol(name, offset) => loaded
                .symbols
                .get(name)
                .map(|a| ConstantRow::Same(a.wrapping_add(*offset as u64)))
                .ok_or_else(|| format!("variable {name} is not defined in this module")),
            Constant::DynamicShared(_) => Err("unresolved shared variable".to_string()),
        };
        let program = &entry.program;
        let constants64: Vec<_> = program.constants64.iter().map(resolve).collect::<Result<_, _>>()?;
        let constants32 = program
            .constants32
            .iter()
            .map(|c| {
                Ok(match resolve(c)? {
                    ConstantRow::Same(bits) => ConstantRow::Same(bits as u32),
                    ConstantRow::Special(s) => ConstantRow::Special(s),
                })
            })
            .collect::<Result<_, String>>()?;
        let threads = launch.block.iter().product::<u32>();
        Ok(Context {
            program,
            entry: &entry.name,
            allocations: self.memory.snapshot(),
            freed: self.memory.freed().to_vec(),
            constants32,
            constants64,
            arguments: arguments.to_vec(),
            grid: launch.grid,
            block: launch.block,
            threads,
            warps: threads.div_ceil(32) as usize,
            shared_bytes: program.dynamic_shared + launch.shared_bytes,
            dynamic_shared_bytes: launch.shared_bytes,
            checks: self.config.checks,
            counts: self.config.counts,
            multiprocessors: self.config.multiprocessors,
            grid_id: self.launches,
            executed: AtomicU64::new(0),
            max_instructions: self.config.max_instructions,
            stop: AtomicBool::new(false),
            wide_atomics: std::array::from_fn(|_| Mutex::new(())),
        })
    }
}

/// The bytes of an initialiser whose elements take `size` bytes.
fn initial_bytes(initial: &[Initial], size: u32, symbols: &HashMap<String, u64>) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for value in initial {
        let bits = match value {
            Initial::Literal(Literal::Int(i)) => *i,
            Initial::Literal(Literal::F32(b)) if size == 8 => f64::from(f32::from_bits(*b)).to_bits(),
            Initial::Literal(Literal::F32(b)) => u64::from(*b),
            Initial::Literal(Literal::F64(b)) if size == 4 => {
                u64::from((f64::from_bits(*b) as f32).to_bits())
            }
            Initial::Literal(Literal::F64(b)) => *b,
            Initial::Symbol(name, offset) => symbols
                .get(name)
                .map(|a| a.wrapping_add(*offset as u64))
                .ok_or_else(|| format!("initial value `{name}` is not a global variable"))?,
        };
        out.extend_from_slice(&bits.to_le_bytes()[..size.min(8) as usize]);
    }
    Ok(out)
}
