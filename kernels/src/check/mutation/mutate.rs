//! Mutations of PTX text: where they are, and the text with one of them made.

use std::collections::{BTreeMap, BTreeSet};

/// What a mutation breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A `bar.sync` is gone.
    Barrier,
    /// A `cp.async.wait_group` waits for one group less.
    Wait,
    /// A forward branch or predicate that compares integers by order is gone: what it skipped always runs.
    Guard,
    /// An integer `min`/`max`, or a `selp` against a constant by such a comparison, gives its unclamped
    /// operand.
    Clamp,
    /// A `xor` gives its first operand.
    Swizzle,
    /// A constant of a table is another number.
    Table,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] =
        [Kind::Barrier, Kind::Wait, Kind::Guard, Kind::Clamp, Kind::Swizzle, Kind::Table];

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Barrier => "barrier deleted",
            Kind::Wait => "wait weakened",
            Kind::Guard => "guard dropped",
            Kind::Clamp => "clamp dropped",
            Kind::Swizzle => "xor to mov",
            Kind::Table => "table corrupted",
        }
    }
}

/// One change of one line.
#[derive(Clone, Debug)]
pub(super) struct Mutation {
    pub(super) kind: Kind,
    /// The entry it is in; empty for a table.
    pub(super) entry: String,
    /// From 1.
    pub(super) line: usize,
    /// Which of the kind in the entry, from 1: what names it when other lines move.
    pub(super) ordinal: usize,
    pub(super) from: String,
    /// Empty where the line is deleted.
    pub(super) to: String,
}

impl Mutation {
    /// `source` with the line replaced; all other lines keep their numbers.
    pub(super) fn apply(&self, source: &str) -> String {
        let replaced = source
            .split('\n')
            .enumerate()
            .map(|(i, l)| if i + 1 == self.line { self.to.as_str() } else { l });
        replaced.collect::<Vec<_>>().join("\n")
    }
}

/// `source` without the entries that are not in `kept`; lines keep their numbers.
pub(super) fn only(source: &str, kept: &BTreeSet<String>) -> String {
    let mut inside = false;
    let mut lines = vec![];
    for line in source.split('\n') {
        if let Some(name) = entry_name(line) {
            inside = !kept.contains(name);
        }
        lines.push(if inside { "" } else { line });
        if line.starts_with('}') {
            inside = false;
        }
    }
    lines.join("\n")
}

fn entry_name(line: &str) -> Option<&str> {
    line.strip_prefix(".visible .entry ").map(|rest| rest.trim_end_matches('('))
}

/// Opcode and operands of an instruction without its predicate.
fn instruction(line: &str) -> Option<(&str, Vec<&str>)> {
    let text = line.trim().strip_suffix(';')?;
    let (opcode, operands) = text.split_once(char::is_whitespace)?;
    Some((opcode, operands.split(',').map(str::trim).collect()))
}

fn is_constant(operand: &str) -> bool {
    operand.starts_with(|c: char| c.is_ascii_digit() || c == '-')
}

/// The bits of a type, as `mov` names them.
fn bits(opcode: &str) -> &str {
    let kind = opcode.rsplit('.').next().unwrap_or(opcode);
    match &kind[1..] {
        "64" => "b64",
        "16" => "b16",
        _ => "b32",
    }
}

/// All mutations of a module, by line.
pub(super) fn mutations(source: &str) -> Vec<Mutation> {
    let mut found = tables(source);
    let lines: Vec<&str> = source.lines().collect();
    let mut start = 0;
    while start < lines.len() {
        let Some(name) = entry_name(lines[start]) else {
            start += 1;
            continue;
        };
        let end = (start..lines.len()).find(|&i| lines[i] == "}").unwrap_or(lines.len() - 1);
        Entry { name, lines: &lines, start, end }.mutations(&mut found);
        start = end + 1;
    }
    let mut counts: BTreeMap<(Kind, String), usize> = BTreeMap::new();
    for mutation in &mut found {
        let count = counts.entry((mutation.kind, mutation.entry.clone())).or_default();
        *count += 1;
        mutation.ordinal = *count;
    }
    found
}

