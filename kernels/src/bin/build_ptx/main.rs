//! `build-ptx`: compiles every CUDA kernel to the PTX that is checked in beside it, and assembles that PTX for the
//! table of registers, spills and occupancy in `docs/gpu/ptxas.md`.
//!
//! Neither step needs a GPU: see `docs/gpu/README.md`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

mod assemble;
mod compile;
mod occupancy;
mod table;

/// What the tool is asked to do; printed by `--help`.
const USAGE: &str = "\
Usage: cargo run --release -p medley-kernels --features nvrtc --bin build-ptx [-- OPTIONS] [FILE.cu ...]

Compiles every .cu under kernels/src and tensor/src (or the files named) with NVRTC 12.4 and writes each .ptx
beside its source.

  --assemble       in place of compiling: assemble every checked-in .ptx with ptxas for sm_80, sm_86, sm_89 and
                   sm_90, and write registers, spills and occupancy to docs/gpu/ptxas.md; a kernel that spills
                   without a reason in kernels/toolkit/kernels.txt is an error
  --check          write nothing; fail when what is checked in differs
  --toolkit DIR    the folder made by kernels/toolkit/fetch.sh (default: .cache/cuda of the workspace)
  --help           print this";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The command line.
    #[error("{0}\n\n{USAGE}")]
    Usage(String),
    /// The toolkit folder is not complete.
    #[error("{} is missing: run kernels/toolkit/fetch.sh, or name its folder with --toolkit DIR", missing.display())]
    Toolkit {
        /// The file that was looked for.
        missing: PathBuf,
    },
    /// The toolkit holds another NVRTC.
    #[error(
        "the PTX in this repository is made by NVRTC 12.4.127 (Python package nvidia-cuda-nvrtc-cu12==12.4.127), \
         this is {found}: run kernels/toolkit/fetch.sh and use its folder"
    )]
    Version {
        /// What the library says it is.
        found: String,
    },
    /// A file that cannot be read or written.
    #[error("{}: {source}", file.display())]
    Io {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A kernel that NVRTC refuses.
    #[error("{} does not compile:\n{log}", file.display())]
    Compile {
        /// The source.
        file: PathBuf,
        /// NVRTC's log.
        log: String,
    },
    /// PTX that ptxas refuses.
    #[error("ptxas refuses {} for {arch}:\n{log}", file.display())]
    Assemble {
        /// The PTX.
        file: PathBuf,
        /// The architecture.
        arch: &'static str,
        /// What ptxas says.
        log: String,
    },
    /// A report of ptxas that is not in its usual form.
    #[error("the report of ptxas on {} for {arch} lacks a kernel's registers (it must be 12.4):\n{report}", file.display())]
    Report {
        /// The PTX.
        file: PathBuf,
        /// The architecture.
        arch: &'static str,
        /// The report.
        report: String,
    },
    /// A line of `kernels/toolkit/kernels.txt`.
    #[error("{}:{line}: want `shared PATTERN BYTES` or `spills PATTERN REASON`, not `{text}`", file.display())]
    Notes {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What it says.
        text: String,
    },
    /// Kernels that may not be as they are.
    #[error("{}", faults.join("\n"))]
    Kernels {
        /// A line each.
        faults: Vec<String>,
    },
    /// `--assemble --check` found another table.
    #[error(
        "{} is not what ptxas makes of the PTX; it differs first in\n  {line}\nrun build-ptx --assemble and commit \
         the result",
        table::TABLE
    )]
    Table {
        /// The first line of the new table that the old one lacks.
        line: String,
    },
    /// `--check` found differences.
    #[error(
        "not what their sources compile to:\n{}\nrun build-ptx without --check and commit the result",
        files.join("\n")
    )]
    Stale {
        /// The PTX files, a line each.
        files: Vec<String>,
    },
    /// Several files failed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n\n"))]
    Several(Vec<Error>),
}

type Result<T> = std::result::Result<T, Error>;

