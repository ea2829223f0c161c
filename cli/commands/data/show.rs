//! `medley data show`: examples as the model sees them, what is learned set apart.

use std::io::IsTerminal;

use anyhow::{Result, bail};
use medley_model::tokenizer::Tokenizer;
use medley_train::data::{Dataset, Example, Split, Tasks, location};
use medley_train::trainer::setup;

use super::open;
use crate::args::Settings;

/// Rows of each file that are looked at first: a large file need not be tokenised to show three of it.
const FIRST_ROWS: usize = 2000;

/// How what is learned is set apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    /// Bold on green.
    Colour,
    /// Between `«` and `»`.
    Quotes,
}

impl Marks {
    /// Colour in a terminal, unless <https://no-color.org>'s variable is set.
    fn of_stdout() -> Marks {
        let refused = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        if std::io::stdout().is_terminal() && !refused { Marks::Colour } else { Marks::Quotes }
    }

    fn learned(self, text: &str) -> String {
        match self {
            Marks::Quotes => format!("«{text}»"),
            // Line by line: a terminal would fill the rest of a line with the background.
            Marks::Colour => {
                let lines: Vec<String> = text
                    .split('\n')
                    .map(|line| match line {
                        "" => String::new(),
                        line => format!("\x1b[1;30;42m{line}\x1b[0m"),
                    })
                    .collect();
                lines.join("\n")
            }
        }
    }
}

/// `medley data show`: rendered examples, one of each task first, what is learned on green, or between `«`
/// and `»`.
///
/// # Errors
/// Model, data or template cannot be used; no example of the task that was asked for.
pub fn show(settings: &Settings) -> Result<()> {
    let wanted = settings.command.task_name.as_deref();
    let mut config = settings.config.clone();
    let Some(opened) = open(&config)? else { bail!("name a model (--model_name_or_path)") };
    let given = config.data.max_samples;
    let mut load = |most: Option<usize>| {
        config.data.max_samples = most;
        let (renderer, tasks) = (opened.renderer.as_ref(), &mut Tasks::default());
        setup::tokenised(&config, Split::Train, renderer, &opened.tokenizer, tasks)
    };
    let has = |data: &Dataset| wanted.is_none_or(|name| data.iter().any(|e| task(data, &e) == name));
    let few = given.unwrap_or(usize::MAX).min(FIRST_ROWS);
    let mut data = load(Some(few))?;
    if !has(&data) {
        data = load(given)?;
    }
    if !has(&data) {
        bail!(
            "--task_name: no example is of {}; the tasks of the data are {}",
            wanted.unwrap_or_default(),
            data.tasks().names().join(", ")
        );
    }
    let marks = Marks::of_stdout();
    for example in chosen(&data, wanted).into_iter().take(settings.command.num_examples) {
        let learned: usize = example.labels.iter().map(|s| s.positions.len()).sum();
        println!(
            "--- {}  task {}  {} tokens, {learned} learned{}",
            location(example.file, example.line),
            task(&data, &example),
            example.ids.len(),
            if example.truncated { ", cut to cutoff_len" } else { "" }
        );
        println!("{}", marked(&opened.tokenizer, &example, marks)?);
    }
    Ok(())
}

fn task<'d>(data: &'d Dataset, example: &Example<'_>) -> &'d str {
    data.tasks().name(example.task)
}

/// The examples in the order they are shown: one of each task first, then on in the order of the files.
fn chosen<'d>(data: &'d Dataset, wanted: Option<&str>) -> Vec<Example<'d>> {
    let mut seen = vec![false; data.tasks().len()];
    let (mut firsts, mut rest) = (Vec::new(), Vec::new());
    for example in data.iter().filter(|e| wanted.is_none_or(|name| task(data, e) == name)) {
        let first = seen.get_mut(example.task.index()).is_some_and(|seen| !std::mem::replace(seen, true));
        if first { &mut firsts } else { &mut rest }.push(example);
    }
    firsts.extend(rest);
    firsts
}

fn marked(tokenizer: &Tokenizer, example: &Example<'_>, marks: Marks) -> Result<String> {
    let (mut text, mut at) = (String::new(), 0);
    for span in example.labels {
        let (start, end) = (span.positions.start as usize, span.positions.end as usize);
        text += &tokenizer.decode(&example.ids[at..start], false)?;
        text += &marks.learned(&tokenizer.decode(&example.ids[start..end], false)?);
        at = end;
    }
    Ok(text + &tokenizer.decode(&example.ids[at..], false)?)
}

#[cfg(test)]
mod tests {
    use super::Marks;

    #[test]
    fn colour_ends_with_each_line() {
        assert_eq!(Marks::Quotes.learned("a\nb"), "«a\nb»");
        assert_eq!(Marks::Colour.learned("a\n\nb"), "\x1b[1;30;42ma\x1b[0m\n\n\x1b[1;30;42mb\x1b[0m");
    }
}
