//! What the displays show for the events of a run.

use super::lines::Lines;
use super::live::Live;
use super::text::{Pace, amount, finished_line, finished_lines};
use medley_train::events::{Event, EventSink, Plan, Summary, TaskShare};
use medley_train::predict::Answered;
use medley_train::report::tasks::TaskProgress;
use medley_train::state::LogEntry;
use std::time::{Duration, Instant};

fn plan() -> Plan {
    Plan {
        total_steps: 100,
        first_step: 0,
        num_epochs: 3.0,
        sequences_per_step: 32,
        tasks: vec![("qa".into(), 3200), ("sum".into(), 1800)],
        trainable_parameters: 460_800,
        total_parameters: 134_515_008,
        device: None,
    }
}

fn lines(events: &[Event]) -> Vec<String> {
    let mut sink = Lines::new(Vec::new());
    for event in events {
        sink.event(event);
    }
    String::from_utf8(sink.out).unwrap().lines().map(str::to_string).collect()
}

#[test]
fn a_pipe_gets_one_plain_line_per_entry() {
    let entry = LogEntry::new(10, 0.3)
        .with("loss", 1.5)
        .with("loss/qa", 1.25)
        .with("loss/sum", 1.75)
        .with("grad_norm", 0.5)
        .with("learning_rate", 9.5e-5)
        .with("tokens_per_second", 812.4);
    let step = |step| Event::StepFinished { step, loss: 1.5, tasks: vec![], tokens_per_second: 812.4 };
    let lines = lines(&[
        Event::RunStarted(plan()),
        step(9),
        step(10),
        Event::StepLogged(entry),
        Event::Evaluated(LogEntry::new(10, 0.3).with("eval_loss", 2.0).with("eval_qa_loss", 1.0)),
        Event::CheckpointSaved { step: 10, path: "out/checkpoint-10".into() },
        Event::Warning("row 7 is cut".into()),
    ]);
    assert_eq!(lines.len(), 6, "{lines:?}");
    assert_eq!(lines[0], "100 steps of 32 sequences, 3.00 epochs; tasks: qa (3200), sum (1800)");
    assert_eq!(lines[1], "training 460.8K of 134.52M parameters (0.34 %)");
    let measured = "step 10/100  epoch 0.30  loss 1.5000 (qa 1.2500, sum 1.7500)  grad_norm 0.500  lr 9.500e-5  \
        812 tokens/s  0:00 elapsed, 0:0";
    assert!(lines[2].starts_with(measured), "{}", lines[2]);
    assert_eq!(lines[3], "step 10/100  epoch 0.30  eval_loss 2.0000 (qa 1.0000)");
    assert_eq!(lines[4], "step 10/100  saved out/checkpoint-10");
    assert_eq!(lines[5], "warning: row 7 is cut");
    assert!(lines.iter().all(|line| !line.chars().any(char::is_control)), "{lines:?}");
}

#[test]
fn an_evaluation_tells_its_progress_and_its_scores() {
    let answering = |done, seconds| {
        let elapsed = Duration::from_secs(seconds);
        Event::Answering(Answered { done, total: 10, tokens: 100 * seconds, elapsed })
    };
    let entry = LogEntry::new(4, 0.5)
        .with("eval_loss", 1.0)
        .with("eval_qa_loss", 1.0)
        .with("eval_qa_f1", 0.5)
        .with("eval_cls_macro_f1", 0.25)
        .with("eval_cls_micro_f1", 0.75)
        .with("eval_cls_f1", 0.7)
        .with("eval_cls_accuracy", 0.125)
        .with("eval_cls_token_accuracy", 0.9)
        .with("eval_runtime", 3.0);
    let reason = "eval_loss has not improved for 2 evaluations".to_string();
    let lines = lines(&[
        answering(0, 0),
        answering(1, 5),
        answering(2, 21),
        answering(3, 30),
        answering(10, 60),
        answering(1, 22),
        Event::Evaluated(entry),
        Event::StoppedEarly { step: 4, reason },
        Event::BestLoaded { step: 2, metric: "eval_loss".into(), value: 0.75 },
    ]);
    assert_eq!(
        lines,
        [
            "answering 2/10  100 tokens/s  0:21 elapsed, 1:24 left",
            "answering 1/10  100 tokens/s  0:22 elapsed, 3:18 left",
            "step 4/0  epoch 0.50  eval_loss 1.0000 (qa 1.0000)  cls accuracy 0.125 F1 0.700 macro F1 0.250 \
             token accuracy 0.900  qa F1 0.500",
            "step 4/0  early stopping: eval_loss has not improved for 2 evaluations",
            "took the best weights, those of step 2: eval_loss 0.7500",
        ]
    );
}

