//! `ptxsim`: runs a kernel of any PTX file on NumPy arrays, checks it and counts what it costs.

mod argument;
mod options;

use std::process::ExitCode;
use std::time::Instant;

use ptxsim::count::Counts;
use ptxsim::report::{Finding, Report};
use ptxsim::{Checks, Entry, Fault, FaultKind, Gpu, GpuConfig, Launch, Module};

use argument::{Argument, Output, Placed};
use options::{HELP, Options, Request};

/// The kernel ran and a checker found a mistake.
const FOUND: u8 = 1;
/// Bad options, files or arguments: nothing was learnt about the kernel.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match options::parse(&arguments) {
        Ok(Request::Help) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Ok(Request::Run(options)) => run(&options),
        Err(message) => Err(message),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FOUND),
        Err(message) => {
            eprintln!("ptxsim: {message}");
            ExitCode::from(REFUSED)
        }
    }
}

/// Runs what `options` ask for; true if no checker found anything.
fn run(options: &Options) -> Result<bool, String> {
    let path = &options.file;
    let source = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let module = Module::parse(&source).map_err(|e| format!("{}: {e}", path.display()))?;
    if options.list {
        print!("{}", listing(&module));
        return Ok(true);
    }
    let entry = choose(&module, options)?;
    let launch = launch(entry, options)?;
    let mut found = attempt(&module, entry, launch, options, options.checks, 0)?;
    let (mut harmless, mut causes) = (Vec::new(), Vec::new());
    if let Err(fault) = &found.result
        && fault.kind == FaultKind::UninitialisedRead
        && options.checks.uninitialised_shared
    {
        // Libraries read past what they wrote and ignore the value (CUB's scans and merges do): such a
        // read is a mistake only if what the memory happens to hold can be seen in the outputs.
        let checks = Checks { uninitialised_shared: false, ..options.checks };
        let zeros = attempt(&module, entry, launch, options, checks, 0)?;
        let ones = attempt(&module, entry, launch, options, checks, 0xff)?;
        if zeros.result.is_ok() && ones.result.is_ok() && zeros.outputs == ones.outputs {
            harmless.push(Finding::from(fault));
            found = zeros;
        } else if let Err(cause) = zeros.result
            && matches!(cause.kind, FaultKind::SharedRace | FaultKind::MissingWait)
        {
            // Nothing had written yet because nothing made the reader wait for the writer.
            causes.push(Finding::from(&cause));
        }
    }
    let (mut findings, counts) = match &found.result {
        Ok(counts) => (Vec::new(), Some(counts.clone())),
        Err(fault) => (vec![Finding::from(fault)], None),
    };
    findings.splice(0..0, causes);
    let clean = findings.is_empty();
    if clean {
        for output in &found.outputs {
            output.save()?;
        }
    }
    let report = Report {
        entry: entry.name.clone(),
        grid: launch.grid,
        block: launch.block,
        shared_bytes: entry.shared_bytes + launch.shared_bytes,
        findings,
        harmless,
        counts,
        predictions: Vec::new(),
        simulation_seconds: found.seconds,
    }
    .with_cards(&options.cards);
    if options.json {
        println!("{}", report.json().map_err(|e| format!("the report as JSON: {e}"))?);
    } else {
        print!("{}", report.text(&source));
    }
    Ok(clean)
}

/// One simulated launch.
struct Attempt {
    result: Result<Counts, Fault>,
    /// What the kernel wrote; empty after a fault.
    outputs: Vec<Output>,
    seconds: f64,
}

/// Runs the kernel once on a fresh device whose shared memory holds `fill` before it is written.
fn attempt(
    module: &Module,
    entry: &Entry,
    launch: Launch,
    options: &Options,
    checks: Checks,
    fill: u8,
) -> Result<Attempt, String> {
    let mut gpu = Gpu::new(GpuConfig {
        compute_capability: options.sm.unwrap_or_else(|| target(module)),
        memory_bytes: 64 << 30,
        checks,
        shared_fill: fill,
        counts: true,
        // Which driver would take the text is not the question here.
        ptx_version: (99, 9),
        max_instructions: options.max_instructions,
        ..GpuConfig::default()
    })
    .map_err(|e| e.to_string())?;
    let loaded = gpu.load(module).map_err(|e| format!("{}: {e}", options.file.display()))?;
    let (block, placed) = place(entry, &options.arguments, &mut gpu)?;
    let begin = Instant::now();
    let result = gpu.launch(&loaded, &entry.name, launch, &block);
    let seconds = begin.elapsed().as_secs_f64();
    let outputs = match &result {
        Err(fault) if fault.kind == FaultKind::InvalidLaunch => {
            return Err(format!("{}: {}", entry.name, fault.message));
        }
        Err(_) => Vec::new(),
        Ok(_) => placed.into_iter().map(|p| p.fetch(&gpu)).collect::<Result<_, _>>()?,
    };
    Ok(Attempt { result, outputs, seconds })
}

