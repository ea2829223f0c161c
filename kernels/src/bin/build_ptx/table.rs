//! The checked-in table of what every kernel needs: `docs/gpu/ptxas.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use crate::assemble::{Entry, Resources};
use crate::occupancy::ARCHS;
use crate::{Error, Result, read};

/// Where the table lies in the workspace.
pub const TABLE: &str = "docs/gpu/ptxas.md";
/// Where the launch sizes and the reasons for spills lie in the workspace.
pub const NOTES: &str = "kernels/toolkit/kernels.txt";

/// What the PTX of a kernel cannot say; see the head of `kernels/toolkit/kernels.txt`.
#[derive(Debug, Default, PartialEq)]
pub struct Notes {
    /// `shared PATTERN BYTES`: dynamic shared memory of a launch. The first pattern that fits counts.
    shared: Vec<(String, u32)>,
    /// `spills PATTERN REASON`: kernels that may spill.
    spills: Vec<(String, String)>,
}

impl Notes {
    /// Reads the notes file.
    ///
    /// # Errors
    /// A line that is none of the forms; the error has its number.
    pub fn read(file: &Path) -> Result<Notes> {
        Notes::parse(&read(file)?, file)
    }

    fn parse(text: &str, file: &Path) -> Result<Notes> {
        let mut notes = Notes::default();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("shared"), Some(pattern), Some(bytes)) if bytes.parse::<u32>().is_ok() => {
                    notes.shared.push((pattern.to_owned(), bytes.parse().unwrap_or_default()));
                }
                (Some("spills"), Some(pattern), Some(reason)) => {
                    notes.spills.push((pattern.to_owned(), reason.to_owned()));
                }
                _ => {
                    return Err(Error::Notes {
                        file: file.to_path_buf(),
                        line: number + 1,
                        text: line.to_owned(),
                    });
                }
            }
        }
        Ok(notes)
    }

    fn dynamic_shared(&self, kernel: &str) -> Option<u32> {
        self.shared.iter().find(|(pattern, _)| fits(pattern, kernel)).map(|(_, bytes)| *bytes)
    }

    fn spill_reason(&self, kernel: &str) -> Option<&str> {
        self.spills.iter().find(|(pattern, _)| fits(pattern, kernel)).map(|(_, reason)| reason.as_str())
    }
}

/// Whether `name` fits a pattern in which `*` stands for anything.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name
            .strip_prefix(head)
            .is_some_and(|rest| (0..=rest.len()).any(|i| rest.is_char_boundary(i) && fits(tail, &rest[i..]))),
    }
}

/// One PTX module, assembled for every architecture of [`ARCHS`].
pub struct Assembled {
    /// The file it is in, or is the f16 twin of; its path in the workspace.
    pub file: String,
    /// Its kernels.
    pub entries: Vec<Entry>,
    /// What each kernel needs, an architecture each.
    pub resources: Vec<BTreeMap<String, Resources>>,
}

const HEAD: &str = "\
# What the assembler makes of every kernel

Written by `cargo run --release -p medley-kernels --features nvrtc --bin build-ptx -- --assemble`; `.ci/run` fails \
when it is not current or when a kernel spills. ptxas 12.4.131, from the PTX that ships.

- *threads*: `__launch_bounds__`, threads a block and, after ×, blocks an SM asked for.
- *shared*: bytes a block, static + dynamic (the largest launch; `kernels/toolkit/kernels.txt`).
- *registers*: a thread. Four numbers are sm_80 (A100), sm_86 (RTX 30xx), sm_89 (RTX 40xx, L4), sm_90 (H100); one \
number is the same on all.
- *local*: bytes of local memory a thread for arrays that registers cannot hold; *spills*: bytes of register spills.
- *occupancy*: resident warps in percent of the SM's, by NVIDIA's `cuda_occupancy.h`, from registers, shared \
memory, warps and blocks.
";