#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let saved = lines(&[Event::Interrupted { step: 7, checkpoint: Some("out/checkpoint-7".into()) }]);
    assert_eq!(saved, ["stopped after step 7; go on with --resume_from_checkpoint out/checkpoint-7"]);
    let unsaved = lines(&[Event::Interrupted { step: 7, checkpoint: None }]);
    assert_eq!(unsaved, ["stopped after step 7, before a checkpoint was saved"]);
}

#[test]
fn time_left_counts_the_steps_of_this_run_only() {
    let pace = Pace { total_steps: 100, first_step: 50, started: Instant::now() };
    assert_eq!(pace.times_after(50, Duration::from_secs(3)), "0:03 elapsed");
    assert_eq!(pace.times_after(60, Duration::from_secs(100)), "1:40 elapsed, 6:40 left");
    assert_eq!(pace.times_after(100, Duration::from_secs(3723)), "1:02:03 elapsed, 0:00 left");
}

#[test]
fn the_live_view_takes_every_event() {
    let mut live = Live::new();
    live.event(&Event::RunStarted(Plan { first_step: 40, ..plan() }));
    let tasks = vec![Some(1.5), None];
    live.event(&Event::StepFinished { step: 41, loss: f64::NAN, tasks, tokens_per_second: 0.0 });
    assert_eq!(live.position(), 41);
    let entry = LogEntry::new(41, 0.4).with("weight/sum", 0.5).with("share/qa", 0.4);
    live.event(&Event::StepLogged(entry));
    live.event(&Event::Evaluated(LogEntry::new(41, 0.4).with("eval_qa_loss", 1.25).with("eval_qa_f1", 0.5)));
    let rows = live.rows();
    assert_eq!(rows[0], "qa   1.5000   ▄                share 40.0 %  eval 1.2500");
    assert_eq!(rows[1], "sum                            weight 0.50");
    live.event(&Event::Warning("x".into()));
    live.event(&Event::Finished(Summary { steps: 41, ..Summary::default() }));
    assert!(live.is_finished());
}

#[test]
fn many_tasks_are_counted() {
    let tasks = (0..30).map(|i| (format!("a_task_with_a_long_name_{i}"), 10)).collect();
    let mut live = Live::new();
    live.event(&Event::RunStarted(Plan { tasks, ..plan() }));
    let rows = live.rows();
    assert_eq!(rows.len(), 13);
    assert!(rows[0].starts_with("a_task_wit…ng_name_0"), "{}", rows[0]);
    assert_eq!(rows[12], "and 18 more tasks");
}

#[test]
fn a_finished_run_tells_each_task_and_its_files() {
    let task = |name: &str, eval_loss| TaskProgress {
        task: name.into(),
        loss: Some((3.0, 1.25)),
        eval_loss,
        ..TaskProgress::default()
    };
    let share = |task: &str, examples, share| TaskShare {
        task: task.into(),
        asked: 0.5,
        examples,
        share,
        labelled_tokens: 10 * examples,
        share_tokens: share,
    };
    let summary = Summary {
        tasks: vec![task("qa", Some((2.0, 2.0))), task("summarization", None)],
        shares: vec![share("qa", 51, 0.51), share("silent", 49, 0.49)],
        files: vec!["out/report.html".into()],
        ..Summary::default()
    };
    let lines = finished_lines(&summary);
    let expected = [
        "task              train loss  eval loss   asked  examples     got  label tokens     got",
        "---------------------------------------------------------------------------------------",
        "qa             3.000 → 1.250      2.000  50.0 %        51  51.0 %           510  51.0 %",
        "summarization  3.000 → 1.250          -       -         -       -             -       -",
        "silent                     -          -  50.0 %        49  49.0 %           490  49.0 %",
        "",
        "to look at: out/report.html",
    ];
    assert_eq!(lines[..7], expected);
    assert!(lines[7].contains("results in"), "{lines:?}");
    assert_eq!(finished_lines(&Summary::default()).len(), 1);
}

#[test]
fn amounts_are_short() {
    let amounts = [999, 1_000, 4_560_000, 7_000_000_000].map(amount);
    assert_eq!(amounts, ["999", "1.0K", "4.56M", "7.00B"]);
    let summary =
        Summary { steps: 5, train_loss: 1.25, runtime: Duration::from_secs(65), ..Summary::default() };
    assert_eq!(
        finished_line(&summary),
        "5 steps in 1:05: train_loss 1.2500, 0 tokens/s, peak memory 0.00 GB; results in "
    );
}
