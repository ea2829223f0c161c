//! The page: one section a function.

use super::files::{Conflicts, RunFiles};
use super::html::Html;
use super::samples::{Sample, Source};
use super::tasks::{TaskProgress, task_progress};
use crate::config::TrainConfig;
use crate::plot::{escape, web_panels};
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::path::Path;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("hover.js");

/// The whole document: it needs no other file and asks no server for anything.
pub fn page(run: &RunFiles) -> String {
    let folder = run
        .folder
        .file_name()
        .map_or_else(|| run.folder.display().to_string(), |n| n.to_string_lossy().into());
    let mut html = Html::default();
    html.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.text("title", &format!("{folder}: training report"));
    html.raw(&format!("<style>\n{STYLE}</style>\n</head>\n<body>\n<main>"));
    html.text("h1", &format!("Training report: {folder}"));
    html.classed("p", "lead", &subtitle(run));
    for problem in &run.problems {
        html.classed("p", "problem", problem);
    }
    summary(&mut html, run);
    curves(&mut html, run);
    tasks(&mut html, run);
    samples(&mut html, &run.samples);
    predictions(&mut html, run);
    if let Some(conflicts) = &run.conflicts {
        conflict_matrix(&mut html, conflicts);
    }
    configuration(&mut html, &run.config);
    html.raw(&format!("</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>"));
    html.finish()
}

fn subtitle(run: &RunFiles) -> String {
    let option = |section: &str, key: &str| {
        let value = run.config.get(section).and_then(|section| section.get(key));
        value.filter(|value| !value.is_null()).map(shown)
    };
    let mut parts = vec![];
    parts.extend(option("model", "model_name_or_path").map(|model| format!("base {model}")));
    parts.extend(option("lora", "finetuning_type"));
    parts.extend(option("data", "template").map(|template| format!("template {template}")));
    parts.extend(run.checkpoint.as_ref().map(|name| format!("not finished: as of {name}")));
    parts.join("  ·  ")
}

fn summary(html: &mut Html, run: &RunFiles) {
    html.raw("<section>");
    html.text("h2", "Summary");
    html.raw("<div class=\"tiles\">");
    let mut tile = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            html.raw(&format!(
                "<div class=\"tile\"><b>{}</b><span>{}</span></div>",
                escape(&value),
                escape(name)
            ));
        }
    };
    let number = |key: &str| run.train.get(key).and_then(Value::as_f64);
    let steps = match run.state.max_steps {
        0 => run.state.global_step.to_string(),
        all => format!("{} / {all}", run.state.global_step),
    };
    tile("optimizer steps", Some(steps));
    tile("epochs", Some(format!("{:.2}", run.state.epoch)));
    tile("mean training loss", number("train_loss").map(|loss| format!("{loss:.4}")));
    let best = run.state.best_metric.map(|loss| format!("{loss:.4}"));
    let at = run.state.best_global_step.map_or(String::new(), |step| format!(" (step {step})"));
    tile(&format!("best evaluation{at}"), best);
    tile("training time", number("train_runtime").map(duration));
    tile("tokens a second", number("train_tokens_per_second").map(|rate| format!("{rate:.0}")));
    let tokens = run.state.num_input_tokens_seen;
    tile("tokens trained on", (tokens > 0).then(|| amount(tokens as f64)));
    tile("peak memory", number("peak_memory_bytes").map(bytes));
    html.raw("</div>");
    memory(html, run.train.get("peak_memory_by_category").and_then(Value::as_object));
    html.raw("</section>");
}

fn memory(html: &mut Html, categories: Option<&Map<String, Value>>) {
    let parts: Vec<(&String, f64)> = categories
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name, value.as_f64().filter(|bytes| *bytes > 0.0)?)))
        .collect();
    let total: f64 = parts.iter().map(|(_, bytes)| bytes).sum();
    if total <= 0.0 {
        return;
    }
    html.text("h3", "Memory by what it is for, each at its own peak");
    html.raw("<div class=\"bar\">");
    for (index, (_, size)) in parts.iter().enumerate() {
        let share = 100.0 * size / total;
        html.raw(&format!("<div style=\"width:{share:.3}%;background:var(--c{})\"></div>", index % 6));
    }
    html.raw("</div><div class=\"legend\">");
    for (index, (name, size)) in parts.iter().enumerate() {
        let (color, text) = (format!("var(--c{})", index % 6), format!("{name} {}", bytes(*size)));
        legend_entry(html, &color, "", &text);
    }
    html.raw("</div>");
}

fn legend_entry(html: &mut Html, color: &str, dashes: &str, name: &str) {
    let line = format!(
        "<svg viewBox=\"0 0 26 10\" aria-hidden=\"true\"><line x1=\"0\" y1=\"5\" x2=\"26\" y2=\"5\" stroke=\"{color}\" \
         stroke-width=\"3\" stroke-dasharray=\"{dashes}\"/></svg>"
    );
    html.raw(&format!("<span>{line}{}</span>", escape(name)));
}

