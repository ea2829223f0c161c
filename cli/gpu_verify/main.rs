//! `gpu-verify`: does a card do what the CPU does, as fast as the simulator says? See `docs/gpu/README.md`.

mod bench;
mod cards;
mod compare;
#[cfg(feature = "cublas")]
mod cublas;
mod measure;
mod ops;
mod options;
mod peers;
mod predict;
mod report;
mod speed;
#[path = "../table.rs"]
mod table;
mod training;
mod updates;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use medley_tensor::device::{CudaDevice, Device};

use options::{Options, USAGE};
use report::{Table, number};

fn main() -> ExitCode {
    match run() {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            faults.iter().for_each(|fault| eprintln!("FAULT {fault}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("gpu-verify: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs what was asked for; what was found to be wrong.
fn run() -> Result<Vec<String>> {
    let options = Options::parse(std::env::args().skip(1))?;
    if options.help {
        println!("{USAGE}");
        return Ok(vec![]);
    }
    let device = Device::open(&options.device)?;
    let Device::Cuda(card) = &device else { anyhow::bail!("{} is no GPU", options.device) };
    let facts = facts(card, &options);
    facts.iter().for_each(|fact| println!("{fact}"));
    println!();

    let (mut tables, mut faults) = (vec![], vec![]);
    let mut show = |table: Table| {
        println!("{}", table.plain());
        tables.push(table);
    };
    if options.runs("ops") {
        for (table, found) in [
            verify_ops(&device, options.quick)?,
            updates::verify_optimizer(&device, options.quick)?,
            updates::verify_nf4(&device, options.quick)?,
        ] {
            show(table);
            faults.extend(found);
        }
    }
    if options.runs("train") {
        let (table, found) = training::verify(&options.device, options.quick)?;
        show(table);
        faults.extend(found);
    }
    if options.runs("bench") {
        show(speed::table(card, &options)?);
    }
    if options.runs("peers") && !card.info().simulated {
        peers::table(&options.python)?.into_iter().for_each(&mut show);
    }
    if let Some(file) = report_file(card, &options) {
        let text = report::markdown(&card.info().name, &facts, &tables, &faults);
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        std::fs::write(&file, text).with_context(|| file.display().to_string())?;
        println!("{} written", file.display());
    }
    Ok(faults)
}

/// What the report says about the device.
fn facts(card: &CudaDevice, options: &Options) -> Vec<String> {
    let info = card.info();
    let (major, minor) = info.driver_version;
    let gib = info.total_memory as f64 / (1u64 << 30) as f64;
    vec![
        format!(
            "{}: sm_{}, {} multiprocessors, {} GiB, CUDA {major}.{minor}",
            info.name,
            info.sm(),
            info.multiprocessors,
            number(gib)
        ),
        format!(
            "medley {}, {}, {}",
            env!("CARGO_PKG_VERSION"),
            report::today(),
            if options.quick { "small sizes" } else { "full sizes" }
        ),
    ]
}

/// Where the report goes: a simulated card's only where it was asked for.
fn report_file(card: &CudaDevice, options: &Options) -> Option<PathBuf> {
    let info = card.info();
    options.output.clone().or_else(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/gpu");
        (!info.simulated).then(|| folder.join(report::file_name(&info.name, &report::today())))
    })
}

/// Every op against the CPU: a row an op, a column a dtype.
fn verify_ops(device: &Device, quick: bool) -> Result<(Table, Vec<String>)> {
    let (rounds, most) = if quick { (1, 24) } else { (8, 300) };
    let mut cases = vec![];
    for seed in 0..rounds {
        cases.extend(ops::cases(seed, most)?);
    }
    let verdicts = ops::verify(&cases, device);
    let note = "Largest difference between device and CPU in any output or gradient, as a share of that tensor's \
                largest number; over random ragged shapes.";
    let mut table = Table::new("Ops against the CPU", note, &["op", "cases", "f32", "bf16", "f16"]);
    for of_one_op in verdicts.chunks(ops::DTYPES.len()) {
        let mut row = vec![of_one_op[0].op.to_owned(), of_one_op[0].cases.to_string()];
        row.extend(of_one_op.iter().map(|verdict| match verdict.fault {
            Some(_) => format!("{} FAULT", number(verdict.worst)),
            None => number(verdict.worst),
        }));
        table.rows.push(row);
    }
    let faults = verdicts
        .iter()
        .filter_map(|verdict| {
            verdict.fault.as_ref().map(|fault| format!("{} in {}: {fault}", verdict.op, verdict.dtype))
        })
        .collect();
    Ok((table, faults))
}
