//! The command line.

use std::path::PathBuf;

use ptxsim::Checks;
use ptxsim::roofline::{CARDS, Card, card};

use crate::argument::Argument;

/// What `--help` prints.
pub const HELP: &str = "\
ptxsim — runs a PTX kernel on the CPU, checks every access and barrier, counts what it costs

  ptxsim FILE.ptx --entry NAME --grid X[,Y[,Z]] --block X[,Y[,Z]] [--shared BYTES] [--arg SPEC]...
  ptxsim FILE.ptx --list                 the entries, their parameters, and what to pass for them

One --arg a parameter, in order:
  in:FILE.npy                            a pointer to the array (f2 f4 f8, i1-i8, u1-u8; bf16 as u2)
  in:DTYPE:FILE.npy                      the same, floats converted first: in:bf16:weights_f32.npy
  out:DTYPE:SHAPE:FILE.npy               a new, unwritten array: out:f32:1024:c.npy, out:f16:64x32:c.npy;
                                         bf16 is saved as u2: numpy.load(f).astype('u4') << 16 viewed as f4
  inout:FILE.npy[:OTHER.npy]             read, then written back (to OTHER, if given)
  zeros:DTYPE:SHAPE:FILE.npy             as out, but zero at the start (for atomics and sums)
  u32:7 i32:-1 f32:0.5                   numbers; also u8 u16 u64 i8 i16 i64 f16 bf16 f64
  scratch:BYTES                          a pointer to unwritten memory
  null                                   a null pointer
  bytes:HEX                              a struct, byte by byte: bytes:0100000002000000

Options:
  --grid X[,Y[,Z]]                       blocks (default 1)
  --block X[,Y[,Z]]                      threads of a block (default: the kernel's .reqntid, if it has one)
  --shared BYTES                         dynamic shared memory (Triton: metadata.shared)
  --sm NN                                compute capability to claim (default: the text's .target)
  --no-check KIND                        switch a check off: bounds alignment uninitialised races barriers
                                         async-copies, or all
  --max-instructions N                   stop after N warp instructions (default 500000000): an endless loop
                                         is reported rather than waited for
  --card NAME                            predict the time on RTX 3090, RTX 4090, A100, H100, L4 (repeatable;
                                         default: all)
  --report text|json                     form of the report on standard output

A read of shared memory that nothing has written is followed up: the kernel runs again with that memory
full of zeros and of ones, and if the outputs agree the read is reported as harmless.

Exit status: 0 nothing found, outputs written; 1 a checker found a mistake (reported with its PTX line,
block and thread; outputs are not written); 2 bad options, files or arguments.

Example: 1,000 elements of saxpy, 256 threads a block
  ptxsim saxpy.ptx --grid 4 --block 256 --arg f32:2 --arg in:x.npy --arg inout:y.npy:result.npy --arg u32:1000
";

/// Warp instructions after which a launch counts as endless: about a minute of simulation.
const MAX_INSTRUCTIONS: u64 = 500_000_000;

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// `--help`.
    Help,
    /// A file to run or list.
    Run(Box<Options>),
}

/// The options of a run.
#[derive(Debug)]
pub struct Options {
    /// The PTX file.
    pub file: PathBuf,
    /// `--list`.
    pub list: bool,
    /// `--entry`.
    pub entry: Option<String>,
    /// `--grid`.
    pub grid: [u32; 3],
    /// `--block`.
    pub block: Option<[u32; 3]>,
    /// `--shared`.
    pub shared: u32,
    /// `--arg`, in order.
    pub arguments: Vec<Argument>,
    /// `--sm`.
    pub sm: Option<(u32, u32)>,
    /// Checks left on by `--no-check`.
    pub checks: Checks,
    /// `--max-instructions`.
    pub max_instructions: Option<u64>,
    /// `--card`.
    pub cards: Vec<&'static Card>,
    /// `--report json`.
    pub json: bool,
}

/// Reads the command line.
///
/// # Errors
/// Names the option, what it takes and what it was given.
pub fn parse(arguments: &[String]) -> Result<Request, String> {
    let mut file = None;
    let mut options = Options {
        file: PathBuf::new(),
        list: false,
        entry: None,
        grid: [1; 3],
        block: None,
        shared: 0,
        arguments: Vec::new(),
        sm: None,
        checks: Checks::ALL,
        max_instructions: Some(MAX_INSTRUCTIONS),
        cards: Vec::new(),
        json: false,
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        let mut value = |what: &str| {
            inline.clone().or_else(|| words.next().cloned()).ok_or_else(|| format!("{name} needs {what}"))
        };
        match name {
            "-h" | "--help" => return Ok(Request::Help),
            "--list" => options.list = true,
            "--entry" => options.entry = Some(value("the name of an entry")?),
            "--grid" => options.grid = sizes(name, &value("X[,Y[,Z]]")?)?,
            "--block" => options.block = Some(sizes(name, &value("X[,Y[,Z]]")?)?),
            "--shared" => options.shared = number(name, &value("a number of bytes")?)?,
            "--arg" => options.arguments.push(Argument::parse(&value("in:FILE.npy and the like")?)?),
            "--sm" => options.sm = Some(capability(&value("a number such as 80")?)?),
            "--no-check" => disable(&mut options.checks, &value("the kind of check")?)?,
            "--max-instructions" => {
                options.max_instructions = Some(number(name, &value("a number")?)?);
            }
            "--card" => {
                let text = value("the name of a card")?;
                let known: Vec<&str> = CARDS.iter().map(|card| card.name).collect();
                let found =
                    card(&text).ok_or_else(|| format!("--card {text}: known are {}", known.join(", ")))?;
                options.cards.push(found);
            }
            "--report" => {
                options.json = match value("text or json")?.as_str() {
                    "text" => false,
                    "json" => true,
                    other => return Err(format!("--report {other}: text or json")),
                };
            }
            _ if name.starts_with('-') && name.len() > 1 => {
                return Err(format!("{name} is not an option; ptxsim --help lists them"));
            }
            _ if file.is_none() => file = Some(PathBuf::from(word)),
            _ => return Err(format!("{word}: one PTX file at a time; kernel arguments go into --arg")),
        }
    }
    options.file = file.ok_or("which PTX file? ptxsim FILE.ptx …; ptxsim --help explains")?;
    if options.cards.is_empty() {
        options.cards = CARDS.iter().collect();
    }
    Ok(Request::Run(Box::new(options)))
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} {text}: a number is expected"))
}

