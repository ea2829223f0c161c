//! `docs/options.md`: every option there is, written from the option table.

use super::help::default_of;
use super::option::{Kind, Opt, Section, Status};
use super::table;
use std::fmt::Write;

/// The document's text.
pub fn options_markdown() -> String {
    let mut out = String::from(
        "# Options\n\nWritten from the option table in `cli/args/table` (a test compares the two; to renew it: \
         `MEDLEY_WRITE_DOCS=1 cargo test --release --bin medley options_document`). Names are LLaMA-Factory's and \
         Hugging Face's where they have one. On the command line `--name value`, `--name=value` and `name=value` are \
         the same; in YAML `name: value`.\n\n\
         - [Options that do something](#options-that-do-something)\n\
         - [Accepted without effect](#accepted-without-effect)\n\
         - [Not available](#not-available)\n\
         - [Other names](#other-names)\n\n## Options that do something\n",
    );
    for section in Section::ALL {
        let _ = writeln!(out, "\n### {}\n", section.title());
        out += "| option | value | default | what it does | commands |\n|---|---|---|---|---|\n";
        let fields = table::all().filter(|opt| matches!(opt.status, Status::Field(s) if s == section));
        for opt in fields {
            let commands: Vec<&str> = opt.commands.iter().map(|cmd| cmd.spec().name).collect();
            let default = default_of(section, opt.name).map(|d| format!("`{d}`")).unwrap_or_default();
            row(&mut out, &[&code(opt.name), &value(opt), &default, opt.help, &commands.join(", ")]);
        }
    }
    out += "\n## Accepted without effect\n\nNames of LLaMA-Factory and of Hugging Face's `TrainingArguments` that \
            change nothing here; a run that sets one says so.\n\n| option | why |\n|---|---|\n";
    for opt in table::all().filter(|opt| opt.status == Status::NoEffect) {
        row(&mut out, &[&code(opt.name), opt.help]);
    }
    out += "\n## Not available\n\nAn error that says what to do, unless the option is switched off.\n\n\
            | option | what to do instead |\n|---|---|\n";
    for opt in table::all().filter(|opt| matches!(opt.status, Status::Refused { .. })) {
        row(&mut out, &[&code(opt.name), opt.help]);
    }
    out += "\n## Other names\n\n| name | stands for |\n|---|---|\n";
    for opt in table::all() {
        if let Status::Renamed(to) = opt.status {
            row(&mut out, &[&code(opt.name), &code(to)]);
        }
    }
    out
}

fn code(name: &str) -> String {
    format!("`{name}`")
}

fn value(opt: &Opt) -> String {
    match opt.kind {
        Kind::Flag => "true, false".into(),
        Kind::Choice(names) => names.join(", "),
        kind => kind.metavar().to_string(),
    }
}

fn row(out: &mut String, cells: &[&str]) {
    let cells: Vec<String> = cells.iter().map(|c| c.replace('|', "\\|").replace('\u{a0}', " ")).collect();
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_options_document_is_what_the_table_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md");
        let text = options_markdown();
        if std::env::var_os("MEDLEY_WRITE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let there = std::fs::read_to_string(path).unwrap();
        assert!(
            there == text,
            "docs/options.md is not what the option table says; renew it with MEDLEY_WRITE_DOCS=1 cargo test \
             --release --bin medley options_document"
        );
    }
}