/// The table as Markdown.
///
/// # Errors
/// Kernels that spill without a reason in the notes, lack `__launch_bounds__` or a dynamic shared size, all in one
/// error.
pub fn render(files: &[Assembled], notes: &Notes) -> Result<String> {
    let mut text = HEAD.to_owned();
    let mut faults = Vec::new();
    let (mut kernels, mut reasons) = (0, Vec::new());
    let mut titled = "";
    for Assembled { file, entries, resources } in files {
        // A twin's rows follow its file's.
        if titled != file {
            let _ = write!(
                text,
                "\n## {file}\n\n| kernel | threads | shared | registers | local | spills | occupancy % |\n\
                 |---|---|---|---|---|---|---|\n"
            );
            titled = file;
        }
        for entry in entries {
            let name = &entry.name;
            kernels += 1;
            let Some(threads) = entry.threads else {
                faults.push(format!("{name} ({file}) has no __launch_bounds__"));
                continue;
            };
            let dynamic = match (entry.dynamic_shared, notes.dynamic_shared(name)) {
                (false, _) => 0,
                (true, Some(bytes)) => bytes,
                (true, None) => {
                    faults.push(format!(
                        "{name} ({file}) uses dynamic shared memory: add a line `shared {name} BYTES` to {NOTES}"
                    ));
                    continue;
                }
            };
            let Some(needs) =
                resources.iter().map(|arch| arch.get(name).copied()).collect::<Option<Vec<_>>>()
            else {
                faults.push(format!("{name} ({file}) is not in the report of ptxas"));
                continue;
            };
            let spills: Vec<u32> = needs.iter().map(|need| need.spills).collect();
            if spills.iter().any(|&bytes| bytes > 0) {
                match notes.spill_reason(name) {
                    Some(reason) => reasons.push(format!("- `{name}`: {reason}\n")),
                    None => faults.push(format!(
                        "{name} ({file}) spills registers: {} bytes on sm_80/86/89/90",
                        numbers(&spills)
                    )),
                }
            }
            let shared = needs.iter().map(|need| need.shared).max().unwrap_or(0);
            let column = |value: fn(&Resources) -> u32| numbers(&needs.iter().map(value).collect::<Vec<_>>());
            let occupancy: Vec<u32> = ARCHS
                .iter()
                .zip(&needs)
                .map(|(arch, need)| arch.occupancy(need.registers, threads, need.shared + dynamic).0)
                .collect();
            let _ = writeln!(
                text,
                "| {name} | {threads}{} | {shared}{} | {} | {} | {} | {} |",
                entry.blocks.map(|blocks| format!(" × {blocks}")).unwrap_or_default(),
                if dynamic > 0 { format!(" + {dynamic}") } else { String::new() },
                column(|need| need.registers),
                column(|need| need.stack),
                numbers(&spills),
                numbers(&occupancy),
            );
        }
    }
    if !faults.is_empty() {
        return Err(Error::Kernels { faults });
    }
    if !reasons.is_empty() {
        let _ = write!(text, "\n## Reasons for spills\n\n{}", reasons.concat());
    }
    let _ = write!(text, "\n{kernels} kernels in {} modules.\n", files.len());
    Ok(text)
}

/// One number where all are equal, else all of them.
fn numbers(values: &[u32]) -> String {
    if values.windows(2).all(|pair| pair[0] == pair[1]) {
        return values.first().map(u32::to_string).unwrap_or_default();
    }
    values.iter().map(u32::to_string).collect::<Vec<_>>().join(" / ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assembled(spills: u32, dynamic_shared: bool, threads: Option<u32>) -> Vec<Assembled> {
        let entry = Entry { name: "gemm_nt_bf16".into(), threads, blocks: Some(2), dynamic_shared };
        let resources = |registers| {
            BTreeMap::from([(entry.name.clone(), Resources { registers, shared: 512, stack: 0, spills })])
        };
        let resources = vec![resources(128), resources(128), resources(120), resources(128)];
        vec![Assembled { file: "gemm.ptx".into(), entries: vec![entry], resources }]
    }

    fn notes(text: &str) -> Result<Notes> {
        Notes::parse(text, Path::new("kernels.txt"))
    }

    #[test]
    fn a_row_has_every_number() {
        let text =
            render(&assembled(0, true, Some(256)), &notes("shared gemm_*_bf16 49152").unwrap()).unwrap();
        let row =
            "| gemm_nt_bf16 | 256 × 2 | 512 + 49152 | 128 / 128 / 120 / 128 | 0 | 0 | 25 / 33 / 33 / 25 |";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn spills_need_a_reason() {
        let error = render(&assembled(8, false, Some(256)), &Notes::default()).unwrap_err().to_string();
        assert!(error.contains("gemm_nt_bf16 (gemm.ptx) spills registers: 8 bytes"), "{error}");
        let reason = notes("spills gemm_* once, before the main loop").unwrap();
        let text = render(&assembled(8, false, Some(256)), &reason).unwrap();
        assert!(text.contains("- `gemm_nt_bf16`: once, before the main loop"), "{text}");
    }

    #[test]
    fn what_occupancy_needs_must_be_known() {
        let error = render(&assembled(0, true, Some(256)), &Notes::default()).unwrap_err().to_string();
        assert!(error.contains("shared gemm_nt_bf16 BYTES"), "{error}");
        let error = render(&assembled(0, false, None), &Notes::default()).unwrap_err().to_string();
        assert!(error.contains("no __launch_bounds__"), "{error}");
    }

    #[test]
    fn a_bad_note_names_its_line() {
        let error = notes("# fine\n\nshared k many").unwrap_err().to_string();
        assert!(error.contains("kernels.txt:3") && error.contains("shared k many"), "{error}");
    }

    #[test]
    fn patterns() {
        assert!(fits("a*c*e", "abcde") && fits("*", "") && fits("abc", "abc") && fits("ab*", "ab"));
        assert!(!fits("a*c", "abcd") && !fits("abc", "abcd") && !fits("*x", "ab"));
    }
}