fn sizes(name: &str, text: &str) -> Result<[u32; 3], String> {
    let parts: Vec<u32> =
        text.split([',', 'x']).map(|part| number(name, part.trim())).collect::<Result<_, _>>()?;
    match parts[..] {
        [x] => Ok([x, 1, 1]),
        [x, y] => Ok([x, y, 1]),
        [x, y, z] => Ok([x, y, z]),
        _ => Err(format!("{name} {text}: one to three numbers, as in 16,8,1")),
    }
}

fn capability(text: &str) -> Result<(u32, u32), String> {
    let digits = text.trim_start_matches("sm_").replace('.', "");
    let value: u32 = number("--sm", &digits)?;
    if !(70..=129).contains(&value) {
        return Err(format!("--sm {text}: a compute capability from 70 to 129, such as 80, 86, 89 or 90"));
    }
    Ok((value / 10, value % 10))
}

fn disable(checks: &mut Checks, kind: &str) -> Result<(), String> {
    match kind {
        "bounds" => checks.bounds = false,
        "alignment" => checks.alignment = false,
        "uninitialised" => {
            checks.uninitialised = false;
            checks.uninitialised_shared = false;
        }
        "races" => checks.races = false,
        "barriers" => checks.barriers = false,
        "async-copies" => checks.async_copies = false,
        "all" => *checks = Checks::NONE,
        _ => {
            return Err(format!(
                "--no-check {kind}: bounds, alignment, uninitialised, races, barriers, async-copies or all"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, String> {
        parse(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    fn options(line: &str) -> Options {
        match read(line) {
            Ok(Request::Run(options)) => *options,
            other => unreachable!("{line}: {other:?}"),
        }
    }

    #[test]
    fn everything_is_read() {
        let o = options(
            "k.ptx --entry f --grid 4,2 --block=32x1x2 --shared 99 --sm sm_86 --no-check races --card 4090 \
             --report json --arg u32:7 --max-instructions 5",
        );
        assert_eq!((o.grid, o.block, o.shared), ([4, 2, 1], Some([32, 1, 2]), 99));
        assert_eq!((o.sm, o.entry.as_deref(), o.json), (Some((8, 6)), Some("f"), true));
        assert!(!o.checks.races && o.checks.bounds);
        assert_eq!((o.cards.len(), o.arguments.len(), o.max_instructions), (1, 1, Some(5)));
        assert_eq!(options("k.ptx").cards.len(), CARDS.len());
        assert!(matches!(read("k.ptx --help"), Ok(Request::Help)));
    }

    #[test]
    fn mistakes_are_named() {
        for (line, needle) in [
            ("--entry f", "which PTX file"),
            ("k.ptx --grid", "--grid needs"),
            ("k.ptx --grid 1,2,3,4", "one to three"),
            ("k.ptx --block many", "--block many"),
            ("k.ptx --gird 4", "--gird is not an option"),
            ("k.ptx l.ptx", "one PTX file at a time"),
            ("k.ptx --card voodoo", "RTX 3090"),
            ("k.ptx --no-check everything", "async-copies"),
            ("k.ptx --report xml", "text or json"),
            ("k.ptx --sm 12345", "70 to 129"),
        ] {
            let message = read(line).expect_err(line);
            assert!(message.contains(needle), "{line}: {message}");
        }
    }
}