/// The compute capability the text was compiled for, at least 8.0.
fn target(module: &Module) -> (u32, u32) {
    let digits: String = module.target.chars().filter(char::is_ascii_digit).collect();
    let number = digits.parse().unwrap_or(80).max(80);
    (number / 10, number % 10)
}

/// Every entry with its parameters, one a line.
fn listing(module: &Module) -> String {
    let mut out = format!(
        "PTX {}.{} for {}; entries and their parameters:\n",
        module.version.0, module.version.1, module.target
    );
    for entry in module.entries() {
        out.push_str(&format!("  {}", entry.name));
        if let Some([x, y, z]) = entry.required_threads {
            out.push_str(&format!("  --block {x},{y},{z}"));
        }
        if entry.shared_bytes > 0 {
            out.push_str(&format!("  ({} bytes of static shared memory)", entry.shared_bytes));
        }
        out.push('\n');
        for (i, p) in entry.params.iter().enumerate() {
            let hint = match p.bytes {
                _ if p.is_pointer => "a pointer: in:, out:, inout:, scratch:, null",
                8 => "8 bytes: a pointer (in:, out:, inout:, scratch:, null) or u64:, i64:, f64:",
                4 => "4 bytes: u32:, i32:, f32:",
                2 => "2 bytes: u16:, i16:, f16:, bf16:",
                1 => "1 byte: u8:, i8:",
                _ => "a struct: bytes:HEX",
            };
            out.push_str(&format!("    {i}: {}, {} bytes at {}; {hint}\n", p.name, p.bytes, p.offset));
        }
    }
    out
}

fn choose<'a>(module: &'a Module, options: &Options) -> Result<&'a Entry, String> {
    match &options.entry {
        Some(name) => {
            module.entry(name).ok_or_else(|| format!("no entry is called {name}\n{}", listing(module)))
        }
        None => {
            let mut entries = module.entries();
            match (entries.next(), entries.next()) {
                (Some(only), None) => Ok(only),
                (None, _) => Err(format!("{} has no entry", options.file.display())),
                _ => Err(format!("choose one of several with --entry NAME\n{}", listing(module))),
            }
        }
    }
}

fn launch(entry: &Entry, options: &Options) -> Result<Launch, String> {
    let block = match (options.block, entry.required_threads) {
        (Some(block), _) => block,
        (None, Some(required)) => required,
        (None, None) => {
            return Err(format!("{}: say how many threads a block has: --block X[,Y[,Z]]", entry.name));
        }
    };
    Ok(Launch { grid: options.grid, block, shared_bytes: options.shared })
}

/// Puts the arguments into device memory and packs the parameter block.
fn place(entry: &Entry, arguments: &[Argument], gpu: &mut Gpu) -> Result<(Vec<u8>, Vec<Placed>), String> {
    if arguments.len() != entry.params.len() {
        return Err(wrong_number(entry, arguments.len()));
    }
    let mut block = vec![0; entry.param_bytes()];
    let mut placed = Vec::new();
    for (i, (argument, param)) in arguments.iter().zip(&entry.params).enumerate() {
        let in_context = |message: String| format!("--arg {} ({}): {message}", i + 1, param.name);
        let (value, place) = argument.place(gpu).map_err(in_context)?;
        if value.len() != param.bytes as usize {
            let hint = match param.bytes {
                8 => "a pointer (in:, out:, inout:, scratch:, null) or a 64-bit number",
                4 => "u32:, i32: or f32:",
                2 => "u16:, i16:, f16: or bf16:",
                _ => "bytes:HEX",
            };
            return Err(in_context(format!(
                "{} has {} bytes, the parameter has {}: give {hint}",
                argument.text,
                value.len(),
                param.bytes
            )));
        }
        let start = param.offset as usize;
        block[start..start + value.len()].copy_from_slice(&value);
        placed.extend(place);
    }
    Ok((block, placed))
}

fn wrong_number(entry: &Entry, given: usize) -> String {
    let wanted = entry.params.len();
    let mut message = format!("{} takes {wanted} arguments, {given} are given", entry.name);
    let missing = entry.params.get(given..).unwrap_or_default();
    if !missing.is_empty() {
        let names: Vec<&str> = missing.iter().map(|p| p.name.as_str()).collect();
        message.push_str(&format!("; missing: {}", names.join(", ")));
        if missing.len() <= 2 && missing.iter().all(|p| p.bytes == 8) {
            message.push_str(
                "\nTriton appends two pointers to every kernel, for global and for profiling scratch memory: \
                 add --arg null for each (scratch:BYTES if the kernel's metadata asks for scratch memory)",
            );
        }
    }
    message
}
