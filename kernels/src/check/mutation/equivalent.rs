//! Mutants that change nothing, and why: `equivalent.txt`, read when the tests run.

use super::mutate::Mutation;
use super::root;
use std::sync::LazyLock;

/// Mutations of one module, kind and entry with one reason.
struct Rule {
    module: String,
    entry: String,
    kind: String,
    ordinals: Vec<usize>,
    reason: String,
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let text = std::fs::read_to_string(root().join("kernels/src/check/mutation/equivalent.txt")).unwrap();
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.map(|l| rule(l).unwrap_or_else(|| panic!("equivalent.txt: not five fields: {l}"))).collect()
});

fn rule(line: &str) -> Option<Rule> {
    let mut fields = line.splitn(5, '|').map(|field| field.trim().to_string());
    let (module, entry, kind) = (fields.next()?, fields.next()?, fields.next()?);
    let ordinals = fields.next()?.split_whitespace().map(|n| n.parse().ok()).collect::<Option<_>>()?;
    Some(Rule { module, entry, kind, ordinals, reason: fields.next()? })
}

/// Why a mutant may survive.
pub(super) fn reason(module: &str, mutation: &Mutation) -> Option<&'static str> {
    let is = |r: &&Rule| {
        r.module == module
            && r.entry == mutation.entry
            && r.kind == mutation.kind.name()
            && r.ordinals.contains(&mutation.ordinal)
    };
    RULES.iter().find(is).map(|r| r.reason.as_str())
}
