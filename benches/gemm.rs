//! The CPU matrix engine at the shapes of training and decoding, beside the `gemm` crate.
//!
//! Criterion's throughput is in multiply-adds counted as two operations, so "Gelem/s" reads GFLOP/s. After
//! each case a line gives the fastest pass, its share of the FMA peak (measured here, on as many threads, just
//! before) and the rate at which B was read: products of few rows are bound by that.
//!
//! Run one group: `cargo bench --bench gemm -- train`. Threads: `RAYON_NUM_THREADS`.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use half::bf16;
use medley_kernels::cpu::gemm::{MatData, MatMut, MatRef, gemm};
use medley_tensor::quant::{AbsmaxRef, Nf4Ref};

/// `y = x·Wᵀ` with `x` [m, k] in f32 and `W` [n, k] in some type; both are filled with small numbers.
struct Case {
    m: usize,
    n: usize,
    k: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    w_bf16: Vec<bf16>,
    codes: Vec<u8>,
    absmax: Vec<f32>,
}

impl Case {
    fn new((m, n, k): (usize, usize, usize)) -> Case {
        let fill =
            |len: usize| (0..len).map(|i| (i * 7919 % 1009) as f32 / 504.5 - 1.0).collect::<Vec<f32>>();
        let w = fill(n * k);
        Case {
            m,
            n,
            k,
            x: fill(m * k),
            w_bf16: w.iter().map(|&value| bf16::from_f32(value)).collect(),
            codes: (0..(n * k).div_ceil(2)).map(|i| (i * 31) as u8).collect(),
            absmax: vec![0.5; (n * k).div_ceil(64)],
            w,
        }
    }

    fn flops(&self) -> u64 {
        2 * (self.m * self.n * self.k) as u64
    }

    /// The weight's types: name, operand, bytes.
    fn weights(&self) -> Vec<(&'static str, MatData<'_>, usize)> {
        let absmax = AbsmaxRef::F32(&self.absmax);
        let nf4 = Nf4Ref { codes: &self.codes, absmax, rows: self.n, cols: self.k };
        vec![
            ("f32", MatData::F32(&self.w), 4 * self.w.len()),
            ("bf16", MatData::Bf16(&self.w_bf16), 2 * self.w.len()),
            ("nf4", MatData::Nf4(nf4), self.codes.len() + 4 * self.absmax.len()),
        ]
    }
}

/// Runs `pass` under criterion, then prints its fastest pass against `peak` operations a second.
fn measure(
    c: &mut Criterion,
    group: &str,
    name: &str,
    case: &Case,
    bytes: usize,
    peak: f64,
    mut pass: impl FnMut(),
) {
    let label = format!("{}x{}x{}", case.m, case.n, case.k);
    let mut fastest = Duration::MAX;
    let mut group_of = c.benchmark_group(group);
    group_of.throughput(Throughput::Elements(case.flops()));
    group_of
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group_of.bench_function(BenchmarkId::new(name, &label), |bencher| {
        bencher.iter_custom(|passes| {
            let mut total = Duration::ZERO;
            for _ in 0..passes {
                let start = Instant::now();
                pass();
                let time = start.elapsed();
                fastest = fastest.min(time);
                total += time;
            }
            total
        });
    });
    group_of.finish();
    if fastest < Duration::MAX {
        let rate = case.flops() as f64 / fastest.as_secs_f64();
        println!(
            "{group:7} {label:>16} {name:10} {:9.3} ms {:7.1} GFLOP/s {:5.1} % of peak, B at {:5.1} GB/s",
            fastest.as_secs_f64() * 1e3,
            rate / 1e9,
            100.0 * rate / peak,
            bytes as f64 / fastest.as_secs_f64() / 1e9,
        );
    }
}

fn group(
    c: &mut Criterion,
    name: &str,
    shapes: &[(usize, usize, usize)],
    peak: f64,
) -> Result<(), Box<dyn Error>> {
    for &shape in shapes {
        let case = Case::new(shape);
        let (m, n, k) = shape;
        let x = MatRef::row_major(MatData::F32(&case.x), m, k)?;
        let mut y = vec![0.0f32; m * n];
        for (dtype, weight, bytes) in case.weights() {
            let w = MatRef::row_major(weight, n, k)?.t();
            let mut failure = None;
            measure(c, name, dtype, &case, bytes, peak, || {
                let result = MatMut::row_major(&mut y, m, n).and_then(|mut y| gemm(1.0, x, w, 0.0, &mut y));
                failure = result.err();
            });
            if let Some(failure) = failure {
                return Err(failure.into());
            }
        }
        measure(c, name, "gemm_crate", &case, 4 * case.w.len(), peak, || yardstick(&case, &mut y));
    }
    Ok(())
}

/// The same product in f32 by the `gemm` crate.
fn yardstick(case: &Case, y: &mut [f32]) {
    let (m, n, k) = (case.m, case.n, case.k);
    let threads = ::gemm::Parallelism::Rayon(rayon_threads());
    let (y, x, w) = (y.as_mut_ptr(), case.x.as_ptr(), case.w.as_ptr());
    let (n_, k_) = (n as isize, k as isize);
    // SAFETY: y holds m·n elements, x m·k and w n·k; the strides (columns, then rows) are those of row-major
    // matrices, w's those of its transpose.
    unsafe {
        ::gemm::gemm(m, n, k, y, 1, n_, false, x, 1, k_, w, k_, 1, 0.0, 1.0, false, false, false, threads);
    }
}

fn rayon_threads() -> usize {
    let set = std::env::var("RAYON_NUM_THREADS").ok().and_then(|threads| threads.parse().ok());
    set.filter(|&threads| threads > 0)
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
}

/// Twelve independent chains of multiply-adds on vectors of eight.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn chains(steps: usize) -> f32 {
    use std::arch::x86_64::*;
    let (factor, term) = (black_box(_mm256_set1_ps(0.999)), black_box(_mm256_set1_ps(0.001)));
    let mut sums = [_mm256_set1_ps(0.5); 12];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, factor, term);
        }
    }
    sums.iter().map(|&sum| _mm256_cvtss_f32(sum)).sum()
}

/// The FMA peak of all threads together in operations a second; NaN where there is no AVX2.
fn peak() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        let (threads, steps) = (rayon_threads(), 2_000_000);
        let pass = || {
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    // SAFETY: the machine has AVX2 and FMA.
                    scope.spawn(|| black_box(unsafe { chains(steps) }));
                }
            });
            start.elapsed()
        };
        let fastest = (0..20).map(|_| pass()).min().unwrap_or(Duration::MAX);
        return (threads * steps * 12 * 16) as f64 / fastest.as_secs_f64();
    }
    f64::NAN
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut c = Criterion::default().configure_from_args();
    let peak = peak();
    println!("FMA peak of {} threads: {:.1} GFLOP/s", rayon_threads(), peak / 1e9);
    group(
        &mut c,
        "train",
        &[(2048, 576, 1536), (2048, 1536, 576), (2048, 2048, 2048), (2048, 49152, 576)],
        peak,
    )?;
    group(&mut c, "lora", &[(2048, 16, 576), (2048, 576, 16), (2048, 64, 4096), (2048, 4096, 64)], peak)?;
    group(&mut c, "decode", &[(1, 4096, 4096), (1, 49152, 576), (4, 4096, 4096), (8, 4096, 4096)], peak)?;
    c.final_summary();
    Ok(())
}
