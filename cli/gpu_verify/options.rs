//! The command line of `gpu-verify`.

use std::path::PathBuf;

use anyhow::{Result, bail};

/// Printed by `--help`.
pub const USAGE: &str = "\
Usage: gpu-verify [--device cuda:N|sim] [--quick] [--only PART,...] [--filter TEXT]
                  [--output FILE] [--python PROGRAM]

Runs every kernel against the CPU, a short training run, and benchmarks at Llama-7B shapes beside the simulator's
predictions; prints tables, and on a card writes them to docs/gpu/CARD-DATE.md. Fails when a kernel or the training
run is off.

  --device NAME      cuda:N (default cuda:0), or sim: the simulator, with times predicted for named cards
  --quick            small sizes and few runs (always so on sim)
  --only PARTS       some of: ops, train, bench, peers
  --filter TEXT      only the benches whose names contain it
  --output FILE      where the report goes (default: docs/gpu/CARD-DATE.md on a card, nowhere on sim)
  --python PROGRAM   the Python whose torch and bitsandbytes run beside (default: python3)
  --help             print this";

/// The parts of a run, in their order.
pub const PARTS: [&str; 4] = ["ops", "train", "bench", "peers"];

/// The resolved command line.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// As `Device::open` takes it.
    pub device: String,
    /// Small sizes and few runs.
    pub quick: bool,
    /// Which of [`PARTS`] to run.
    pub parts: Vec<String>,
    /// Only benches whose names contain this.
    pub filter: String,
    /// Where the report goes, if said.
    pub output: Option<PathBuf>,
    /// The Python of the peers.
    pub python: String,
    /// Print the usage and nothing else.
    pub help: bool,
}

impl Options {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// An option that does not exist or lacks its value, a device that cannot be verified.
    pub fn parse(words: impl Iterator<Item = String>) -> Result<Options> {
        let mut options = Options {
            device: "cuda:0".into(),
            quick: false,
            parts: PARTS.map(str::to_owned).into(),
            filter: String::new(),
            output: None,
            python: "python3".into(),
            help: false,
        };
        let mut words = words;
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| anyhow::anyhow!("{word} wants a value\n\n{USAGE}"));
            match word.as_str() {
                "--device" => options.device = value()?,
                "--quick" => options.quick = true,
                "--only" => options.parts = value()?.split(',').map(|part| part.trim().to_owned()).collect(),
                "--filter" => options.filter = value()?,
                "--output" => options.output = Some(value()?.into()),
                "--python" => options.python = value()?,
                "--help" | "-h" => options.help = true,
                other => bail!("there is no option {other}\n\n{USAGE}"),
            }
        }
        if let Some(part) = options.parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
            bail!("--only takes some of {}, not `{part}`", PARTS.join(", "));
        }
        if options.device == "cpu" {
            bail!("there is nothing to verify on the CPU: --device takes cuda:N or sim");
        }
        options.quick |= options.device == "sim";
        Ok(options)
    }

    /// Whether a part is to run.
    pub fn runs(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_command_line() {
        let options = parse("--device sim --only ops,bench --filter gemm --output r.md").unwrap();
        assert!(options.quick && options.runs("ops") && options.runs("bench") && !options.runs("train"));
        assert_eq!((options.output, options.filter.as_str()), (Some("r.md".into()), "gemm"));
        let default = parse("").unwrap();
        assert!(default.device == "cuda:0" && !default.quick && PARTS.iter().all(|part| default.runs(part)));
        for (line, message) in [
            ("--only ops,benches", "not `benches`"),
            ("--device", "--device wants a value"),
            ("--fast", "no option --fast"),
            ("--device cpu", "nothing to verify on the CPU"),
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
