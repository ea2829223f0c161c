//! The kernels of a CUDA card at Llama 7B's shapes, timed by events in the compute stream. Without a card it says so
//! and does nothing.
//!
//! Criterion's throughput is in floating-point operations, so "Gelem/s" reads GFLOP/s; memory-bound kernels are in
//! bytes. One family: `cargo bench --bench gpu -- gemm`. Peaks, the simulator's predictions and peers stand beside
//! these in `gpu-verify`, which times the same things.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../cli/gpu_verify/bench.rs"]
#[allow(dead_code)]
mod bench;
// Its tests run with gpu-verify; here they leave an import without a use.
#[path = "../cli/gpu_verify/measure.rs"]
#[allow(dead_code, unused_imports)]
mod measure;

use std::time::Duration;

use bench::{Size, benches};
use criterion::{Criterion, Throughput};
use measure::Clock;
use medley_tensor::device::Device;

fn main() {
    let device = match Device::open("cuda") {
        Ok(device) => device,
        Err(error) => {
            println!("gpu benches: skipped, there is no card to run on: {error}");
            return;
        }
    };
    let Device::Cuda(card) = &device else { unreachable!("`cuda` is a card") };
    let clock = Clock::new(card, 0.0).unwrap();
    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    for bench in benches() {
        let work = bench.work(Size::Full);
        let mut group = criterion.benchmark_group(bench.family);
        group.throughput(match work.flops {
            0.0 => Throughput::Bytes(work.bytes as u64),
            flops => Throughput::Elements(flops as u64),
        });
        // The inputs are made when the first of a bench's samples is taken: a filtered run makes no others.
        let mut runner = None;
        group.bench_function(&bench.name, |b| {
            let pass = runner.get_or_insert_with(|| bench.build(&device, Size::Full).unwrap());
            b.iter_custom(|passes| Duration::from_secs_f64(clock.total(passes, &mut *pass).unwrap() / 1e3));
        });
        group.finish();
        drop(runner);
        card.trim().unwrap();
    }
    criterion.final_summary();
}
