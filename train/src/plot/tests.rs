use super::*;

/// A run of three tasks with noise, evaluations and a warm-up.
fn run(steps: u64) -> Vec<LogEntry> {
    let mut history = Vec::new();
    for step in 1..=steps {
        let share = step as f64 / steps as f64;
        let noise = |salt: f64| ((step as f64 * 12.9898 + salt).sin() * 43_758.545_3).fract() * 0.25;
        let decay = |from: f64, to: f64| to + (from - to) * (-4.0 * share).exp();
        let (qa, summarization, classification) =
            (decay(3.1, 1.2) + noise(1.0), decay(3.6, 2.1) + noise(2.0), decay(2.2, 0.35) + noise(3.0));
        let rate = 1e-4 * (share * 10.0).min(1.0) * 0.5 * (1.0 + (std::f64::consts::PI * share).cos());
        history.push(
            LogEntry::new(step, share * 3.0)
                .with("loss", (qa + summarization + classification) / 3.0)
                .with("loss/qa", qa)
                .with("loss/summarization", summarization)
                .with("loss/classification", classification)
                .with("learning_rate", rate),
        );
        if step % (steps / 6).max(1) == 0 {
            history.push(
                LogEntry::new(step, share * 3.0)
                    .with("eval_loss", decay(3.0, 1.4))
                    .with("eval_qa_loss", decay(3.2, 1.4))
                    .with("eval_summarization_loss", decay(3.7, 2.25))
                    .with("eval_classification_loss", decay(2.3, 0.5)),
            );
        }
    }
    history
}

/// As [`run`], with everything that a run can log, of `count` tasks.
fn full_run(steps: u64, count: usize, name: impl Fn(usize) -> String) -> Vec<LogEntry> {
    let mut history = Vec::new();
    for step in 1..=steps {
        let share = step as f64 / steps as f64;
        let wave = |salt: f64| (step as f64 * 0.9 + salt * 1.7).sin();
        let mut entry = LogEntry::new(step, share * 3.0)
            .with("grad_norm", 0.4 + 3.0 * (-6.0 * share).exp() * (1.2 + wave(0.5)))
            .with("learning_rate", 2e-4 * (1.0 - share));
        let mut eval = LogEntry::new(step, share * 3.0);
        for task in 0..count {
            let (name, salt) = (name(task), task as f64);
            let loss = 0.4 + 0.3 * salt + 2.0 * (-(2.0 + salt * 0.3) * share).exp();
            entry.set(format!("loss/{name}"), loss + 0.1 * wave(salt));
            entry.set(format!("weight/{name}"), 1.0 + 0.2 * salt * share / count as f64);
            entry.set(format!("share/{name}"), (1.0 + 0.1 * wave(salt)) / count as f64);
            entry.set(format!("share_asked/{name}"), 1.0 / count as f64);
            entry.set(format!("share_tokens/{name}"), (1.0 + salt) / (count * (count + 1) / 2) as f64);
            for other in 0..task {
                let other = self::full_name(&name, other);
                entry.set(format!("cos/{other}"), 0.3 * wave(salt) - 0.1 * salt);
            }
            eval.set(format!("eval_{name}_loss"), loss + 0.1);
            eval.set(format!("eval_{name}_f1"), share * 0.8 / (1.0 + 0.2 * salt));
        }
        entry.set("loss", 1.0 + 2.0 * (-3.0 * share).exp() + 0.05 * wave(9.0));
        history.push(entry);
        if step % (steps / 5).max(1) == 0 {
            history.push(eval.with("eval_loss", 1.1 + 2.0 * (-3.0 * share).exp()));
        }
    }
    history
}

fn full_name(name: &str, other: usize) -> String {
    format!("{name}/other {other}")
}

#[test]
fn every_quantity_has_its_panel() {
    let history = full_run(60, 3, |task| format!("task_{task}"));
    let svg = training_loss_svg(&history);
    for title in [
        ">loss<",
        "weight of each task",
        "share of examples",
        "share of labelled tokens",
        ">learning rate<",
        "gradient norm before clipping",
        "cosine between",
        "scores on the evaluation",
        ">task_1 f1<",
    ] {
        assert!(svg.contains(title), "{title}");
    }
    let plain = training_loss_svg(&run(20));
    assert!(!plain.contains("weight of") && !plain.contains("share of") && !plain.contains("cosine"));
    let (panels, legend) = web_panels(&history);
    assert_eq!(panels.len(), 8);
    assert_eq!(legend.len(), 4);
    assert!(
        panels.iter().all(|panel| panel.svg.contains("var(--") && !panel.svg.contains("#")),
        "{panels:?}"
    );
    let lines = panels[0].numbers["lines"].as_array().unwrap();
    // Total and three tasks, as logged and as evaluated.
    assert_eq!(lines.len(), 8);
    if let Some(folder) = std::env::var_os("MEDLEY_VIEW") {
        for (name, history) in [
            ("three", history),
            ("twelve", full_run(200, 12, |task| format!("classification_of_news_articles_{task}"))),
            ("plain", run(240)),
        ] {
            let folder = Path::new(&folder).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            write_training_loss(&folder, &history).unwrap();
        }
    }
}

