//! Mutation tests: our own kernels, broken in one place, must be noticed.
//!
//! Every `bar.sync`, `cp.async.wait_group`, bounds guard, clamp, `xor` (swizzles) and table constant of
//! the PTX that ships is broken by itself ([`mutate`]), and the module's launches ([`subjects`]) run with
//! it on the simulator. A mutant is caught by a checker's finding, by counts that rise (bank conflicts,
//! sectors, instructions), or by outputs of other bits; one that is not is in `equivalent.txt` with the
//! reason why it changes nothing, or the test fails.
//!
//! The ordinary test takes one mutant of each kind from each module. The whole sweep, which rewrites
//! `docs/gpu/mutations.md`, is
//!
//! ```text
//! MEDLEY_MUTATION_SWEEP=all cargo test --release -p medley-kernels mutation -- --nocapture
//! ```
//!
//! and a file name such as `gemm_nt.ptx` in place of `all` sweeps one module and prints its survivors.

mod equivalent;
mod mutate;
mod products;
mod report;
mod subjects;

use medley_tensor::device::{CudaDevice, SimOptions};
use medley_tensor::{Error, Result};
use mutate::{Kind, Mutation};
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use subjects::{Run, SUBJECTS, Subject};

/// What noticed a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caught {
    /// A checker, by the name of its finding.
    Finding(&'static str),
    Conflicts,
    Sectors,
    Numbers,
    Instructions,
}

/// Names of the simulator's findings.
const FINDINGS: [&str; 13] = [
    "out-of-bounds access",
    "misaligned access",
    "read of uninitialised memory",
    "shared-memory race",
    "barrier divergence",
    "missing cp.async wait",
    "inactive lane",
    "deadlock",
    "instruction limit",
    "illegal instruction",
    "trap",
    "write to read-only memory",
    "invalid launch",
];

/// The workspace's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The PTX of every subject, by file name.
fn sources() -> BTreeMap<&'static str, String> {
    let read = |s: &Subject| (s.module(), std::fs::read_to_string(root().join(s.file)).unwrap());
    SUBJECTS.iter().map(read).collect()
}

/// What a run did.
struct Trace {
    outputs: Vec<u32>,
    conflicts: u64,
    sectors: u64,
    /// Of lanes, branches not counted: a dropped branch is one less everywhere, what counts is the work
    /// it skipped.
    instructions: u64,
    entries: BTreeSet<String>,
    /// Lines that at least one lane executed (branches: took), by entry.
    reached: BTreeSet<(String, usize)>,
}

fn trace(
    subject: &Subject,
    substitutes: Vec<(String, String)>,
    max_instructions: Option<u64>,
) -> Result<Trace> {
    let options =
        SimOptions { threads: 1, counts: true, max_instructions, substitutes, ..SimOptions::default() };
    let device = CudaDevice::sim(options)?;
    let mut run = Run { device: device.clone(), outputs: vec![] };
    (subject.run)(&mut run)?;
    device.synchronize()?;
    let mut trace = Trace {
        outputs: run.outputs,
        conflicts: 0,
        sectors: 0,
        instructions: 0,
        entries: BTreeSet::new(),
        reached: BTreeSet::new(),
    };
    for (entry, _, counts) in device.simulator().unwrap().reports() {
        trace.conflicts += counts.wavefronts() - counts.wavefronts_ideal();
        trace.sectors += counts.sectors();
        trace.instructions += counts.lane_instructions() - counts.class("control").lanes;
        // A predicated line counts where its predicate holds: a branch where it is taken.
        let lines = counts.lines().filter(|l| l.lanes > 0).map(|l| (entry.clone(), l.line as usize));
        trace.reached.extend(lines);
        trace.entries.insert(entry);
    }
    Ok(trace)
}

/// A module without the entries that its subject does not launch, its mutations, and what it did unbroken.
struct Original {
    subject: &'static Subject,
    source: String,
    /// Of the other modules that the subject launches.
    others: Vec<(String, String)>,
    trace: Trace,
    mutations: Vec<Mutation>,
}

impl Original {
    fn of(subject: &'static Subject, sources: &BTreeMap<&'static str, String>) -> Original {
        let trace =
            trace(subject, vec![], None).unwrap_or_else(|e| panic!("{} unbroken: {e}", subject.module()));
        let pruned = |name: &str| mutate::only(&sources[name], &trace.entries);
        let source = pruned(subject.module());
        let others = sources
            .keys()
            .filter(|name| **name != subject.module())
            .map(|name| (name.to_string(), pruned(name)))
            .filter(|(_, source)| source.contains(".entry"))
            .collect();
        let mutations = mutate::mutations(&source);
        Original { subject, source, others, trace, mutations }
    }

    fn is_reached(&self, mutation: &Mutation) -> bool {
        mutation.entry.is_empty() || self.trace.reached.contains(&(mutation.entry.clone(), mutation.line))
    }

