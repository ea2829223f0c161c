//! CUDA C++ to PTX text by NVRTC.
//!
//! The PTX is checked in and compared byte by byte, so exactly one version of NVRTC with exactly one set of
//! options makes it. Options: NVIDIA, "NVRTC", section "Supported Compile Options".

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use cudarc::nvrtc::{CompileError, CompileOptions, compile_ptx_with_opts};

use crate::{Error, Result, read};

/// What PTX of the pinned NVRTC says about its maker: release 12.4, which writes PTX ISA 8.4 (drivers from R550).
const RELEASE: &str = "release 12.4, V12.4.127";

/// Every kernel's options: the sm_80 baseline and C++17. `--use_fast_math` stays off, which is NVRTC's default
/// (it takes no value): IEEE division and square root, subnormals kept.
const OPTIONS: [&str; 3] = ["--gpu-architecture=compute_80", "--std=c++17", "-default-device"];

/// NVRTC and the CUDA headers of one toolkit folder.
pub struct Compiler {
    /// The workspace: sources are named relative to it.
    root: PathBuf,
    /// The headers of the toolkit.
    include: PathBuf,
}

impl Compiler {
    /// Checks that the NVRTC of `toolkit` (a folder made by `kernels/toolkit/fetch.sh`) is there and is 12.4.127.
    ///
    /// # Errors
    /// A library or header that is missing; another version of NVRTC.
    pub fn new(root: &Path, toolkit: &Path) -> Result<Compiler> {
        let include = toolkit.join("include");
        for needed in [library(toolkit), include.join("cuda_fp16.h"), include.join("cuda_bf16.h")] {
            if !needed.is_file() {
                return Err(Error::Toolkit { missing: needed });
            }
        }
        let compiler = Compiler { root: root.to_path_buf(), include };
        let probe = compiler.nvrtc("extern \"C\" __global__ void probe() {}", Path::new("probe.cu"))?;
        match probe.lines().find_map(|line| line.strip_prefix("// Cuda compilation tools, ")) {
            Some(RELEASE) => Ok(compiler),
            other => Err(Error::Version { found: other.unwrap_or("a version it does not name").to_owned() }),
        }
    }

    /// The PTX text of one source file, [`compact`].
    ///
    /// # Errors
    /// The file cannot be read, or NVRTC refuses it: the error carries NVRTC's own log.
    pub fn ptx(&self, source: &Path) -> Result<String> {
        Ok(compact(&self.nvrtc(&read(source)?, source)?))
    }

    fn nvrtc(&self, text: &str, source: &Path) -> Result<String> {
        // Paths relative to the workspace keep its place out of the PTX.
        let name = source.strip_prefix(&self.root).unwrap_or(source);
        let mut include_paths = vec![
            self.include.display().to_string(),
            self.root.join("kernels/src/cuda").display().to_string(),
        ];
        include_paths.extend(source.parent().map(|folder| folder.display().to_string()));
        let options = CompileOptions {
            include_paths,
            options: OPTIONS.map(str::to_owned).into(),
            name: Some(name.display().to_string()),
            ..CompileOptions::default()
        };
        compile_ptx_with_opts(text, options).map(|ptx| ptx.to_src()).map_err(|error| Error::Compile {
            file: name.to_path_buf(),
            log: match error {
                CompileError::CompileError { log, .. } => log.to_string_lossy().trim_end().to_owned(),
                other => other.to_string(),
            },
        })
    }
}

/// PTX as it is checked in: the comment that names the release, then the code without comments, blank lines and runs
/// of white space. That is a sixth less to keep, and nothing names the build of the compiler.
fn compact(ptx: &str) -> String {
    let mut text = format!("// NVRTC, {RELEASE}\n");
    for line in ptx.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first().is_none_or(|word| word.starts_with("//")) {
            continue;
        }
        if line.starts_with(['\t', ' ']) {
            text.push('\t');
        }
        text += &words.join(" ");
        text.push('\n');
    }
    text
}

/// The NVRTC of a toolkit folder.
pub fn library(toolkit: &Path) -> PathBuf {
    toolkit.join("lib/libnvrtc.so")
}

/// The loader's search path with `toolkit`'s libraries first, or `None` where they are first already.
///
/// NVRTC is opened by name and opens its own builtins by name, and the loader reads the variable once, when a
/// program starts: the tool starts itself again with this value.
pub fn search_path(toolkit: &Path, now: Option<&OsStr>) -> Option<std::ffi::OsString> {
    let wanted = toolkit.join("lib");
    let now: Vec<PathBuf> = now.map(|paths| std::env::split_paths(paths).collect()).unwrap_or_default();
    if now.first() == Some(&wanted) {
        return None;
    }
    std::env::join_paths(std::iter::once(wanted).chain(now)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compact_ptx_keeps_every_instruction() {
        let ptx = "//\n// Compiler Build ID: CL-1\n\n.version 8.4\n{\n\tand.b32  \t%r1, %r2, 24;\n\t// begin inline asm\n\
                   \tcp.async.commit_group;\n\t// end inline asm\n\n$L__BB0_1:\n\tret;  \n}\n";
        let code =
            ".version 8.4\n{\n\tand.b32 %r1, %r2, 24;\n\tcp.async.commit_group;\n$L__BB0_1:\n\tret;\n}\n";
        assert_eq!(compact(ptx), format!("// NVRTC, {RELEASE}\n{code}"));
    }
}