fn main() -> ExitCode {
    match run(std::env::args_os().skip(1).collect()) {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("build-ptx: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The resolved command line.
#[derive(Debug, PartialEq)]
struct Plan {
    check: bool,
    assemble: bool,
    help: bool,
    toolkit: PathBuf,
    files: Vec<PathBuf>,
}

impl Plan {
    fn parse(args: &[OsString], root: &Path) -> Result<Plan> {
        let mut plan = Plan {
            check: false,
            assemble: false,
            help: false,
            toolkit: root.join(".cache/cuda"),
            files: Vec::new(),
        };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.to_str() {
                Some("--check") => plan.check = true,
                Some("--assemble") => plan.assemble = true,
                Some("--help" | "-h") => plan.help = true,
                Some("--toolkit") => match args.next() {
                    Some(folder) => plan.toolkit = absolute(Path::new(folder))?,
                    None => return Err(Error::Usage("--toolkit wants a folder".into())),
                },
                Some(option) if option.starts_with('-') => {
                    return Err(Error::Usage(format!("there is no option {option}")));
                }
                _ => plan.files.push(absolute(Path::new(arg))?),
            }
        }
        if let Some(file) = plan.files.iter().find(|file| file.extension() != Some("cu".as_ref())) {
            return Err(Error::Usage(format!("{} is not a .cu file", file.display())));
        }
        if plan.assemble && !plan.files.is_empty() {
            return Err(Error::Usage("--assemble takes every checked-in .ptx: name no files".into()));
        }
        Ok(plan)
    }
}

fn run(args: Vec<OsString>) -> Result<String> {
    let root = absolute(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))?;
    let plan = Plan::parse(&args, &root)?;
    if plan.help {
        return Ok(USAGE.to_owned());
    }
    if plan.assemble {
        return assemble_all(&root, &plan);
    }
    if compile::library(&plan.toolkit).is_file()
        && let Some(paths) =
            compile::search_path(&plan.toolkit, std::env::var_os("LD_LIBRARY_PATH").as_deref())
    {
        return restart(&args, paths);
    }
    let compiler = compile::Compiler::new(&root, &plan.toolkit)?;
    let sources = if plan.files.is_empty() { kernel_files(&root, "cu")? } else { plan.files.clone() };
    let built = in_parallel(&sources, |source| {
        let ptx = compiler.ptx(source)?;
        let target = source.with_extension("ptx");
        let current = if target.exists() { Some(read(&target)?) } else { None };
        let changed = current.as_deref() != Some(ptx.as_str());
        if changed && !plan.check {
            std::fs::write(&target, &ptx).map_err(|source| Error::Io { file: target.clone(), source })?;
        }
        Ok((changed, format!("  {} ({} KB)", relative(&target, &root), ptx.len().div_ceil(1024))))
    })?;
    let total = built.len();
    let mut changed: Vec<String> =
        built.into_iter().filter_map(|(changed, line)| changed.then_some(line)).collect();
    if plan.check {
        if plan.files.is_empty() {
            changed.extend(orphans(&root)?);
        }
        if !changed.is_empty() {
            return Err(Error::Stale { files: changed });
        }
        return Ok(format!("{total} PTX files are what their sources compile to"));
    }
    changed.insert(0, format!("{total} sources compiled, {} PTX files written", changed.len()));
    Ok(changed.join("\n"))
}

/// Assembles every PTX file and writes the table, or compares it with the one checked in.
fn assemble_all(root: &Path, plan: &Plan) -> Result<String> {
    let ptxas = assemble::ptxas(&plan.toolkit)?;
    let notes = table::Notes::read(&root.join(table::NOTES))?;
    let files = kernel_files(root, "ptx")?;
    let mut modules = Vec::new();
    for file in &files {
        modules.extend(assemble::modules(file)?.into_iter().map(|text| (file, text)));
    }
    let jobs: Vec<_> = modules
        .iter()
        .flat_map(|(file, text)| occupancy::ARCHS.iter().map(move |arch| (*file, text, arch)))
        .collect();
    let mut resources =
        in_parallel(&jobs, |(file, text, arch)| assemble::assemble(&ptxas, file, text, arch))?.into_iter();
    let assembled: Vec<table::Assembled> = modules
        .iter()
        .map(|(file, text)| table::Assembled {
            file: relative(file, root),
            entries: assemble::parse_entries(text),
            resources: resources.by_ref().take(occupancy::ARCHS.len()).collect(),
        })
        .collect();
    let new = table::render(&assembled, &notes)?;
    let target = root.join(table::TABLE);
    if plan.check {
        let old = read(&target)?;
        if old == new {
            return Ok(format!("{} is what ptxas makes of {} PTX files", table::TABLE, files.len()));
        }
        let known: std::collections::HashSet<&str> = old.lines().collect();
        let line =
            new.lines().find(|line| !known.contains(line)).unwrap_or("a line that went away").to_owned();
        return Err(Error::Table { line });
    }
    let io = |source| Error::Io { file: target.clone(), source };
    std::fs::create_dir_all(target.parent().unwrap_or(root)).map_err(io)?;
    std::fs::write(&target, new).map_err(io)?;
    Ok(format!("{} PTX files assembled; {} written", files.len(), table::TABLE))
}

/// PTX files in the kernels' folders that no source makes.
fn orphans(root: &Path) -> Result<Vec<String>> {
    let ptx = kernel_files(root, "ptx")?;
    Ok(ptx
        .iter()
        .filter(|file| !file.with_extension("cu").exists())
        .map(|file| format!("  {} (has no .cu: delete it)", relative(file, root)))
        .collect())
}

/// Every file with this extension under `kernels/src` and `tensor/src`, sorted.
fn kernel_files(root: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.join("kernels/src"), root.join("tensor/src")];
    while let Some(folder) = folders.pop() {
        let io = |source| Error::Io { file: folder.clone(), source };
        for entry in std::fs::read_dir(&folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension() == Some(extension.as_ref()) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// `work` for every item, on as many threads as there are cores; results in the items' order, or every failure.
fn in_parallel<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> Result<T> + Sync) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<T>)>> = Mutex::new(Vec::with_capacity(items.len()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { break };
                    let result = work(item);
                    results.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    let (mut values, mut errors) = (Vec::with_capacity(items.len()), Vec::new());
    for (_, result) in results {
        match result {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    match errors.len() {
        0 => Ok(values),
        1 => Err(errors.remove(0)),
        _ => Err(Error::Several(errors)),
    }
}

/// Starts the tool again with `paths` as the loader's search path.
fn restart(args: &[OsString], paths: OsString) -> Result<String> {
    use std::os::unix::process::CommandExt;
    let program = std::env::current_exe().map_err(|source| Error::Io { file: "build-ptx".into(), source })?;
    let source = std::process::Command::new(&program).args(args).env("LD_LIBRARY_PATH", paths).exec();
    Err(Error::Io { file: program, source })
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|source| Error::Io { file: file.to_path_buf(), source })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    // The workspace and the toolkit may be reached through links or `..`; what does not exist stays as typed.
    if path.exists() { path.canonicalize() } else { std::path::absolute(path) }
        .map_err(|source| Error::Io { file: path.to_path_buf(), source })
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &[&str]) -> Result<Plan> {
        Plan::parse(&args.iter().map(OsString::from).collect::<Vec<_>>(), Path::new("/w"))
    }

    #[test]
    fn the_command_line() {
        let found = plan(&["--check", "--toolkit", "/t", "/w/a.cu"]).unwrap();
        assert_eq!(
            found,
            Plan {
                check: true,
                assemble: false,
                help: false,
                toolkit: "/t".into(),
                files: vec!["/w/a.cu".into()]
            }
        );
        assert_eq!(plan(&[]).unwrap().toolkit, Path::new("/w/.cache/cuda"));
        assert!(plan(&["--assemble"]).unwrap().assemble);
        assert!(plan(&["--assemble", "a.cu"]).unwrap_err().to_string().contains("name no files"));
        assert!(plan(&["--chek"]).unwrap_err().to_string().contains("--chek"));
        assert!(plan(&["--toolkit"]).unwrap_err().to_string().contains("wants a folder"));
        assert!(plan(&["kernel.ptx"]).unwrap_err().to_string().contains("kernel.ptx is not a .cu file"));
    }

    #[test]
    fn a_toolkit_that_is_not_there_says_how_to_get_it() {
        let Err(error) = compile::Compiler::new(Path::new("/w"), Path::new("/no-toolkit")) else { panic!() };
        let error = error.to_string();
        assert!(error.contains("/no-toolkit/lib/libnvrtc.so") && error.contains("fetch.sh"), "{error}");
    }

    #[test]
    fn the_search_path_is_set_once() {
        let paths = compile::search_path(Path::new("/t"), Some("/a:/b".as_ref())).unwrap();
        assert_eq!(paths, "/t/lib:/a:/b");
        assert_eq!(compile::search_path(Path::new("/t"), Some(&paths)), None);
    }

    #[test]
    fn parallel_results_keep_their_order_and_every_error() {
        let items: Vec<u32> = (0..50).collect();
        assert_eq!(
            in_parallel(&items, |i| Ok(i * 2)).unwrap(),
            items.iter().map(|i| i * 2).collect::<Vec<_>>()
        );
        let failed =
            in_parallel(
                &items,
                |i| if i % 25 == 7 { Err(Error::Usage(format!("item {i};"))) } else { Ok(()) },
            );
        let text = failed.unwrap_err().to_string();
        assert!(text.contains("item 7;") && text.contains("item 32;"), "{text}");
    }
}