    /// Runs a mutant; what noticed it, if anything did.
    fn verdict(&self, mutation: &Mutation) -> Option<Caught> {
        let mutant = (self.subject.module().to_string(), mutation.apply(&self.source));
        let substitutes = [vec![mutant], self.others.clone()].concat();
        let limit = self.trace.instructions + 100_000;
        match trace(self.subject, substitutes, Some(limit)) {
            Err(e @ Error::Driver(_)) => {
                let message = e.to_string();
                let finding = FINDINGS.into_iter().find(|name| message.contains(&format!("{name} in ")));
                let what = || format!("{} line {}: {message}", self.subject.module(), mutation.line);
                Some(Caught::Finding(finding.unwrap_or_else(|| panic!("{}", what()))))
            }
            // A launcher looked at what a kernel gave and refused it.
            Err(_) => Some(Caught::Numbers),
            Ok(trace) if trace.conflicts > self.trace.conflicts => Some(Caught::Conflicts),
            Ok(trace) if trace.sectors > self.trace.sectors => Some(Caught::Sectors),
            Ok(trace) if trace.outputs != self.trace.outputs => Some(Caught::Numbers),
            Ok(trace) if trace.instructions > self.trace.instructions => Some(Caught::Instructions),
            Ok(_) => None,
        }
    }
}

/// A mutant and what became of it.
struct Mutant {
    module: &'static str,
    mutation: Mutation,
    is_reached: bool,
    caught: Option<Caught>,
}

impl Mutant {
    fn reason(&self) -> Option<&'static str> {
        equivalent::reason(self.module, &self.mutation)
    }

    fn describe(&self) -> String {
        let Mutation { kind, entry, line, from, ordinal, .. } = &self.mutation;
        let reached = if self.is_reached { "" } else { " (no launch takes it)" };
        format!("{} | {entry} | {} | {ordinal} | line {line}: `{from}`{reached}", self.module, kind.name())
    }
}

/// Runs the chosen mutations of the chosen modules.
fn sweep(modules: &[&'static Subject], chosen: impl Fn(&Original) -> Vec<usize> + Sync) -> Vec<Mutant> {
    let sources = sources();
    let originals: Vec<Original> = modules.par_iter().map(|s| Original::of(s, &sources)).collect();
    let work: Vec<(&Original, usize)> =
        originals.iter().flat_map(|o| chosen(o).into_iter().map(move |i| (o, i))).collect();
    work.into_par_iter()
        .map(|(original, i)| {
            let mutation = original.mutations[i].clone();
            let is_reached = original.is_reached(&mutation);
            let caught = if is_reached { original.verdict(&mutation) } else { None };
            Mutant { module: original.subject.module(), mutation, is_reached, caught }
        })
        .collect()
}

/// One mutation of each kind: the middle one of those that are reached and have no reason to survive.
fn sample(original: &Original) -> Vec<usize> {
    let one = |kind: Kind| {
        let can: Vec<usize> = (0..original.mutations.len())
            .filter(|&i| {
                let m = &original.mutations[i];
                let reason = equivalent::reason(original.subject.module(), m);
                m.kind == kind && original.is_reached(m) && reason.is_none()
            })
            .collect();
        can.get(can.len() / 2).copied()
    };
    Kind::ALL.into_iter().filter_map(one).collect()
}

#[test]
fn every_mutant_is_caught() {
    let sweep_of = std::env::var("MEDLEY_MUTATION_SWEEP").ok();
    let modules: Vec<&'static Subject> = SUBJECTS
        .iter()
        .filter(|s| sweep_of.as_deref().is_none_or(|of| of == "all" || of == s.module()))
        .collect();
    assert!(!modules.is_empty(), "MEDLEY_MUTATION_SWEEP is neither `all` nor a module's file name");
    let mutants = match sweep_of {
        None => sweep(&modules, sample),
        Some(_) => sweep(&modules, |o| (0..o.mutations.len()).collect()),
    };
    if sweep_of.as_deref() == Some("all") {
        std::fs::write(root().join(report::FILE), report::report(&mutants)).unwrap();
    }
    let survivors: Vec<String> =
        mutants.iter().filter(|m| m.caught.is_none() && m.reason().is_none()).map(Mutant::describe).collect();
    let listed: Vec<String> =
        mutants.iter().filter(|m| m.caught.is_some() && m.reason().is_some()).map(Mutant::describe).collect();
    println!("{} mutants, {} survive", mutants.len(), survivors.len());
    assert!(survivors.is_empty(), "nothing noticed\n{}", survivors.join("\n"));
    assert!(listed.is_empty(), "listed as equivalent, but caught\n{}", listed.join("\n"));
}

/// A module without launches here would be a module whose mutants nobody looks at.
#[test]
fn every_module_that_ships_is_a_subject() {
    fn ptx(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                ptx(&path, found);
            } else if path.extension().is_some_and(|e| e == "ptx") {
                found.push(path);
            }
        }
    }
    let mut found = vec![];
    for folder in ["kernels/src", "tensor/src"] {
        ptx(&root().join(folder), &mut found);
    }
    found.sort();
    let mut subjects: Vec<PathBuf> = SUBJECTS.iter().map(|s| root().join(s.file)).collect();
    subjects.sort();
    assert_eq!(found, subjects);
    let table = std::fs::read_to_string(root().join(report::FILE)).unwrap();
    for subject in SUBJECTS {
        let missing = format!("{} has no row for {}; run the sweep", report::FILE, subject.module());
        assert!(table.contains(&format!("| {} |", subject.module())), "{missing}");
    }
}