fn curves(html: &mut Html, run: &RunFiles) {
    let (panels, names) = web_panels(&run.state.log_history);
    html.raw("<section>");
    html.text("h2", "Curves");
    html.classed("p", "note", "Bold: moving average. Thin: as logged. Rings: evaluation.");
    legend(html, &names);
    for panel in panels {
        html.raw(&format!("<figure data-plot=\"{}\">", escape(&panel.numbers.to_string())));
        html.raw(&panel.svg);
        html.raw("</figure>");
        legend(html, &panel.names);
    }
    html.raw("</section>");
}

fn legend(html: &mut Html, names: &[(String, String, &str)]) {
    if !names.is_empty() {
        html.raw("<div class=\"legend\">");
        names.iter().for_each(|(name, color, dashes)| legend_entry(html, color, dashes, name));
        html.raw("</div>");
    }
}

/// A task's own numbers in `train_results.json`: the object of its name in the list `shares`.
fn share_of<'r>(run: &'r RunFiles, task: &str) -> Option<&'r Value> {
    let shares = run.train.get("shares")?.as_array()?;
    shares.iter().find(|share| share.get("task").and_then(Value::as_str) == Some(task))
}

fn tasks(html: &mut Html, run: &RunFiles) {
    let tasks = task_progress(&run.state.log_history);
    if tasks.is_empty() {
        return;
    }
    html.raw("<section>");
    html.text("h2", "Tasks");
    html.classed("p", "note", "From → to: the first number logged and the last.");
    let row = |task: &TaskProgress| -> Vec<String> {
        let share =
            |key: &str| share_of(run, &task.task).and_then(|share| share.get(key)).and_then(Value::as_f64);
        let examples = run.train.get(&format!("{}/examples", task.task)).and_then(Value::as_u64);
        vec![
            task.task.clone(),
            examples.map_or_else(dash, |count| count.to_string()),
            percent(share("asked").or(task.share_asked)),
            percent(share("share").or(task.share)),
            from_to(task.weight, 2),
            from_to(task.loss, 3),
            from_to(task.eval_loss, 3),
        ]
    };
    let rows: Vec<Vec<String>> = tasks.iter().map(row).collect();
    html.table(
        &["task", "examples", "share asked", "share got", "weight", "training loss", "evaluation loss"],
        &rows,
    );
    scores(html, run, &tasks);
    html.raw("</section>");
}

/// Scores of evaluations, then those of `predict_results.json` and of `eval_results.json` that the history lacks.
fn scores(html: &mut Html, run: &RunFiles, tasks: &[TaskProgress]) {
    let mut rows: Vec<Vec<String>> = vec![];
    for task in tasks {
        for (score, range) in &task.scores {
            rows.push(vec![task.task.clone(), score.clone(), from_to(Some(*range), 4), "evaluation".into()]);
        }
        for (results, from) in [(&run.eval, "eval_results.json"), (&run.predict, "predict_results.json")] {
            for (key, value) in results {
                if let Some(score) = key.strip_prefix(&task.task).and_then(|rest| rest.strip_prefix('/'))
                    && score != "loss"
                    && !(from == "eval_results.json" && task.scores.contains_key(score))
                {
                    let value = value.as_f64().map_or_else(|| shown(value), |value| rounded(value, 4));
                    rows.push(vec![task.task.clone(), score.to_string(), value, from.to_string()]);
                }
            }
        }
    }
    if !rows.is_empty() {
        html.text("h3", "Scores");
        html.table(&["task", "score", "value", "from"], &rows);
    }
}

fn samples(html: &mut Html, samples: &[Sample]) {
    if samples.is_empty() {
        return;
    }
    html.raw("<section>");
    html.text("h2", "What the model writes, before and after");
    let held_out = samples.iter().all(|sample| sample.source == Source::Evaluation);
    html.classed(
        "p",
        "note",
        if held_out {
            "Greedy completions of at most 48 tokens, on examples that were held out."
        } else {
            "Greedy completions of at most 48 tokens. Where no example of a task was held out, the model has trained on \
             the one shown: it says little about new ones."
        },
    );
    for sample in samples {
        html.raw("<div class=\"sample\">");
        let kind = match sample.source {
            Source::Evaluation => "held out",
            Source::Training => "trained on",
        };
        let file =
            Path::new(&sample.file).file_name().map_or(sample.file.as_str().into(), OsStr::to_string_lossy);
        html.text("h3", &format!("{} · {file}:{} · {kind}", sample.task_name, sample.line));
        html.classed("pre", "prompt", sample.prompt.trim());
        html.raw("<div class=\"pair\">");
        let parts = [
            ("before training", sample.before.as_deref()),
            ("after training", sample.after.as_deref()),
            ("reference", Some(sample.label.as_str())),
        ];
        for (name, text) in parts {
            html.raw("<div>");
            html.text("h4", name);
            html.text(
                "pre",
                text.map_or("not recorded", |text| if text.is_empty() { "(nothing)" } else { text }),
            );
            html.raw("</div>");
        }
        html.raw("</div></div>");
    }
    html.raw("</section>");
}

