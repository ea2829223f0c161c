//! PTX to machine code by ptxas, for what it says about registers, local memory and spills.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::occupancy::Arch;
use crate::{Error, Result, read};

/// What a kernel's PTX asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The kernel's name.
    pub name: String,
    /// Threads a block at most, from `__launch_bounds__` (`.maxntid`).
    pub threads: Option<u32>,
    /// Blocks an SM at least, from `__launch_bounds__` (`.minnctapersm`).
    pub blocks: Option<u32>,
    /// Whether it uses `extern __shared__` memory, whose size the launch gives.
    pub dynamic_shared: bool,
}

/// What ptxas made of a kernel on one architecture.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Resources {
    /// Registers a thread.
    pub registers: u32,
    /// Static shared memory a block, bytes.
    pub shared: u32,
    /// Local memory a thread that arrays take, bytes.
    pub stack: u32,
    /// Local memory a thread that spilled registers take: bytes stored plus bytes loaded.
    pub spills: u32,
}

/// ptxas of a toolkit folder.
pub fn ptxas(toolkit: &Path) -> Result<PathBuf> {
    let program = toolkit.join("bin/ptxas");
    if program.is_file() { Ok(program) } else { Err(Error::Toolkit { missing: program }) }
}

/// The modules that a PTX file stands for: its text and, where it has bf16 kernels and none of f16, the twin that the
/// launcher makes of it by exchanging the names of the types.
///
/// # Errors
/// When the file cannot be read.
pub fn modules(file: &Path) -> Result<Vec<String>> {
    let text = read(file)?;
    let names: Vec<String> = parse_entries(&text).into_iter().map(|entry| entry.name).collect();
    let halves = |suffix: &str| names.iter().any(|name| name.ends_with(suffix));
    let twin = (halves("_bf16") && !halves("_f16")).then(|| text.replace("bf16", "f16"));
    Ok(std::iter::once(text).chain(twin).collect())
}

/// The kernels of a PTX module, in its order.
pub fn parse_entries(ptx: &str) -> Vec<Entry> {
    let externs: Vec<&str> = ptx
        .lines()
        .filter(|line| line.starts_with(".extern .shared"))
        .filter_map(|line| line.split_whitespace().last()?.split('[').next())
        .collect();
    let mut entries: Vec<Entry> = Vec::new();
    for line in ptx.lines() {
        if let Some((_, name)) = line.split_once(".entry ") {
            let name = name.trim_end_matches(['(', ')', ' ']).to_owned();
            entries.push(Entry { name, threads: None, blocks: None, dynamic_shared: false });
        } else if let Some(entry) = entries.last_mut() {
            if let Some(bounds) = line.strip_prefix(".maxntid ") {
                entry.threads = bounds.split(',').map(|n| n.trim().parse::<u32>().ok()).product();
            } else if let Some(blocks) = line.strip_prefix(".minnctapersm ") {
                entry.blocks = blocks.trim().parse().ok();
            } else if !entry.dynamic_shared {
                entry.dynamic_shared = externs.iter().any(|name| uses(line, name));
            }
        }
    }
    entries
}

/// Whether a line of PTX names this symbol.
fn uses(line: &str, symbol: &str) -> bool {
    line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).any(|word| word == symbol)
}

/// Assembles `module`, the text of `file` or its twin, for `arch`: what each of its kernels needs, by name.
///
/// # Errors
/// ptxas does not start, or refuses the module (the error carries what it says).
pub fn assemble(ptxas: &Path, file: &Path, module: &str, arch: &Arch) -> Result<BTreeMap<String, Resources>> {
    let io = |source| Error::Io { file: ptxas.to_path_buf(), source };
    let mut child = Command::new(ptxas)
        .args([&format!("-arch={}", arch.name), "-v", "-o", "/dev/null", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(module.as_bytes()).map_err(io)?;
    }
    let output = child.wait_with_output().map_err(io)?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Error::Assemble {
            file: file.to_path_buf(),
            arch: arch.name,
            log: report.trim_end().to_owned(),
        });
    }
    parse_report(&report).ok_or_else(|| Error::Report {
        file: file.to_path_buf(),
        arch: arch.name,
        report: report.into_owned(),
    })
}

/// Reads `ptxas -v`: for every kernel a line `Compiling entry function 'NAME'`, one with the stack frame and the
/// spills, one with `Used N registers, …, N bytes smem, …`. `None` where a kernel's lines are not all there.
fn parse_report(report: &str) -> Option<BTreeMap<String, Resources>> {
    let mut kernels: BTreeMap<String, Resources> = BTreeMap::new();
    let (mut name, mut function) = (None, None);
    let mut complete = 0;
    for line in report.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next();
        }
        if let Some((_, rest)) = line.split_once("Function properties for ") {
            function = Some(rest.trim());
        }
        let Some(kernel) = name else { continue };
        let entry = kernels.entry(kernel.to_owned()).or_default();
        // Device functions that were not inlined have a stack line of their own.
        if line.contains("bytes stack frame") && function == name {
            entry.stack = amount(line, "bytes stack frame")?;
            entry.spills = amount(line, "bytes spill stores")? + amount(line, "bytes spill loads")?;
        } else if line.contains(" Used ") {
            entry.registers = amount(line, "registers")?;
            entry.shared = amount(line, "bytes smem").unwrap_or(0);
            complete += 1;
            name = None;
        }
    }
    (complete == kernels.len()).then_some(kernels)
}

/// The number before `unit`.
fn amount(line: &str, unit: &str) -> Option<u32> {
    line.split(unit)
        .next()
        .filter(|before| before.len() < line.len())?
        .split_whitespace()
        .last()?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_ptx_file() {
        let ptx = ".extern .shared .align 16 .b8 dyn[];\n\n.visible .entry k_a(\n\t.param .u64 k_a_param_0\n)\n\
                   .maxntid 64, 2, 1\n.minnctapersm 3\n{\n\tmov.u32 %r1, dyn_other;\n\tmov.u32 %r1, dyn;\n}\n\
                   .visible .entry k_b()\n{\n\tret;\n}\n";
        let expected = [
            Entry { name: "k_a".into(), threads: Some(128), blocks: Some(3), dynamic_shared: true },
            Entry { name: "k_b".into(), threads: None, blocks: None, dynamic_shared: false },
        ];
        assert_eq!(parse_entries(ptx), expected);
        assert!(!parse_entries(&ptx.replace("%r1, dyn;", "%r1, dyn2;"))[0].dynamic_shared);
    }

    /// Printed by ptxas 12.4.131.
    const REPORT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'k_b' for 'sm_80'
ptxas info    : Function properties for k_b
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 360 bytes cmem[0]
ptxas info    : Compiling entry function 'k_a' for 'sm_80'
ptxas info    : Function properties for k_a
    256 bytes stack frame, 12 bytes spill stores, 20 bytes spill loads
ptxas info    : Used 128 registers, 256 bytes cumulative stack size, 400 bytes smem, 372 bytes cmem[0]
";

    #[test]
    fn the_report_of_ptxas() {
        let kernels = parse_report(REPORT).unwrap();
        assert_eq!(kernels["k_b"], Resources { registers: 8, ..Resources::default() });
        assert_eq!(kernels["k_a"], Resources { registers: 128, shared: 400, stack: 256, spills: 32 });
        let cut = REPORT.rsplit_once("ptxas").unwrap().0;
        assert_eq!(parse_report(cut), None, "a kernel without its registers is not a kernel that needs none");
    }
}
