//! The table of `docs/gpu/mutations.md`.

use super::mutate::Kind;
use super::{Caught, FINDINGS, Mutant, SUBJECTS};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The report, from the workspace's root.
pub(super) const FILE: &str = "docs/gpu/mutations.md";

/// The report of a whole sweep.
pub(super) fn report(mutants: &[Mutant]) -> String {
    let mut text = INTRODUCTION.to_string();
    let reached: Vec<&Mutant> = mutants.iter().filter(|m| m.is_reached).collect();
    let caught = reached.iter().filter(|m| m.caught.is_some()).count();
    let _ = writeln!(
        text,
        "{} mutants; the launches exercise {}, of which {caught} are caught and {} survive.\n",
        mutants.len(),
        reached.len(),
        reached.len() - caught
    );

    text += "## By kind and by what noticed\n\n";
    let columns: Vec<Caught> = FINDINGS
        .into_iter()
        .map(Caught::Finding)
        .chain([Caught::Conflicts, Caught::Sectors, Caught::Numbers, Caught::Instructions])
        .filter(|c| mutants.iter().any(|m| m.caught == Some(*c)))
        .collect();
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let kinds = Kind::ALL.map(|k| k.name().to_string());
    text += &row([vec!["".into()], kinds.to_vec(), vec!["all".into()]].concat());
    text += &"|---".repeat(Kind::ALL.len() + 2);
    text += "|\n";
    let mut counted = |name: &str, is: &dyn Fn(&Mutant) -> bool| {
        let of = |kind: Kind| mutants.iter().filter(|m| m.mutation.kind == kind && is(m)).count();
        let numbers = Kind::ALL.map(of);
        let all = numbers.iter().sum::<usize>();
        let cells = numbers.iter().chain([&all]).map(|n| if *n == 0 { "".into() } else { n.to_string() });
        text += &row([vec![name.to_string()], cells.collect()].concat());
    };
    for column in columns {
        counted(name(column), &|m| m.caught == Some(column));
    }
    counted("nothing (equivalent, listed below)", &|m| m.is_reached && m.caught.is_none());
    counted("guards that no launch needs (listed below)", &|m| !m.is_reached);
    counted("all", &|_| true);

    text += "\n## By module\n\n";
    text += "Caught of exercised mutants; a blank where the module has none of the kind.\n\n";
    text += &row([vec!["module".into()], kinds.to_vec()].concat());
    text += &"|---".repeat(Kind::ALL.len() + 1);
    text += "|\n";
    for subject in SUBJECTS {
        let cell = |kind: Kind| {
            let of = |m: &&&Mutant| m.module == subject.module() && m.mutation.kind == kind;
            let all = reached.iter().filter(of).count();
            let caught = reached.iter().filter(of).filter(|m| m.caught.is_some()).count();
            if all == 0 { "".into() } else { format!("{caught}/{all}") }
        };
        text += &row([vec![subject.module().to_string()], Kind::ALL.map(cell).to_vec()].concat());
    }

    text += "\n## Not caught\n\n";
    let mut groups: BTreeMap<(&str, Kind, &str), usize> = BTreeMap::new();
    for m in mutants.iter().filter(|m| m.caught.is_none()) {
        *groups
            .entry((m.module, m.mutation.kind, m.reason().unwrap_or("no reason is known")))
            .or_default() += 1;
    }
    text += &row(["module", "kind", "mutants", "why nothing changes"].map(String::from).to_vec());
    text += "|---|---|---|---|\n";
    for ((module, kind, reason), n) in groups {
        text += &row(vec![module.into(), kind.name().into(), n.to_string(), reason.into()]);
    }
    text
}

fn name(caught: Caught) -> &'static str {
    match caught {
        Caught::Finding(name) => name,
        Caught::Conflicts => "more bank conflicts",
        Caught::Sectors => "more sectors",
        Caught::Numbers => "other numbers",
        Caught::Instructions => "more instructions",
    }
}

const INTRODUCTION: &str = "\
# Mutation tests of the CUDA kernels

Do the simulator's checks, its counts and our comparisons notice a broken kernel? Each line below breaks one
instruction of the PTX that ships, runs the module's launches with it, and records what noticed first:
a checker of the simulator, counts that rise, or outputs with other bits than the unbroken kernel's.

- *barrier deleted*: a `bar.sync` is gone.
- *wait weakened*: `cp.async.wait_group N` waits for one group less.
- *guard dropped*: a forward branch or a predicate on an ordered comparison of integers is gone.
- *clamp dropped*: an integer `min`/`max`, or a `selp` against a constant by such a comparison, gives its
  unclamped operand.
- *xor to mov*: a `xor` (swizzled addresses; Philox) gives its first operand.
- *table corrupted*: one constant of an NF4 table is halved or doubled.

A mutant counts as exercised if some thread executes the broken line; a guard, if some thread takes the branch.
Kernels of one template in several dtypes are mutated in one of them, bf16 where it exists.

Written by `MEDLEY_MUTATION_SWEEP=all cargo test --release -p medley-kernels mutation -- --nocapture`; the
ordinary tests run one mutant of each kind from each module.

";
