//! A device for tests: typed uploads, downloads and launches.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use ptxsim::{Fault, Gpu, GpuConfig, Launch, Loaded, Module};

/// A value that has a fixed little-endian layout.
pub trait Plain: Copy {
    const SIZE: usize;
    fn put(self, out: &mut Vec<u8>);
    fn get(bytes: &[u8]) -> Self;
}

macro_rules! plain {
    ($($t:ty)*) => {$(
        impl Plain for $t {
            const SIZE: usize = size_of::<$t>();
            fn put(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().unwrap())
            }
        }
        impl From<$t> for Arg {
            fn from(value: $t) -> Self {
                let mut bytes = Vec::new();
                value.put(&mut bytes);
                Arg(bytes)
            }
        }
    )*};
}

plain! { u8 u16 u32 u64 i32 i64 f32 f64 }

/// One launch argument: its bytes.
pub struct Arg(Vec<u8>);

impl From<Vec<u8>> for Arg {
    fn from(bytes: Vec<u8>) -> Self {
        Arg(bytes)
    }
}

pub fn bytes_of<T: Plain>(values: &[T]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|v| v.put(&mut out));
    out
}

pub struct Device {
    pub gpu: Gpu,
    pub module: Module,
    pub loaded: Loaded,
}

impl Device {
    pub fn basic() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut GpuConfig)) -> Self {
        Self::new(include_str!("../fixtures/basic.ptx"), change)
    }

    pub fn new(ptx: &str, change: impl FnOnce(&mut GpuConfig)) -> Self {
        let mut config = GpuConfig { threads: 2, max_instructions: Some(5_000_000), ..GpuConfig::default() };
        change(&mut config);
        let mut gpu = Gpu::new(config).unwrap();
        let module = Module::parse(ptx).unwrap_or_else(|e| panic!("{e}"));
        let loaded = gpu.load(&module).unwrap();
        Self { gpu, module, loaded }
    }

    /// A kernel `k` with `body` and parameters `p0 p1 p2`, pointers all.
    pub fn kernel(body: &str, change: impl FnOnce(&mut GpuConfig)) -> Self {
        Self::new(&kernel_text(body), change)
    }

    pub fn alloc(&mut self, bytes: u64) -> u64 {
        self.gpu.alloc(bytes).unwrap()
    }

    pub fn upload<T: Plain>(&mut self, values: &[T]) -> u64 {
        let at = self.alloc((values.len() * T::SIZE) as u64);
        self.gpu.write(at, &bytes_of(values)).unwrap();
        at
    }

    pub fn download<T: Plain>(&self, at: u64, n: usize) -> Vec<T> {
        let mut bytes = vec![0; n * T::SIZE];
        self.gpu.read(at, &mut bytes).unwrap();
        bytes.chunks_exact(T::SIZE).map(T::get).collect()
    }

    pub fn run(
        &mut self,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        shared_bytes: u32,
        args: &[Arg],
    ) -> Result<ptxsim::count::Counts, Fault> {
        let mut packed = Vec::new();
        for (arg, param) in args.iter().zip(&self.module.entry(entry).unwrap().params) {
            assert_eq!(arg.0.len(), param.bytes as usize, "size of {}", param.name);
            packed.resize(param.offset as usize, 0);
            packed.extend_from_slice(&arg.0);
        }
        self.gpu.launch(&self.loaded, entry, Launch { grid, block, shared_bytes }, &packed)
    }
}

/// PTX of a kernel `k` with three pointer parameters, loaded into %p0, %p1, %p2.
pub fn kernel_text(body: &str) -> String {
    format!(
        ".version 8.4\n.target sm_80\n.address_size 64\n\
         .visible .entry k(.param .u64 a0, .param .u64 a1, .param .u64 a2)\n{{\n\
         .reg .pred %p<16>;\n.reg .b16 %h<16>;\n.reg .b32 %r<64>;\n.reg .f32 %f<32>;\n.reg .b64 %d<64>;\n\
         .reg .f64 %g<8>;\n.reg .b64 %a<3>;\n\
         ld.param.u64 %a0, [a0];\nld.param.u64 %a1, [a1];\nld.param.u64 %a2, [a2];\n\
         mov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}
