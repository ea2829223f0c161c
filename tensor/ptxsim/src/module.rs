//! A parsed PTX module.

use std::collections::HashMap;
use std::sync::Arc;

use crate::decode::decode;
use crate::error::ParseError;
use crate::lex::Source;
use crate::parse::ast::{File, Function};
use crate::parse::parse;
use crate::program::Program;

/// One parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in the PTX text.
    pub name: String,
    /// Size in bytes.
    pub bytes: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// Offset in the packed parameter block.
    pub offset: u32,
    /// Whether the text marks it `.ptr` (compilers do so only at times).
    pub is_pointer: bool,
}

/// One kernel of a module.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its parameters, in order.
    pub params: Vec<Param>,
    /// Static shared memory in bytes.
    pub shared_bytes: u32,
    /// Most threads a block may have, from `.maxntid`.
    pub max_threads: Option<u32>,
    /// The block shape `.reqntid` demands.
    pub required_threads: Option<[u32; 3]>,
    pub(crate) program: Program,
}

impl Entry {
    /// Bytes of the packed parameter block.
    pub fn param_bytes(&self) -> usize {
        self.params.last().map_or(0, |p| (p.offset + p.bytes) as usize)
    }
}

/// A parsed and decoded PTX module.
pub struct Module {
    /// `.version`, for example (8, 4).
    pub version: (u32, u32),
    /// `.target`, for example `sm_80`.
    pub target: String,
    entries: Vec<Arc<Entry>>,
    names: HashMap<String, usize>,
    pub(crate) file: File,
    pub(crate) source: Arc<Source>,
}

impl Module {
    /// Parses PTX text and decodes every entry in it.
    ///
    /// # Errors
    /// Syntax errors, undeclared names, and instructions or modifiers that are not known, each with its
    /// line.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let source = Arc::new(Source::new(text));
        let file = parse(text, &source)?;
        let mut entries = Vec::new();
        let mut names = HashMap::new();
        for function in file.functions.iter().filter(|f| f.entry && f.defined) {
            let program = decode(&file, function, &source)?;
            if names.insert(function.name.clone(), entries.len()).is_some() {
                let message = format!("entry `{}` is defined twice", function.name);
                return Err(source.error(function.line, message));
            }
            entries.push(Arc::new(Entry {
                name: function.name.clone(),
                params: params(function),
                shared_bytes: program.shared_bytes,
                max_threads: function.max_threads,
                required_threads: function.required_threads,
                program,
            }));
        }
        Ok(Self { version: file.version, target: file.target.clone(), entries, names, file, source })
    }

    /// The module's kernels, in the order of the text.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(Arc::as_ref)
    }

    /// The kernel called `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.names.get(name).map(|&i| self.entries[i].as_ref())
    }

    pub(crate) fn shared_entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// Line `number` (from 1) of the text, trimmed.
    pub fn line(&self, number: u32) -> &str {
        self.source.line(number)
    }
}

fn params(function: &Function) -> Vec<Param> {
    let mut used = 0u32;
    let place = |v: &crate::parse::ast::Variable| {
        let offset = used.next_multiple_of(v.align.max(1));
        used = offset + v.bytes as u32;
        Param { name: v.name.clone(), bytes: v.bytes as u32, align: v.align, offset, is_pointer: v.pointer }
    };
    function.params.iter().map(place).collect()
}

impl std::fmt::Debug for Module {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.entries().map(|e| e.name.as_str()).collect();
        f.debug_struct("Module").field("target", &self.target).field("entries", &names).finish()
    }
}
