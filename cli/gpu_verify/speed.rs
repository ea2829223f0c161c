//! The benches: measured on a card beside the simulator's prediction, or on the simulator predicted for named cards.

use anyhow::{Result, ensure};
use medley_tensor::device::{CudaDevice, Device};
use ptxsim::roofline::CARDS;

use crate::bench::{Bench, Size, benches};
use crate::cards::{Peaks, simulated};
use crate::measure::Clock;
use crate::options::Options;
use crate::predict::Predictor;
use crate::report::{Table, number};

/// The table of a card, or of the simulator.
///
/// # Errors
/// When a bench fails.
pub fn table(device: &CudaDevice, options: &Options) -> Result<Table> {
    if device.info().simulated { predicted(device, &options.filter) } else { measured(device, options) }
}

/// What the simulator's counts make of every bench on the cards it knows.
fn predicted(device: &CudaDevice, filter: &str) -> Result<Table> {
    let predictor = Predictor::new(device.info().compute_capability)?;
    let mut header = vec!["bench".to_owned()];
    header.extend(CARDS.iter().map(|card| format!("{} ms", card.name)));
    let note = "Predicted milliseconds: the roofline of what the kernels did at a small shape, scaled to the shape in \
                the name. No card was there.";
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = Table::new("Benches, predicted", note, &header);
    for bench in chosen(filter)? {
        let counted = predictor.count(&bench)?;
        let mut row = vec![title(&bench)];
        row.extend(CARDS.iter().map(|card| number(counted.on(card, Size::Full))));
        table.rows.push(row);
    }
    Ok(table)
}

/// Times by events beside peak, prediction and cuBLAS.
fn measured(device: &CudaDevice, options: &Options) -> Result<Table> {
    let info = device.info();
    let (card, roofline) = (Peaks::named(&info.name), simulated(&info.name));
    let predictor = Predictor::new(info.compute_capability)?;
    let clock = Clock::new(device, if options.quick { 50.0 } else { 500.0 })?;
    let size = if options.quick { Size::Small } else { Size::Full };
    let note = match card {
        Some(card) => format!(
            "Peak: {} TFLOP/s (bf16, f32 accumulation), {} GB/s. Floor: the slower of arithmetic and memory at peak. \
             Predicted: the simulator's counts at a small shape, scaled by the floors.",
            number(card.tflops),
            number(card.bandwidth)
        ),
        None => format!("The peaks of {} are not in cli/gpu_verify/cards.rs: no shares of them.", info.name),
    };
    let header = [
        "bench",
        "ms",
        "fastest ms",
        "TFLOP/s",
        "GB/s",
        "% of floor",
        "predicted ms",
        "measured/predicted",
        "cuBLAS ms",
    ];
    let mut table = Table::new("Benches, measured", &note, &header);
    for bench in chosen(&options.filter)? {
        let mut runner = bench.build(&Device::Cuda(device.clone()), size)?;
        let sample = clock.time(&mut runner)?;
        drop(runner);
        device.trim()?;
        let work = bench.work(size);
        let share = card.map(|card| 100.0 * card.floor(work.flops, work.bytes) / sample.median);
        let predicted = match roofline {
            Some(roofline) => Some(predictor.count(&bench)?.on(roofline, size)),
            None => None,
        };
        let optional = |value: Option<f64>| value.map_or("–".to_owned(), number);
        table.rows.push(vec![
            title(&bench),
            number(sample.median),
            number(sample.fastest),
            if work.flops > 0.0 { number(work.flops / sample.median / 1e9) } else { "–".into() },
            number(work.bytes / sample.median / 1e6),
            optional(share),
            optional(predicted),
            optional(predicted.map(|ms| sample.median / ms)),
            optional(cublas(device, &bench, size)?),
        ]);
    }
    Ok(table)
}

/// The benches whose titles contain `filter`.
fn chosen(filter: &str) -> Result<Vec<Bench>> {
    let chosen: Vec<Bench> = benches().into_iter().filter(|bench| title(bench).contains(filter)).collect();
    ensure!(!chosen.is_empty(), "no bench's name contains `{filter}`");
    Ok(chosen)
}

fn title(bench: &Bench) -> String {
    format!("{} {}", bench.family, bench.name)
}

/// Milliseconds of cuBLAS for the same product.
#[cfg(feature = "cublas")]
fn cublas(device: &CudaDevice, bench: &Bench, size: Size) -> Result<Option<f64>> {
    use crate::cublas::{Product, present};
    let (Some(shape), Size::Full, true) = (bench.gemm, size, present()) else { return Ok(None) };
    let product = Product::new(device, shape)?;
    let mut runs = 8;
    loop {
        // cuBLAS runs in another stream than our events: many runs between two waits for the whole device.
        device.driver().synchronize(None)?;
        let start = std::time::Instant::now();
        for _ in 0..runs {
            product.start()?;
        }
        device.driver().synchronize(None)?;
        let ms = start.elapsed().as_secs_f64() * 1e3;
        if ms > 200.0 {
            return Ok(Some(ms / f64::from(runs)));
        }
        runs *= 4;
    }
}

/// Without the feature there is nothing to compare with; the column says so by being empty.
#[cfg(not(feature = "cublas"))]
fn cublas(_: &CudaDevice, _: &Bench, _: Size) -> Result<Option<f64>> {
    Ok(None)
}
