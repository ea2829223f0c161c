//! `medley data check`: every row read, all that is wrong named.

use anyhow::{Result, bail};
use medley_train::config::{EvalContamination, Stage, TrainConfig};
use medley_train::data::{
    DataFile, Dataset, Findings, Listed, LoadOptions, Split, Tasks, check_pt, check_sft, contamination,
    data_files, duplicates, location,
};
use medley_train::trainer::setup;

use super::{Opened, eval_files, open, rows_of};
use crate::args::Settings;

/// `medley data check`: reads every row and names those that cannot be used, that repeat others, that are
/// in the evaluation data too, whose reply is empty and that the cutoff shortens.
///
/// # Errors
/// When rows cannot be used, after naming them.
pub fn check(settings: &Settings) -> Result<()> {
    let (config, most) = (&settings.config, settings.command.max_problems);
    let opened = open(config)?;
    let mut tasks = Tasks::default();
    let files = data_files(&config.data, Split::Train)?;
    let (train, found) = read(config, &files, Split::Train, opened.as_ref(), most, &mut tasks)?;
    let mut unusable = report(&found, config.train.stage, "", most);
    for task in duplicates(&train).tasks {
        let (n, of) = (task.repeated, task.rows);
        println!("warning: {}: {n} of {of} rows repeat an earlier one: {}", task.task, task.examples());
    }
    if let Some(files) = eval_files(config)? {
        let (eval, found) = read(config, &files, Split::Eval, opened.as_ref(), most, &mut tasks)?;
        unusable += report(&found, config.train.stage, " of the evaluation data", most);
        if config.data.eval_contamination != EvalContamination::Off {
            for task in contamination(&train, &eval).tasks {
                println!(
                    "warning: {}: {} of {} training rows have a prompt of the evaluation data, {} with the same \
                     reply: {}",
                    task.task,
                    task.repeated,
                    task.rows,
                    task.same_reply,
                    task.examples()
                );
            }
        }
    }
    if opened.is_none() {
        println!("name a model (--model_name_or_path) to check the template and cutoff_len too");
    }
    if unusable > 0 {
        bail!("{unusable} rows cannot be used; mend or remove them");
    }
    Ok(())
}

fn read(
    config: &TrainConfig,
    files: &[DataFile],
    split: Split,
    opened: Option<&Opened>,
    most: usize,
    tasks: &mut Tasks,
) -> Result<(Dataset, Findings)> {
    let options = LoadOptions::of(config);
    Ok(match config.train.stage {
        Stage::Sft => check_sft(files, opened.and_then(|o| o.renderer.as_ref()), &options, most, tasks)?,
        Stage::Pt => {
            let tokenizer = opened.map(|o| o.tokenizer.as_ref());
            check_pt(files, tokenizer, setup::pt_options(config, split), &options, most, tasks)?
        }
    })
}

/// Prints what was found and gives the number of rows that cannot be used.
fn report(found: &Findings, stage: Stage, of: &str, most: usize) -> usize {
    for problem in &found.problems {
        println!("error: {problem}");
    }
    if found.unusable > found.problems.len() {
        let left = found.unusable - found.problems.len();
        println!("error: and {left} more (--max_problems names more than {most})");
    }
    let rows = rows_of(stage);
    list(&found.empty_replies, &format!("{rows}{of} have an empty reply"));
    list(&found.left_out, &format!("{rows}{of} are left out: cutoff_len leaves nothing of their replies"));
    list(&found.cut, &format!("{rows}{of} are longer than cutoff_len and cut"));
    println!("{} of {} {rows}{of} can be used", found.rows - found.unusable, found.rows);
    found.unusable
}

fn list(found: &Listed, what: &str) {
    if found.count == 0 {
        return;
    }
    let places: Vec<String> = found.places.iter().map(|(file, line)| location(file, *line)).collect();
    let more = if found.count > places.len() { ", …" } else { "" };
    println!("warning: {} {what}: {}{more}", found.count, places.join(", "));
}
