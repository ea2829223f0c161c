//! What a launch found and counted, as a table for people and as JSON for programs.

use std::fmt::Write;

use serde::Serialize;

use crate::count::Counts;
use crate::error::Fault;
use crate::roofline::{Card, Prediction, predict};

/// One finding of a checker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What kind of mistake, in words.
    pub kind: &'static str,
    /// PTX line, from 1; 0 if no instruction is at fault.
    pub line: u32,
    /// That line.
    pub text: String,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index in the block.
    pub thread: [u32; 3],
    /// What happened.
    pub message: String,
}

impl From<&Fault> for Finding {
    fn from(fault: &Fault) -> Finding {
        Finding {
            kind: fault.kind.name(),
            line: fault.line,
            text: fault.text.clone(),
            block: fault.block,
            thread: fault.thread,
            message: fault.message.clone(),
        }
    }
}

/// A launch's findings, counts and predicted times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The entry.
    pub entry: String,
    /// Blocks in x, y, z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z.
    pub block: [u32; 3],
    /// Static and dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// What the checkers found; a launch stops at the first mistake.
    pub findings: Vec<Finding>,
    /// Reads of unwritten shared memory that were shown not to matter: the outputs are the same whatever
    /// that memory holds.
    pub harmless: Vec<Finding>,
    /// What was counted; `None` after a finding.
    pub counts: Option<Counts>,
    /// One prediction a card.
    pub predictions: Vec<Prediction>,
    /// Seconds the simulation took on this machine.
    pub simulation_seconds: f64,
}

impl Report {
    /// Adds the predictions of `cards`, if there are counts.
    pub fn with_cards(mut self, cards: &[&Card]) -> Report {
        if let Some(counts) = &self.counts {
            self.predictions = cards.iter().map(|card| predict(counts, card)).collect();
        }
        self
    }