fn predictions(html: &mut Html, run: &RunFiles) {
    for (name, count, shown) in &run.predictions {
        html.raw("<section>");
        html.text("h2", &format!("Predictions: {name}"));
        html.classed("p", "note", &format!("{} of {count} lines.", shown.len()));
        for line in shown {
            let text = |key: &str| line.get(key).and_then(Value::as_str).unwrap_or_default();
            html.raw("<div class=\"sample\">");
            html.text("h3", text("task_name"));
            html.classed("pre", "prompt", text("prompt").trim());
            html.raw("<div class=\"pair\">");
            for (heading, key) in [("prediction", "predict"), ("reference", "label")] {
                html.raw("<div>");
                html.text("h4", heading);
                html.text("pre", text(key));
                html.raw("</div>");
            }
            html.raw("</div></div>");
        }
        html.raw("</section>");
    }
}

/// Rows and columns are tasks; blue cells pull together, orange ones apart.
fn conflict_matrix(html: &mut Html, conflicts: &Conflicts) {
    html.raw("<section>");
    html.text("h2", "Do the tasks pull together?");
    html.classed(
        "p",
        "note",
        "Mean cosine between the tasks' gradients: 1 the same direction, 0 unrelated, below 0 against each other.",
    );
    html.raw("<div class=\"wide\"><table class=\"heat\"><thead><tr><th></th>");
    conflicts.tasks.iter().for_each(|task| html.text("th", task));
    html.raw("</tr></thead><tbody>");
    for (task, row) in conflicts.tasks.iter().zip(&conflicts.cosines) {
        html.raw(&format!("<tr><th scope=\"row\">{}</th>", escape(task)));
        for cosine in row {
            let Some(cosine) = cosine else {
                html.text("td", "–");
                continue;
            };
            let (color, strength) =
                (if *cosine < 0.0 { 1 } else { 0 }, (cosine.abs() * 70.0).clamp(0.0, 70.0));
            html.raw(&format!(
                "<td style=\"background:color-mix(in srgb, var(--c{color}) {strength:.0}%, transparent)\">{cosine:.2}</td>"
            ));
        }
        html.raw("</tr>");
    }
    html.raw("</tbody></table></div><ul>");
    conflicts.advice.iter().for_each(|advice| html.text("li", advice));
    html.raw("</ul></section>");
}

fn configuration(html: &mut Html, config: &Map<String, Value>) {
    if config.is_empty() {
        return;
    }
    let defaults = serde_json::to_value(TrainConfig::default()).unwrap_or_default();
    let mut changed = vec![];
    let mut all = vec![];
    for (section, options) in config {
        for (name, value) in options.as_object().into_iter().flatten() {
            let default = defaults.get(section).and_then(|section| section.get(name));
            if default != Some(value) {
                changed.push((name, value, default));
            }
            all.push((section, name, value));
        }
    }
    html.raw("<section>");
    html.text("h2", "Configuration");
    html.classed("p", "note", "Options that differ from their defaults.");
    html.raw("<div class=\"left\"><table><thead><tr><th>option</th><th>value</th><th>default</th></tr></thead><tbody class=\"changed\">");
    for (name, value, default) in changed {
        html.raw("<tr>");
        html.text("th", name);
        html.text("td", &shown(value));
        html.text("th", &default.map_or_else(dash, shown));
        html.raw("</tr>");
    }
    html.raw(
        "</tbody></table></div><details><summary>Every option</summary><div class=\"left\"><table><tbody>",
    );
    for (section, name, value) in all {
        html.raw("<tr>");
        html.text("th", &format!("{section}.{name}"));
        html.text("td", &shown(value));
        html.raw("</tr>");
    }
    html.raw("</tbody></table></div></details></section>");
}

/// A value as an option would be written.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "unset".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| format!("{key}={}", shown(value)))
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

fn dash() -> String {
    "–".into()
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(dash, |share| format!("{:.1} %", 100.0 * share))
}

/// `2.500 → 1.250`, or one number where they are the same.
fn from_to(range: Option<(f64, f64)>, decimals: usize) -> String {
    match range {
        None => dash(),
        Some((first, last)) if rounded(first, decimals) == rounded(last, decimals) => rounded(last, decimals),
        Some((first, last)) => format!("{} → {}", rounded(first, decimals), rounded(last, decimals)),
    }
}

fn rounded(value: f64, decimals: usize) -> String {
    if value.fract() == 0.0 && value.abs() < 1e9 { format!("{value}") } else { format!("{value:.decimals$}") }
}

fn bytes(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} GB", v / 1e9),
        v if v >= 1e6 => format!("{:.1} MB", v / 1e6),
        v => format!("{:.0} kB", v / 1e3),
    }
}

fn amount(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} B", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes}:{seconds:02} min"),
        (hours, minutes, _) => format!("{hours}:{minutes:02} h"),
    }
}
