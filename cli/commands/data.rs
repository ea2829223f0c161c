//! `medley data check|show|stats`: what a run would learn from.

use anyhow::Result;
use medley_model::template::Rendered;
use medley_train::config::Stage;
use medley_train::data::{
    LoadOptions, Split, Tasks, data_files, load_sft, read_conversations, read_documents,
};
use medley_train::trainer::setup;

use crate::args::Settings;
use crate::table;

fn options(settings: &Settings) -> LoadOptions {
    LoadOptions::of(&settings.config)
}

/// `medley data check`: reads every row.
///
/// # Errors
/// The first row that cannot be used, with file and line.
pub fn check(settings: &Settings) -> Result<()> {
    let files = data_files(&settings.config.data, Split::Train)?;
    if settings.config.train.stage == Stage::Pt {
        let documents = read_documents(&files, &options(settings))?;
        println!("{} documents in {} files can be used", documents.len(), files.len());
        return Ok(());
    }
    let rows = read_conversations(&files, &options(settings))?;
    println!("{} rows in {} files can be used", rows.len(), files.len());
    if settings.config.model.model_name_or_path.is_some() {
        let renderer = setup::renderer(&settings.config)?;
        let data = load_sft(&files, &renderer, &options(settings), &mut Tasks::default())?;
        for warning in data.warnings() {
            println!("warning: {warning}");
        }
        println!("{} examples after the template `{}`", data.len(), renderer.name());
    }
    Ok(())
}

/// `medley data show`: rendered examples, what is learned between `«` and `»`.
///
/// # Errors
/// Model, data or template cannot be used.
pub fn show(settings: &Settings) -> Result<()> {
    let renderer = setup::renderer(&settings.config)?;
    let files = data_files(&settings.config.data, Split::Train)?;
    let mut left = settings.command.num_examples;
    let conversations = read_conversations(&files, &options(settings))?;
    let mut shown: Vec<&str> = vec![];
    // One of each task first, then on in file order.
    let firsts: Vec<_> = conversations
        .iter()
        .filter(|c| {
            let new = !shown.contains(&c.task.as_str());
            if new {
                shown.push(&c.task);
            }
            new
        })
        .collect();
    let rest = conversations.iter().filter(|c| !firsts.iter().any(|f| std::ptr::eq(*f, *c)));
    for c in firsts.iter().copied().chain(rest) {
        if left == 0 {
            break;
        }
        left -= 1;
        let rendered = renderer.render(&c.messages, Some(&c.task))?;
        let labelled = rendered.label_mask().iter().filter(|m| **m).count();
        println!(
            "--- {}:{}  task {}  {} tokens, {labelled} learned{}",
            c.file.display(),
            c.line,
            c.task,
            rendered.ids.len(),
            if rendered.truncated { ", cut to cutoff_len" } else { "" }
        );
        println!("{}", marked(&renderer, &rendered)?);
    }
    Ok(())
}

fn marked(renderer: &medley_model::template::Renderer, rendered: &Rendered) -> Result<String> {
    let tokenizer = renderer.tokenizer();
    let (mut text, mut at) = (String::new(), 0);
    for span in &rendered.labels {
        let (start, end) = (span.positions.start as usize, span.positions.end as usize);
        text += &tokenizer.decode(&rendered.ids[at..start], false)?;
        text += "«";
        text += &tokenizer.decode(&rendered.ids[start..end], false)?;
        text += "»";
        at = end;
    }
    Ok(text + &tokenizer.decode(&rendered.ids[at..], false)?)
}

/// `medley data stats`: rows of each task; with a model, lengths in tokens too.
///
/// # Errors
/// Model, data or template cannot be used.
pub fn stats(settings: &Settings) -> Result<()> {
    let files = data_files(&settings.config.data, Split::Train)?;
    if settings.config.model.model_name_or_path.is_none() {
        let mut counts: Vec<(String, usize)> = vec![];
        for c in read_conversations(&files, &options(settings))? {
            match counts.iter_mut().find(|(task, _)| *task == c.task) {
                Some((_, n)) => *n += 1,
                None => counts.push((c.task, 1)),
            }
        }
        let rows: Vec<Vec<String>> = counts.into_iter().map(|(t, n)| vec![t, n.to_string()]).collect();
        print!("{}", table::render(&["task", "rows"], &rows));
        println!("\nname a model (--model_name_or_path) to count tokens");
        return Ok(());
    }
    let renderer = setup::renderer(&settings.config)?;
    let mut tasks = Tasks::default();
    let data = load_sft(&files, &renderer, &options(settings), &mut tasks)?;
    let mut lengths: Vec<Vec<usize>> = vec![vec![]; tasks.len()];
    for e in data.iter() {
        lengths[e.task.index()].push(e.ids.len());
    }
    let rows: Vec<Vec<String>> = tasks
        .names()
        .iter()
        .zip(data.reports())
        .zip(&mut lengths)
        .map(|((name, report), lengths)| {
            lengths.sort_unstable();
            let at =
                |q: f64| lengths.get((q * (lengths.len().max(1) - 1) as f64) as usize).copied().unwrap_or(0);
            vec![
                name.clone(),
                report.rows.to_string(),
                report.tokens.to_string(),
                report.label_tokens.to_string(),
                at(0.5).to_string(),
                at(0.95).to_string(),
                at(1.0).to_string(),
                report.truncated.to_string(),
                report.dropped.to_string(),
            ]
        })
        .collect();
    let header = ["task", "rows", "tokens", "learned", "median", "95 %", "longest", "cut", "left out"];
    print!("{}", table::render(&header, &rows));
    Ok(())
}