struct Entry<'a> {
    name: &'a str,
    lines: &'a [&'a str],
    start: usize,
    end: usize,
}

impl Entry<'_> {
    fn mutations(&self, found: &mut Vec<Mutation>) {
        let labels: BTreeMap<&str, usize> = (self.start..self.end)
            .filter_map(|i| Some((self.lines[i].trim().strip_suffix(':')?, i)))
            .collect();
        // Predicates that compare integers by order, at this point of the text.
        let mut bounds: BTreeSet<&str> = BTreeSet::new();
        for i in self.start..self.end {
            let text = self.lines[i].trim();
            if let Some(change) = change(text, i, &labels, &bounds) {
                found.push(Mutation {
                    kind: change.0,
                    entry: self.name.to_string(),
                    line: i + 1,
                    ordinal: 0,
                    from: text.to_string(),
                    to: change.1,
                });
            }
            note_bound(text, &mut bounds);
        }
    }
}

/// Keeps `bounds` up to date past an instruction.
fn note_bound<'a>(text: &'a str, bounds: &mut BTreeSet<&'a str>) {
    let Some((opcode, operands)) = instruction(text) else { return };
    let is_bound = if opcode.starts_with("setp.") {
        let mut parts = opcode.split('.').skip(1);
        let (order, kind) = (parts.next().unwrap_or(""), opcode.rsplit('.').next().unwrap_or(""));
        ["lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"].contains(&order) && kind.starts_with(['u', 's'])
    } else if opcode.ends_with(".pred") {
        operands[1..].iter().any(|o| bounds.contains(o))
    } else {
        return;
    };
    if is_bound {
        bounds.insert(operands[0]);
    } else {
        bounds.remove(operands[0]);
    }
}

fn change(
    text: &str,
    at: usize,
    labels: &BTreeMap<&str, usize>,
    bounds: &BTreeSet<&str>,
) -> Option<(Kind, String)> {
    if let Some(guarded) = text.strip_prefix('@') {
        let (predicate, rest) = guarded.split_once(' ')?;
        if !bounds.contains(predicate.trim_start_matches('!')) {
            return None;
        }
        return match rest.trim().strip_prefix("bra ") {
            // A branch backwards closes a loop; it is no guard.
            Some(label) => {
                (labels.get(label.trim_end_matches(';'))? > &at).then(|| (Kind::Guard, String::new()))
            }
            None => Some((Kind::Guard, format!("\t{}", rest.trim()))),
        };
    }
    if text.starts_with("bar.sync") {
        return Some((Kind::Barrier, String::new()));
    }
    if text.starts_with("cp.async.wait_all") {
        return Some((Kind::Wait, "\tcp.async.wait_group 1;".into()));
    }
    let (opcode, operands) = instruction(text)?;
    match (opcode, operands.as_slice()) {
        ("cp.async.wait_group", [n]) => {
            let n: u32 = n.parse().ok()?;
            Some((Kind::Wait, format!("\tcp.async.wait_group {};", n + 1)))
        }
        (_, [d, a, _]) if opcode.starts_with("xor.b") => {
            Some((Kind::Swizzle, format!("\tmov.{} {d}, {a};", bits(opcode))))
        }
        (
            "min.u32" | "min.s32" | "min.u64" | "min.s64" | "max.u32" | "max.s32" | "max.u64" | "max.s64",
            [d, a, _],
        ) => Some((Kind::Clamp, format!("\tmov.{} {d}, {a};", bits(opcode)))),
        (_, [d, a, b, p])
            if opcode.starts_with("selp.") && bounds.contains(p) && is_constant(a) != is_constant(b) =>
        {
            let unclamped = if is_constant(a) { b } else { a };
            let kind = opcode.trim_start_matches("selp.");
            Some((Kind::Clamp, format!("\tmov.{kind} {d}, {unclamped};")))
        }
        // A size or a flag: 16 or 0, 1 or 0.
        (_, [d, a, b, p]) if opcode.starts_with("selp.") && bounds.contains(p) && is_constant(a) => {
            let kind = opcode.trim_start_matches("selp.");
            let size = if *a == "0" { b } else { a };
            Some((Kind::Clamp, format!("\tmov.{kind} {d}, {size};")))
        }
        _ => None,
    }
}

