//! Every option, once.

mod evaluation;
mod fields;
mod no_effect;
mod refused;

use super::option::Opt;

const PARTS: &[&[Opt]] = &[
    fields::COMMAND,
    fields::MODEL,
    fields::DATA,
    fields::TASKS,
    fields::LORA,
    fields::OPTIMISATION,
    evaluation::EVALUATION,
    fields::OUTPUT,
    fields::GENERATE,
    fields::RUN,
    fields::RENAMED,
    evaluation::RENAMED,
    no_effect::NO_EFFECT,
    refused::REFUSED,
];

/// Every row, in the order of `--help`.
pub fn all() -> impl Iterator<Item = &'static Opt> {
    PARTS.iter().copied().flatten()
}

/// The row of this name.
pub fn find(name: &str) -> Option<&'static Opt> {
    all().find(|opt| opt.name == name)
}

/// The known name that looks most like this one, if any does.
pub fn nearest(name: &str) -> Option<&'static str> {
    // Jaro-Winkler rewards a shared prefix (`lora_rnak`); below 0.85 the guess is more often wrong than right.
    all()
        .map(|opt| (strsim::jaro_winkler(name, opt.name), opt.name))
        .filter(|(score, _)| *score >= 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
