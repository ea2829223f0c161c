//! Stands in for `ptxsim::Gpu` until that crate runs kernels: memory only.
#![allow(missing_docs)]
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, Default)]
pub struct Checks;
#[derive(Debug, Clone, Default)]
pub struct Counts;
impl Counts {
    pub fn merge(&mut self, _other: &Counts) {}
}
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    #[error("out of memory")]
    OutOfMemory { requested: u64, free: u64, total: u64 },
    #[error("0x{0:x} is not the start of a live allocation")]
    NotAllocated(u64),
}
#[derive(Debug, Default)]
pub struct GpuConfig {
    pub compute_capability: (u32, u32),
    pub memory_bytes: u64,
    pub threads: usize,
    pub checks: Checks,
    pub counts: bool,
    pub other: (),
}
pub struct Launch {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared_bytes: u32,
}
pub struct Loaded;
pub struct Entry {
    pub shared_bytes: u32,
}
pub struct Module;
impl Module {
    pub fn parse(_: &str) -> Result<Module, GpuError> {
        Ok(Module)
    }
    pub fn entry(&self, _: &str) -> Option<Entry> {
        Some(Entry { shared_bytes: 0 })
    }
}
pub struct Leak {
    pub address: u64,
    pub bytes: u64,
}
pub struct Gpu {
    memory: BTreeMap<u64, Vec<u8>>,
    next: u64,
    total: u64,
}
impl Gpu {
    pub fn new(config: GpuConfig) -> Self {
        Gpu { memory: BTreeMap::new(), next: 0x7000_0000_0000, total: config.memory_bytes }
    }
    pub fn alloc(&mut self, bytes: u64) -> Result<u64, GpuError> {
        let used: u64 = self.memory.values().map(|m| m.len() as u64).sum();
        if used + bytes > self.total {
            return Err(GpuError::OutOfMemory {
                requested: bytes,
                free: self.total - used,
                total: self.total,
            });
        }
        let at = self.next;
        self.next += bytes.next_multiple_of(256) + 256;
        self.memory.insert(at, vec![0xcc; bytes as usize]);
        Ok(at)
    }
    pub fn free(&mut self, at: u64) -> Result<(), GpuError> {
        self.memory.remove(&at).map(|_| ()).ok_or(GpuError::NotAllocated(at))
    }
    fn slice(&mut self, at: u64, bytes: usize) -> Result<&mut [u8], GpuError> {
        let (start, memory) = self.memory.range_mut(..=at).next_back().ok_or(GpuError::NotAllocated(at))?;
        let from = (at - start) as usize;
        memory.get_mut(from..from + bytes).ok_or(GpuError::NotAllocated(at))
    }
    pub fn write(&mut self, at: u64, data: &[u8]) -> Result<(), GpuError> {
        self.slice(at, data.len()).map(|m| m.copy_from_slice(data))
    }
    pub fn read(&mut self, at: u64, data: &mut [u8]) -> Result<(), GpuError> {
        self.slice(at, data.len()).map(|m| data.copy_from_slice(m))
    }
    pub fn fill(&mut self, at: u64, bytes: u64, byte: u8) -> Result<(), GpuError> {
        self.slice(at, bytes as usize).map(|m| m.fill(byte))
    }
    pub fn leaks(&self) -> Vec<Leak> {
        self.memory.iter().map(|(a, m)| Leak { address: *a, bytes: m.len() as u64 }).collect()
    }
    pub fn load(&mut self, _: &Module) -> Result<Loaded, GpuError> {
        Ok(Loaded)
    }
    pub fn launch(&mut self, _: &Loaded, entry: &str, _: Launch, _: &[u8]) -> Result<Counts, String> {
        Err(format!("{entry}: this build cannot simulate kernels yet"))
    }
}