/// One mutation for each f32 of each table of bytes that an instruction names.
fn tables(source: &str) -> Vec<Mutation> {
    let mut found = vec![];
    for (i, line) in source.lines().enumerate() {
        let Some((declaration, values)) = line.strip_suffix("};").and_then(|l| l.split_once(" = {")) else {
            continue;
        };
        let name = declaration.rsplit(' ').next().and_then(|n| n.split('[').next()).unwrap_or("");
        if !declaration.contains(" .b8 ") || source.matches(name).count() < 2 {
            continue;
        }
        let bytes: Vec<u8> = values.split(',').filter_map(|v| v.trim().parse().ok()).collect();
        for word in 0..bytes.len() / 4 {
            let mut changed = bytes.clone();
            // The lowest bit of the exponent, that is twice or half the value; 2 in place of 0.
            match &mut changed[word * 4..][..4] {
                [0, 0, 0, high @ 0] => *high = 0x40,
                value => value[2] ^= 0x80,
            }
            let changed: Vec<String> = changed.iter().map(u8::to_string).collect();
            found.push(Mutation {
                kind: Kind::Table,
                entry: String::new(),
                line: i + 1,
                ordinal: 0,
                from: format!("{name}[{word}]"),
                to: format!("{declaration} = {{{}}};", changed.join(", ")),
            });
        }
    }
    found
}

#[test]
fn each_kind_is_found_where_it_is() {
    let source = "\
.const .align 4 .b8 T[8] = {0, 0, 128, 63, 1, 2, 3, 4};
.visible .entry k(
)
{
\tmov.u64 %rd1, T;
\tsetp.ge.u32 %p1, %r1, %r2;
\tsetp.eq.s32 %p2, %r1, 0;
\tor.pred %p3, %p2, %p1;
\t@%p3 bra $L_2;
\t@%p2 bra $L_2;
$L_1:
\tselp.b32 %r3, 16, 0, %p1;
\tselp.f32 %f1, %f2, 0fFF800000, %p1;
\tselp.f32 %f1, %f2, 0f00000000, %p2;
\tmin.u32 %r3, %r4, 8;
\tmin.f32 %f3, %f4, %f5;
\txor.b32 %r5, %r6, %r7;
\tcp.async.wait_group 1;
\tcp.async.wait_all;
\tbar.sync 0;
\t@%p1 bra $L_1;
$L_2:
\t@!%p1 st.global.u32 [%rd1], %r3;
\tret;
}
";
    let found: Vec<(Kind, usize, String)> =
        mutations(source).into_iter().map(|m| (m.kind, m.line, m.to.trim().to_string())).collect();
    let table = |values: &str| format!(".const .align 4 .b8 T[8] = {{{values}}};");
    let expected = [
        (Kind::Table, 1, table("0, 0, 0, 63, 1, 2, 3, 4")),
        (Kind::Table, 1, table("0, 0, 128, 63, 1, 2, 131, 4")),
        (Kind::Guard, 9, String::new()),
        (Kind::Clamp, 12, "mov.b32 %r3, 16;".into()),
        (Kind::Clamp, 13, "mov.f32 %f1, %f2;".into()),
        (Kind::Clamp, 15, "mov.b32 %r3, %r4;".into()),
        (Kind::Swizzle, 17, "mov.b32 %r5, %r6;".into()),
        (Kind::Wait, 18, "cp.async.wait_group 2;".into()),
        (Kind::Wait, 19, "cp.async.wait_group 1;".into()),
        (Kind::Barrier, 20, String::new()),
        (Kind::Guard, 23, "st.global.u32 [%rd1], %r3;".into()),
    ];
    assert_eq!(found, expected);
    let without = only(source, &BTreeSet::new());
    assert_eq!((without.lines().count(), without.contains("bar.sync")), (source.lines().count(), false));
    let barrier = mutations(source).remove(9);
    assert_eq!((barrier.entry.as_str(), barrier.ordinal), ("k", 1));
    let mutated = barrier.apply(source);
    assert!(!mutated.contains("bar.sync") && mutated.contains("cp.async.wait_all"));
}
