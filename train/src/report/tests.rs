use super::*;
use crate::state::{LogEntry, TrainerState};
use serde_json::{Value, json};

/// A folder that holds everything a report shows, with names that would break a page that did not escape them.
fn run() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut state = TrainerState { global_step: 20, max_steps: 20, epoch: 1.0, ..TrainerState::default() };
    for step in [10, 20] {
        let (entry, eval) = (LogEntry::new(step, 0.5), LogEntry::new(step, 0.5));
        let loss = 40.0 / step as f64;
        state.log(
            entry
                .with("loss", loss)
                .with("loss/qa", loss)
                .with("loss/<b>&\"x\"", loss)
                .with("weight/qa", 0.5),
        );
        state.log(eval.with("eval_loss", loss).with("eval_qa_loss", loss).with("eval_qa_f1", 0.25));
    }
    state.write(dir.path()).unwrap();
    let put = |name: &str, value: Value| std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    put(
        "medley_config.json",
        json!({"train": {"learning_rate": 3e-4, "weight_decay": 0.0}, "model": {"model_name_or_path": "base"}}),
    );
    put(
        "train_results.json",
        json!({"train_loss": 3.0, "train_runtime": 75.0, "peak_memory_bytes": 2e9, "qa/examples": 30,
            "peak_memory_by_category": {"weights": 1.5e9, "optimizer": 5e8, "gradients": 0},
            "shares": [{"task": "qa", "asked": 0.5, "share": 0.625}]}),
    );
    put("predict_results.json", json!({"qa/rouge_l": 0.5, "qa/examples": 3}));
    put(
        "gradient_conflicts.json",
        json!({"tasks": ["qa", "sum"], "cosines": [[1.0, -0.25], [-0.25, null]], "advice": ["qa & sum pull apart"]}),
    );
    let sample = json!({"task_name": "qa", "source": "training", "file": "qa.jsonl", "line": 7,
        "prompt": "Where? <script>alert(1)</script>", "label": "Here", "before": "", "after": "There"});
    put("sample_predictions.jsonl", sample);
    put(
        "generated_predictions.jsonl",
        json!({"task_name": "qa", "prompt": "p", "label": "l", "predict": "said"}),
    );
    dir
}

fn page_of(folder: &Path) -> String {
    std::fs::read_to_string(write_report(folder).unwrap()).unwrap()
}

/// Elements that stay open, by a parser that knows nothing but tags: enough to find a tag that is not closed and a
/// name that became one.
fn open_elements(page: &str) -> Vec<String> {
    const VOID: [&str; 2] = ["meta", "!DOCTYPE"];
    let mut open: Vec<String> = vec![];
    let mut rest = page;
    while let Some(start) = rest.find('<') {
        rest = &rest[start + 1..];
        let end = rest.find('>').unwrap();
        let tag = &rest[..end];
        let name: &str = tag.split([' ', '\n']).next().unwrap();
        if let Some(closed) = name.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(closed), "…{}", &rest[..rest.len().min(200)]);
        } else if !VOID.contains(&name) && !tag.ends_with('/') {
            open.push(name.to_string());
        }
        rest = &rest[end + 1..];
        if name == "script" || name == "style" {
            rest = &rest[rest.find(&format!("</{name}>")).unwrap()..];
        }
    }
    open
}

#[test]
fn everything_that_a_run_left_is_shown() {
    let dir = run();
    let page = page_of(dir.path());
    for text in [
        "mean training loss",
        "1:15 min",
        "2.00 GB",
        "weights 1.50 GB",
        "62.5 %",
        "4 → 2",
        "rouge_l",
        "before training",
        "trained on",
        "(nothing)",
        "There",
        "said",
        "-0.25",
        "qa &amp; sum pull apart",
        "learning_rate",
        "data-plot=",
        "weight of each task",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // The changed option stands before the list of all of them, the unchanged one does not.
    let changed = page.split("<details>").next().unwrap();
    assert!(
        changed.contains("learning_rate")
            && !changed.contains("weight_decay")
            && page.contains("weight_decay")
    );
    assert!(!page.contains("gradients 0"), "what took no memory is not listed");
}

#[test]
fn what_is_not_ours_is_escaped() {
    let page = page_of(run().path());
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(!page.contains("<script>alert") && !page.contains("<b>&"));
    assert_eq!(open_elements(&page), Vec::<String>::new());
    // Self-contained: nothing is fetched.
    for part in ["src=", "href=", "@import", "url("] {
        assert!(!page.contains(part), "{part}");
    }
    assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
}

#[test]
fn the_numbers_under_the_pointer_are_json() {
    let page = page_of(run().path());
    let plots: Vec<&str> =
        page.split("data-plot=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(plots.len() >= 3, "{}", plots.len());
    for plot in plots {
        let text =
            plot.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(value["lines"].is_array() && value["steps"] == 20, "{value}");
    }
}

#[test]
fn damaged_and_missing_files_do_not_keep_the_rest_from_being_shown() {
    let dir = run();
    std::fs::write(dir.path().join("train_results.json"), "{").unwrap();
    std::fs::write(dir.path().join("sample_predictions.jsonl"), "{").unwrap();
    for gone in ["medley_config.json", "gradient_conflicts.json", "generated_predictions.jsonl"] {
        std::fs::remove_file(dir.path().join(gone)).unwrap();
    }
    let page = page_of(dir.path());
    assert!(page.contains("train_results.json is not a JSON object"));
    assert!(page.contains("sample_predictions.jsonl is not shown"));
    assert!(page.contains("Tasks") && !page.contains("Configuration"));
    assert_eq!(open_elements(&page), Vec::<String>::new());
}

#[test]
fn an_unfinished_run_is_shown_as_of_its_newest_checkpoint() {
    let dir = run();
    let checkpoint = dir.path().join("checkpoint-10");
    std::fs::create_dir(&checkpoint).unwrap();
    std::fs::rename(dir.path().join("trainer_state.json"), checkpoint.join("trainer_state.json")).unwrap();
    assert!(page_of(dir.path()).contains("not finished: as of checkpoint-10"));
    let empty = tempfile::tempdir().unwrap();
    let error = write_report(empty.path()).unwrap_err().to_string();
    assert!(error.contains("holds no run") && error.contains("output_dir"), "{error}");
}