fn pixels_of(history: &[LogEntry]) -> tiny_skia::Pixmap {
    let png = render_png(&training_loss_svg(history), Path::new("t.png")).unwrap();
    tiny_skia::Pixmap::decode_png(&png).unwrap()
}

/// Pixels of about this colour.
fn count(pixels: &tiny_skia::Pixmap, rgb: (u8, u8, u8)) -> usize {
    let near = |a: u8, b: u8| a.abs_diff(b) < 12;
    pixels
        .pixels()
        .iter()
        .filter(|p| near(p.red(), rgb.0) && near(p.green(), rgb.1) && near(p.blue(), rgb.2))
        .count()
}

#[test]
fn a_run_shows_every_task_in_its_colour() {
    let dir = tempfile::tempdir().unwrap();
    let png = write_training_loss(dir.path(), &run(240)).unwrap();
    let svg = std::fs::read_to_string(dir.path().join("training_loss.svg")).unwrap();
    for text in [
        "Training loss",
        "240 steps",
        "3 epochs",
        "summarization",
        "epoch 2",
        "learning rate",
        "optimizer step",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    let pixels = tiny_skia::Pixmap::decode_png(&std::fs::read(png).unwrap()).unwrap();
    assert_eq!((pixels.width(), pixels.height()), (1800, 1170));
    // The first three colours of the palette: vermilion and green belong to curves only.
    for rgb in [(0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73), (0x00, 0x72, 0xB2)] {
        assert!(count(&pixels, rgb) > 1500, "{rgb:?}: {}", count(&pixels, rgb));
    }
}

#[test]
fn letters_are_drawn_with_the_embedded_font() {
    let title = |name: &str| {
        let entry = LogEntry::new(1, 0.0).with("loss", 1.0).with(format!("loss/{name}"), 1.0);
        let pixels = pixels_of(&[entry]);
        count(&pixels, (0x1b, 0x1b, 0x1b))
    };
    // Were glyphs missing, both would have as many dark pixels.
    assert!(title("mmmmmmmmmm") > title("i") + 100);
}

#[test]
fn any_history_has_a_picture() {
    let nan = f64::NAN;
    let histories = [
        vec![],
        vec![LogEntry::new(0, 0.0)],
        vec![LogEntry::new(1, 0.1).with("loss", 2.0)],
        vec![LogEntry::new(1, 0.1).with("loss", nan).with("loss/qa", nan).with("learning_rate", nan)],
        vec![LogEntry::new(1, nan).with("loss", 0.0).with("learning_rate", 0.0)],
        vec![LogEntry::new(5, 1e9).with("eval_loss", 1e30).with("eval_a<b>&_loss", -1e-30)],
        vec![LogEntry::new(1, 0.1).with("loss", 2.0), LogEntry::new(2, 0.2).with("loss", nan)],
        run(2),
    ];
    for history in histories {
        let svg = training_loss_svg(&history);
        assert!(!svg.contains("NaN") && !svg.contains("inf\""), "{svg}");
        let pixels = pixels_of(&history);
        assert!(count(&pixels, (255, 255, 255)) > 1_000_000);
    }
}

#[test]
fn many_tasks_are_told_apart_by_dashes_and_counted() {
    let mut entry = LogEntry::new(1, 0.5).with("loss", 1.0);
    let mut later = LogEntry::new(2, 1.0).with("loss", 0.5);
    for task in 0..25 {
        entry.set(format!("loss/task {task}"), f64::from(task));
        later.set(format!("loss/task {task}"), f64::from(task) * 0.9);
    }
    let svg = training_loss_svg(&[entry, later]);
    assert!(svg.contains("and 11 more") && svg.contains("stroke-dasharray=\"7 4\""));
}

#[test]
fn a_long_run_stays_small() {
    let svg = training_loss_svg(&run(60_000));
    assert!(svg.len() < 400_000, "{} bytes", svg.len());
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = write_training_loss(Path::new("/nowhere"), &[]).unwrap_err().to_string();
    assert!(error.contains("/nowhere"), "{error}");
}
