//! Speed of the simulator in lane-instructions a second, with every check on: an elementwise loop, a
//! reduction through shared memory and a tiled GEMM, all compiled by NVRTC (`tests/fixtures/basic.cu`).
#![allow(missing_docs, clippy::unwrap_used)]

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

fn speed(c: &mut Criterion) {
    for case in cases() {
        let counted = GpuConfig { threads: 1, counts: true, ..GpuConfig::default() };
        let (mut gpu, loaded, args) = prepare(&case, counted);
        let counts = gpu.launch(&loaded, case.entry, case.launch, &args).unwrap();
        let lanes: u64 = counts.classes.values().map(|c| c.lanes).sum();
        let mut group = c.benchmark_group(case.name);
        group.throughput(Throughput::Elements(lanes)).sample_size(10);
        for (name, threads, checks) in [
            ("checked", 1, Checks::ALL),
            ("checked-2-threads", 2, Checks::ALL),
            ("unchecked", 1, Checks::NONE),
        ] {
            let config = GpuConfig { threads, checks, ..GpuConfig::default() };
            let (mut gpu, loaded, args) = prepare(&case, config);
            group.bench_function(name, |b| {
                b.iter(|| gpu.launch(&loaded, case.entry, case.launch, &args).unwrap());
            });
        }
        group.finish();
    }
}

criterion_group!(benches, speed);
criterion_main!(benches);