    /// The report as one JSON object.
    ///
    /// # Errors
    /// Never for finite counts; the error of the serialiser otherwise.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// The report as text; `source` is the PTX, whose lines are quoted.
    pub fn text(&self, source: &str) -> String {
        let mut out = String::new();
        let [gx, gy, gz] = self.grid;
        let [bx, by, bz] = self.block;
        let mut line = |text: String| {
            out.push_str(&text);
            out.push('\n');
        };
        line(format!(
            "{}  grid ({gx},{gy},{gz})  block ({bx},{by},{bz})  shared {} bytes  simulated in {:.3} s",
            self.entry, self.shared_bytes, self.simulation_seconds
        ));
        if self.findings.is_empty() {
            line("checks       no findings".into());
        }
        for f in &self.findings {
            let ([bx, by, bz], [tx, ty, tz]) = (f.block, f.thread);
            line(format!("FOUND        {}: {}", f.kind, f.message));
            if f.line > 0 {
                line(format!("             block ({bx},{by},{bz}) thread ({tx},{ty},{tz})"));
                line(format!("             {:>5} | {}", f.line, f.text));
            }
        }
        for f in &self.harmless {
            line(format!("harmless     {} (line {}: {});", f.message, f.line, f.text));
            line("             the outputs are the same whatever that memory holds".into());
        }
        if let Some(counts) = &self.counts {
            out.push_str(&counts_text(counts, source));
        }
        for p in &self.predictions {
            let _ = write!(out, "{:<12} ≥ {}, bound by {}", p.card, time(p.seconds), p.bound);
            let mut parts: Vec<_> = p.parts.iter().filter(|part| part.unit != p.bound).collect();
            parts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
            for part in parts.iter().take(2).filter(|part| part.seconds > 0.0) {
                let _ = write!(out, "; {} {}", part.unit, time(part.seconds));
            }
            if let Some(share) = p.main_loop_tensor_share {
                let _ = write!(out, "; tensor share of the main loop {:.0} %", 100.0 * share);
            }
            out.push('\n');
        }
        out
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 1e-6 => format!("{:.0} ns", s * 1e9),
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// 1234567 as "1,234,567".
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn counts_text(counts: &Counts, source: &str) -> String {
    let mut out = String::new();
    let mut line = |label: &str, text: String| {
        let _ = writeln!(out, "{label:<12} {text}");
    };
    let issued = counts.warp_instructions();
    line(
        "instructions",
        format!("{} by warps, {} by lanes", grouped(issued), grouped(counts.lane_instructions())),
    );
    let mut names: Vec<&str> = counts.classes.keys().map(|class| class.name()).collect();
    names.dedup();
    let mut shares: Vec<(&str, u64)> =
        names.into_iter().map(|name| (name, counts.class(name).warps)).collect();
    shares.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let shares: Vec<String> = shares
        .iter()
        .map(|(name, n)| format!("{name} {:.1} %", 100.0 * *n as f64 / issued.max(1) as f64))
        .collect();
    for part in shares.chunks(7) {
        line("", part.join("  "));
    }
    if counts.tensor_flops() > 0 {
        line("tensor", format!("{} FLOP", grouped(counts.tensor_flops())));
    }
    let (moved, needed) = (counts.sectors(), counts.sectors_needed());
    line(
        "global",
        format!(
            "{} sectors moved, {} needed ({}); L2 {} bytes; distinct {} read, {} written",
            grouped(moved),
            grouped(needed),
            excess(moved, needed),
            grouped(counts.l2_bytes()),
            grouped(counts.read_footprint),
            grouped(counts.written_footprint)
        ),
    );
    let (taken, ideal) = (counts.wavefronts(), counts.wavefronts_ideal());
    line(
        "shared",
        format!("{} wavefronts, {} ideal ({})", grouped(taken), grouped(ideal), excess(taken, ideal)),
    );
    if counts.local_bytes > 0 {
        line("local", format!("{} bytes", grouped(counts.local_bytes)));
    }
    line("divergence", format!("{} branches split a warp", grouped(counts.divergent_branches())));
    if let Some(found) = counts.main_loop() {
        line(
            "main loop",
            format!(
                "lines {}–{}: {} turns, {} tensor and {} other instructions, sectors {}, wavefronts {}",
                found.first_line,
                found.last_line,
                grouped(found.turns),
                grouped(found.tensor_instructions()),
                grouped(found.other_instructions()),
                excess(found.sectors, found.sectors_needed),
                excess(found.wavefronts, found.wavefronts_ideal)
            ),
        );
    }
    let worst = counts.worst_lines(5);
    if !worst.is_empty() {
        line("worst lines", "moved/needed sectors, taken/ideal wavefronts".into());
    }
    for l in worst {
        let text = source.lines().nth(l.line.saturating_sub(1) as usize).unwrap_or_default().trim();
        let mut sizes = Vec::new();
        if l.sectors > 0 {
            sizes.push(format!("{}/{} sectors", grouped(l.sectors), grouped(l.sectors_needed)));
        }
        if l.wavefronts > 0 {
            let (taken, ideal) = (grouped(l.wavefronts), grouped(l.wavefronts_ideal));
            sizes.push(format!("{taken}/{ideal} wavefronts"));
        }
        line("", format!("{:>5} | {text}   {}", l.line, sizes.join(", ")));
    }
    out
}

fn excess(actual: u64, ideal: u64) -> String {
    if actual <= ideal {
        "none wasted".into()
    } else {
        format!("+{:.0} %", 100.0 * (actual - ideal) as f64 / ideal.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::count::{Accumulator, Class, GlobalAccess};
    use crate::roofline::card;

    fn report() -> Report {
        let mut a = Accumulator::new(2);
        a.block();
        a.instruction(0, u32::MAX);
        let strided = std::array::from_fn(|lane| 4096 + 128 * lane as u64);
        a.global_access(0, GlobalAccess::Load, &strided, u32::MAX, 4);
        a.instruction(1, u32::MAX);
        let counts = a.finish("k", [(2, Class::LoadGlobal, None), (3, Class::Control, None)]);
        Report {
            entry: "k".into(),
            grid: [1, 1, 1],
            block: [32, 1, 1],
            shared_bytes: 0,
            findings: Vec::new(),
            harmless: Vec::new(),
            counts: Some(counts),
            predictions: Vec::new(),
            simulation_seconds: 0.5,
        }
        .with_cards(&[card("A100").expect("known")])
    }

    #[test]
    fn text_names_the_worst_line() {
        let text = report().text("one\n  ld.global.f32 %f1, [%rd1];\nret;");
        assert!(text.contains("32 sectors moved, 4 needed (+700 %)"), "{text}");
        assert!(text.contains("    2 | ld.global.f32 %f1, [%rd1];   32/4 sectors"), "{text}");
        assert!(text.contains("no findings") && text.contains("A100"), "{text}");
    }

    #[test]
    fn json_has_the_same_numbers() {
        let json: serde_json::Value = serde_json::from_str(&report().json().expect("finite")).expect("valid");
        assert_eq!(json["counts"]["sectors"], 32);
        assert_eq!(json["counts"]["sectors_needed"], 4);
        assert_eq!(json["counts"]["worst_lines"][0]["line"], 2);
        assert_eq!(json["counts"]["classes"]["ld.global"]["warps"], 1);
        assert_eq!(json["predictions"][0]["card"], "A100");
        assert_eq!(json["findings"].as_array().map(Vec::len), Some(0));
    }

    #[test]
    fn a_finding_is_printed_with_its_place() {
        let finding = Finding {
            kind: "out-of-bounds access",
            line: 7,
            text: "st.global.f32 [%rd4], %f1;".into(),
            block: [1, 0, 0],
            thread: [31, 0, 0],
            message: "4 bytes at 0x7f00".into(),
        };
        let report = Report { findings: vec![finding], counts: None, ..report() };
        let text = report.text("");
        assert!(text.contains("FOUND        out-of-bounds access: 4 bytes at 0x7f00"), "{text}");
        assert!(text.contains("    7 | st.global.f32 [%rd4], %f1;"), "{text}");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([grouped(0), grouped(999), grouped(1_234_567)], ["0", "999", "1,234,567"]);
        assert_eq!([time(3e-9), time(2.5e-6), time(0.5)], ["3 ns", "2.5 µs", "500.00 ms"]);
    }
}
