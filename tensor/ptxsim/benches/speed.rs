//! Speed of the simulator in lane-instructions a second, with every check on: an elementwise loop, a
//! reduction through shared memory and a tiled GEMM, all compiled by NVRTC (`tests/fixtures/basic.cu`).
//!
//! One thread is measured in its own CPU time, which other load on the machine leaves alone; set
//! `WALL=2` to measure that many threads by the clock instead.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ptxsim::{Checks, Gpu, GpuConfig, Launch, Loaded, Module};

const PTX: &str = include_str!("../tests/fixtures/basic.ptx");

struct Case {
    name: &'static str,
    entry: &'static str,
    launch: Launch,
    /// Floats of each pointer argument, then the other arguments' bytes.
    buffers: Vec<usize>,
    rest: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let ints = |v: &[i32]| v.iter().flat_map(|i| i.to_le_bytes()).collect::<Vec<u8>>();
    let mut saxpy = 1.5f32.to_le_bytes().to_vec();
    saxpy.extend(ints(&[1 << 18]));
    vec![
        Case {
            name: "elementwise",
            entry: "saxpy",
            launch: Launch { grid: [32, 1, 1], block: [256, 1, 1], shared_bytes: 0 },
            buffers: vec![1 << 18, 1 << 18],
            rest: saxpy,
        },
        Case {
            name: "shared",
            entry: "row_sum",
            launch: Launch { grid: [256, 1, 1], block: [128, 1, 1], shared_bytes: 0 },
            buffers: vec![256 * 1000, 256],
            rest: ints(&[1000]),
        },
        Case {
            name: "gemm",
            entry: "tiled_gemm",
            launch: Launch { grid: [8, 8, 1], block: [16, 16, 1], shared_bytes: 0 },
            buffers: vec![128 * 128; 3],
            rest: ints(&[128, 128, 128]),
        },
    ]
}

fn prepare(case: &Case, config: GpuConfig) -> (Gpu, Loaded, Vec<u8>) {
    let mut gpu = Gpu::new(config).unwrap();
    let loaded = gpu.load(&Module::parse(PTX).unwrap()).unwrap();
    let mut args = Vec::new();
    for &n in &case.buffers {
        let address = gpu.alloc(4 * n as u64).unwrap();
        gpu.fill(address, 4 * n as u64, 0).unwrap();
        args.extend(address.to_le_bytes());
    }
    args.extend(&case.rest);
    (gpu, loaded, args)
}

/// CPU time of the calling thread in nanoseconds, as the Linux scheduler counts it.
struct CpuTime;

fn cpu_nanoseconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

impl Measurement for CpuTime {
    type Intermediate = f64;
    type Value = f64;

    fn start(&self) -> f64 {
        cpu_nanoseconds()
    }

    fn end(&self, start: f64) -> f64 {
        cpu_nanoseconds() - start
    }

    fn add(&self, a: &f64, b: &f64) -> f64 {
        a + b
    }

    fn zero(&self) -> f64 {
        0.0
    }

    fn to_f64(&self, value: &f64) -> f64 {
        *value
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

fn lanes(case: &Case) -> u64 {
    let counted = GpuConfig { threads: 1, counts: true, ..GpuConfig::default() };
    let (mut gpu, loaded, args) = prepare(case, counted);
    let counts = gpu.launch(&loaded, case.entry, case.launch, &args).unwrap();
    counts.classes.values().map(|c| c.lanes).sum()
}

fn measure<M: Measurement>(c: &mut Criterion<M>, threads: usize) {
    for case in cases() {
        let mut group = c.benchmark_group(case.name);
        group.throughput(Throughput::Elements(lanes(&case))).sample_size(10);
        for (name, checks) in [("checked", Checks::ALL), ("unchecked", Checks::NONE)] {
            let config = GpuConfig { threads, checks, ..GpuConfig::default() };
            let (mut gpu, loaded, args) = prepare(&case, config);
            group.bench_function(format!("{name}-{threads}"), |b| {
                b.iter(|| gpu.launch(&loaded, case.entry, case.launch, &args).unwrap());
            });
        }
        group.finish();
    }
}

fn one_thread(c: &mut Criterion<CpuTime>) {
    if std::env::var_os("WALL").is_none() {
        measure(c, 1);
    }
}

fn by_the_clock(c: &mut Criterion) {
    if let Some(threads) = std::env::var("WALL").ok().and_then(|t| t.parse().ok()) {
        measure(c, threads);
    }
}

criterion_group!(name = cpu; config = Criterion::default().with_measurement(CpuTime); targets = one_thread);
criterion_group!(clock, by_the_clock);
criterion_main!(cpu, clock);
