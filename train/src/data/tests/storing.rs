//! The cache of tokenised data, the split, duplicates and contamination.

use super::*;
use crate::config::{EvalContamination, TrainConfig};
use crate::data::cache::Spill;
use crate::data::dataset::DatasetBuilder;
use crate::data::store::Entry;
use crate::trainer::setup;
use medley_model::template::LabelSpan;
use std::collections::HashSet;

const SMALL: u64 = 2048;

fn cache(root: &Path, threshold: u64) -> CacheOptions {
    CacheOptions { root: Some(root.to_path_buf()), threshold, overwrite: false }
}

fn renderer(dir: &Path, cutoff_len: usize) -> Renderer {
    let options = RenderOptions { cutoff_len: Some(cutoff_len), ..RenderOptions::default() };
    Renderer::new(Some("default"), tokenizer(dir), options).unwrap()
}

fn sft(args: &DataArgs, renderer: &Renderer, cache: &CacheOptions) -> Dataset {
    let files = data_files(args, Split::Train).unwrap();
    load_sft_cached(&files, renderer, &LoadOptions::default(), cache, &mut Tasks::default()).unwrap()
}

/// All that can be seen of a dataset but its files' paths.
fn seen(data: &Dataset) -> impl PartialEq + std::fmt::Debug + use<> {
    let rows: Vec<_> = data
        .iter()
        .map(|e| (e.ids.to_vec(), e.labels.to_vec(), e.task, e.line, e.truncated, e.label_tokens()))
        .collect();
    (rows, data.tasks().clone(), data.reports().to_vec(), data.longest(), data.largest_id())
}

/// Names in a folder, hidden ones included.
fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(root)
        .map(|list| list.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

fn rows(range: std::ops::Range<usize>) -> String {
    range.map(row).collect()
}

#[test]
fn large_data_is_mapped_and_equal_to_what_memory_holds() {
    let dir = folder(&[("a.jsonl", &rows(0..300)), ("b.jsonl", &rows(300..420))]);
    let (args, root) = (args(dir.path(), &["a.jsonl", "b.jsonl"]), dir.path().join("cache"));
    let renderer = renderer(dir.path(), 40);
    let memory = sft(&args, &renderer, &CacheOptions::default());
    assert!(!memory.is_mapped());
    // Not above the threshold: nothing is written.
    assert!(!sft(&args, &renderer, &cache(&root, 1 << 30)).is_mapped());
    assert!(names(&root).is_empty());

    let written = sft(&args, &renderer, &cache(&root, SMALL));
    assert!(written.is_mapped() && written.warnings().is_empty(), "{:?}", written.warnings());
    assert_eq!(seen(&written), seen(&memory));
    let kept = names(&root);
    assert_eq!(kept.len(), 1, "{kept:?}");
    // Read back rather than made again: what is there carries a mark.
    let meta = root.join(&kept[0]).join("meta.json");
    let text = std::fs::read_to_string(&meta).unwrap();
    std::fs::write(&meta, text.replace("\"longest\": ", "\"longest\": 1000")).unwrap();
    let read = sft(&args, &renderer, &cache(&root, SMALL));
    assert!(read.longest() > 1000 && read.is_mapped());
    assert_eq!(read.iter().map(|e| e.file.to_path_buf()).last(), Some(dir.path().join("b.jsonl")));
    // overwrite_cache makes it again.
    let again = sft(&args, &renderer, &CacheOptions { overwrite: true, ..cache(&root, SMALL) });
    assert_eq!(seen(&again), seen(&memory));
    assert_eq!(seen(&sft(&args, &renderer, &cache(&root, SMALL))), seen(&memory));
    assert_eq!(names(&root), kept);
}

#[test]
fn the_key_follows_contents_and_options_but_not_paths() {
    let dir = folder(&[("a.jsonl", &rows(0..100))]);
    let root = dir.path().join("cache");
    let count = |args: &DataArgs, renderer: &Renderer, options: &LoadOptions| {
        let files = data_files(args, Split::Train).unwrap();
        load_sft_cached(&files, renderer, options, &cache(&root, 0), &mut Tasks::default()).unwrap();
        names(&root).len()
    };
    let plain = renderer(dir.path(), 40);
    let (named, options) = (args(dir.path(), &["a.jsonl"]), LoadOptions::default());
    assert_eq!(count(&named, &plain, &options), 1);
    assert_eq!(count(&named, &plain, &LoadOptions { seed: 9, ..options.clone() }), 1, "no draw, no seed");
    std::fs::create_dir(dir.path().join("moved")).unwrap();
    std::fs::copy(dir.path().join("a.jsonl"), dir.path().join("moved/a.jsonl")).unwrap();
    assert_eq!(count(&args(dir.path(), &["moved/a.jsonl"]), &plain, &options), 1);
    assert_eq!(count(&named, &renderer(dir.path(), 41), &options), 2);
    assert_eq!(count(&named, &plain, &LoadOptions { max_samples: Some(99), ..options.clone() }), 3);
    let alpaca = Renderer::new(Some("alpaca"), tokenizer(dir.path()), plain.options().clone()).unwrap();
    assert_eq!(count(&named, &alpaca, &options), 4);
    std::fs::copy(dir.path().join("a.jsonl"), dir.path().join("other.jsonl")).unwrap();
    assert_eq!(count(&args(dir.path(), &["other.jsonl"]), &plain, &options), 5, "another task");
    // One byte, the size the same.
    std::fs::write(dir.path().join("a.jsonl"), rows(0..100).replace("say 7\"", "say 8\"")).unwrap();
    assert_eq!(count(&named, &plain, &options), 6);
    let config = dir.path().join("tokenizer_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen('{', "{\"add_prefix_space\": false, ", 1)).unwrap();
    assert_eq!(count(&named, &renderer(dir.path(), 40), &options), 7, "another tokenizer");
}

#[test]
fn damage_is_found_said_and_mended() {
    let dir = folder(&[("a.jsonl", &rows(0..200))]);
    let (args, root) = (args(dir.path(), &["a.jsonl"]), dir.path().join("cache"));
    let renderer = renderer(dir.path(), 40);
    let good = seen(&sft(&args, &renderer, &cache(&root, SMALL)));
    let kept = root.join(&names(&root)[0]);
    for name in ["ids.bin", "spans.bin", "entries.bin", "meta.json"] {
        for damage in ["flip", "cut", "gone"] {
            let path = kept.join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            match damage {
                "flip" => bytes[0] ^= 1,
                "cut" => bytes.truncate(bytes.len() - 3),
                _ => bytes.clear(),
            }
            std::fs::remove_file(&path).unwrap();
            if damage != "gone" {
                std::fs::write(&path, bytes).unwrap();
            }
            let mended = sft(&args, &renderer, &cache(&root, SMALL));
            let warnings = mended.warnings().join("\n");
            assert!(
                warnings.contains("is damaged") && warnings.contains(name),
                "{name} {damage}: {warnings}"
            );
            assert_eq!(seen(&mended), good, "{name} {damage}");
            let read = sft(&args, &renderer, &cache(&root, SMALL));
            assert!(read.warnings().is_empty() && read.is_mapped(), "{name} {damage}: {:?}", read.warnings());
        }
    }
    assert_eq!(names(&root).len(), 1);
}

#[test]
fn a_full_or_unwritable_disk_costs_the_cache_not_the_run() {
    let dir = folder(&[("a.jsonl", &rows(0..200)), ("file", "x")]);
    let args = args(dir.path(), &["a.jsonl"]);
    let renderer = renderer(dir.path(), 40);
    let memory = sft(&args, &renderer, &CacheOptions::default());
    let data = sft(&args, &renderer, &cache(&dir.path().join("file/cache"), SMALL));
    assert!(!data.is_mapped());
    assert_eq!(seen(&data), seen(&memory));
    let warning = data.warnings().join("\n");
    assert!(warning.contains("kept in memory") && warning.contains("file/cache"), "{warning}");

    // Full after much has been written: all of it comes back.
    let root = dir.path().join("cache");
    let mut spill = Spill::new(&root, "k".repeat(64), 64 << 10);
    spill.capacity = Some(9 << 20);
    let mut builder = DatasetBuilder::new(vec![], Some(spill));
    let ids: Vec<u32> = (0..1000).collect();
    for line in 0..3000 {
        let labels = [LabelSpan { positions: 1..500, token: (line % 2 == 0).then_some(7) }];
        builder.push(&ids[line % 7..], &labels, Entry { line: line as u64, ..Entry::default() }).unwrap();
        if line == 1000 {
            assert_eq!(names(&root).len(), 1, "it is on the disk by now");
        }
    }
    let mut tasks = Tasks::default();
    tasks.id("t").unwrap();
    let data = builder.finish(&tasks).unwrap();
    assert!(!data.is_mapped() && names(&root).is_empty());
    assert_eq!(data.len(), 3000);
    for (line, example) in data.iter().enumerate() {
        assert_eq!((example.ids, example.line), (&ids[line % 7..], line as u64));
        assert_eq!(example.labels.to_vec()[0].token, (line % 2 == 0).then_some(7));
    }
    assert!(data.warnings()[0].contains("kept in memory"), "{:?}", data.warnings());
}

#[test]
fn runs_at_once_do_not_disturb_each_other() {
    let dir = folder(&[("a.jsonl", &rows(0..300))]);
    let (args, root) = (args(dir.path(), &["a.jsonl"]), dir.path().join("cache"));
    let renderer = renderer(dir.path(), 40);
    let good = seen(&sft(&args, &renderer, &CacheOptions::default()));
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..6)
            .map(|i| {
                let options = CacheOptions { overwrite: i % 2 == 0, ..cache(&root, SMALL) };
                let (args, renderer) = (&args, &renderer);
                scope.spawn(move || (0..5).map(|_| sft(args, renderer, &options)).collect::<Vec<_>>())
            })
            .collect();
        for run in runs {
            assert!(run.join().unwrap().iter().all(|data| seen(data) == good));
        }
    });
    assert_eq!(names(&root).len(), 1, "{:?}", names(&root));
    let read = sft(&args, &renderer, &cache(&root, SMALL));
    assert!(read.warnings().is_empty() && seen(&read) == good);
}

#[test]
fn what_a_killed_run_left_is_removed_when_old() {
    let dir = folder(&[("a.jsonl", &rows(0..200))]);
    let root = dir.path().join("cache");
    for (name, old) in [(".aaaa.x.tmp", true), (".bbbb.y.tmp", false), ("mine", true)] {
        std::fs::create_dir_all(root.join(name)).unwrap();
        if old {
            let day = std::time::Duration::from_secs(25 * 3600);
            let folder = std::fs::File::open(root.join(name)).unwrap();
            folder.set_modified(std::time::SystemTime::now() - day).unwrap();
        }
    }
    sft(&args(dir.path(), &["a.jsonl"]), &renderer(dir.path(), 40), &cache(&root, SMALL));
    let left = names(&root);
    assert_eq!((left.len(), &left[0][..], &left[2][..]), (3, ".bbbb.y.tmp", "mine"), "{left:?}");
}

#[test]
fn pre_training_is_stored_too() {
    let text: String = (0..200).map(|i| format!("document {i} of them\n\n")).collect();
    let dir = folder(&[("a.txt", &text), ("b.txt", &text[..2000])]);
    let root = dir.path().join("cache");
    let files = data_files(&args(dir.path(), &["a.txt", "b.txt"]), Split::Train).unwrap();
    for packing in [true, false] {
        let pt = PtOptions { cutoff_len: 32, packing, drop_duplicates: false };
        let load = |cache: &CacheOptions| {
            let tok = tokenizer(dir.path());
            load_pt_cached(&files, &tok, pt, &LoadOptions::default(), cache, &mut Tasks::default()).unwrap()
        };
        let memory = load(&CacheOptions::default());
        for _ in 0..2 {
            let mapped = load(&cache(&root, SMALL));
            assert!(mapped.is_mapped());
            assert_eq!(seen(&mapped), seen(&memory));
            assert_eq!(duplicates(&mapped).tasks, duplicates(&memory).tasks);
        }
        // Every document of b is one of a, but in another task's file; a alone repeats nothing.
        assert_eq!(duplicates(&memory).tasks.len(), 1);
        let distinct = load_pt(
            &files,
            &tokenizer(dir.path()),
            PtOptions { drop_duplicates: true, ..pt },
            &LoadOptions::default(),
            &mut Tasks::default(),
        )
        .unwrap();
        assert_eq!(distinct.reports()[1].repeated, distinct.reports()[1].rows - 1, "the last is cut short");
        assert_eq!(distinct.reports()[0].repeated, 0);
        assert!(duplicates(&distinct).tasks.is_empty());
    }
    assert_eq!(names(&root).len(), 2);
}

#[test]
fn a_split_never_has_the_same_row_on_both_sides() {
    // Rows 0..40 in a, drawn 100 times; 30..60 in b, some of them in a as well; 40 equal rows in c.
    let info = r#"{"a": {"file_name": "a.jsonl", "num_samples": 100},
                   "b": {"file_name": "b.jsonl", "num_samples": 75},
                   "c": {"file_name": "c.jsonl"}}"#;
    let same = row(999).repeat(40) + &rows(1000..1010);
    let dir = folder(&[
        ("a.jsonl", &rows(0..40)),
        ("b.jsonl", &rows(30..60)),
        ("c.jsonl", &same),
        ("dataset_info.json", info),
    ]);
    let data = load(
        &with_datasets(dir.path(), &["a", "b", "c"]),
        RenderOptions::default(),
        LoadOptions { seed: 3, ..LoadOptions::default() },
    )
    .unwrap();
    assert_eq!(data.len(), 225);
    for (val_size, seed) in [(0.1, 1), (0.2, 2), (0.5, 3), (12.0, 4), (30.0, 5)] {
        let (train, eval) = data.split(val_size, seed).unwrap();
        let ids = |d: &Dataset| d.iter().map(|e| e.ids.to_vec()).collect::<Vec<_>>();
        let (learned, held): (HashSet<_>, Vec<_>) = (ids(&train).into_iter().collect(), ids(&eval));
        assert!(held.iter().all(|row| !learned.contains(row)), "{val_size}");
        let places: HashSet<_> = eval.iter().map(|e| (e.task, e.ids.to_vec())).collect();
        assert_eq!(places.len(), eval.len(), "held out once a task");
        // Repeats stay in training: they are what num_samples asks for.
        assert!(train.len() > learned.len());
        let of = |d: &Dataset, task: u16| d.task_ids().iter().filter(|t| t.0 == task).count();
        if val_size < 1.0 {
            // Of 40, 30 and 11 distinct rows; a row shared by a and b is held out of both.
            assert!((of(&eval, 0) - (40.0 * val_size) as usize) <= 10);
            assert_eq!(of(&eval, 1), ((30.0 * val_size) as usize).max(of(&eval, 1)));
            assert!(of(&eval, 1) <= (30.0 * val_size) as usize + 10);
            assert_eq!(of(&eval, 2), (11.0 * val_size).round() as usize);
        }
        let left_out = data.len() - train.len() - eval.len();
        assert_eq!(train.warnings().is_empty(), left_out == 0, "{:?}", train.warnings());
    }
}

fn config(dir: &Path, train: &[&str], eval: &[&str]) -> TrainConfig {
    let mut config = TrainConfig { data: args(dir, train), ..TrainConfig::default() };
    config.data.eval_data_files = eval.iter().map(Into::into).collect();
    config
}

fn run_data(config: &TrainConfig) -> setup::RunData {
    let renderer = renderer(&config.data.dataset_dir, 200);
    setup::load_data(config, Some(&renderer), renderer.tokenizer()).unwrap()
}

#[test]
fn duplicates_are_counted_and_left_out_on_demand() {
    let dir = folder(&[
        ("a.jsonl", &(rows(0..5) + &row(2) + &row(3) + &row(2))),
        ("b.jsonl", &row(2)),
        ("dataset_info.json", r#"{"a": {"file_name": "a.jsonl", "num_samples": 16}}"#),
    ]);
    let mut config = config(dir.path(), &["a.jsonl", "b.jsonl"], &[]);
    let data = run_data(&config);
    assert_eq!(data.train.len(), 9);
    let found = duplicates(&data.train);
    assert_eq!(found.tasks.len(), 1, "the same row in another task is no duplicate");
    let of_a = &found.tasks[0];
    assert_eq!((of_a.task.as_str(), of_a.rows, of_a.repeated), ("a", 8, 3));
    let lines: Vec<(u64, u64)> = of_a.pairs.iter().map(|((_, a), (_, b))| (*a, *b)).collect();
    assert_eq!(lines, [(6, 3), (7, 4), (8, 3)]);
    let warning = data.train.warnings().join("\n");
    assert!(warning.contains("a: 3 of 8 rows repeat") && warning.contains("a.jsonl:6 = "), "{warning}");
    config.data.drop_duplicates = true;
    let data = run_data(&config);
    assert_eq!(data.train.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 1]);
    assert_eq!((data.train.reports()[0].rows, data.train.reports()[0].examples), (8, 5));
    assert!(data.train.warnings()[0].contains("left out"), "{:?}", data.train.warnings());
    // What num_samples repeats is meant: two draws of each line, and only lines 6 to 8 are dropped.
    config.data.data_files.clear();
    config.data.dataset = vec!["a".into()];
    let data = run_data(&config);
    let mut lines: Vec<u64> = data.train.iter().map(|e| e.line).collect();
    lines.sort_unstable();
    assert!(lines.len() >= 10 && lines.iter().filter(|&&l| l == 1).count() >= 1, "{lines:?}");
    assert!(duplicates(&data.train).tasks.is_empty());
}

#[test]
fn contamination_is_found_whatever_case_and_white_space() {
    let eval = concat!(
        "{\"instruction\": \"What  is\\tTHIS?\", \"output\": \"A  thing\", \"system\": \"S\"}\n",
        "{\"instruction\": \"Say it.\", \"input\": \"now\", \"output\": \"it\"}\n",
        "{\"instruction\": \"unseen\", \"output\": \"it\"}\n",
    );
    let train = concat!(
        "{\"instruction\": \"what is this?\", \"output\": \"a thing \"}\n",
        "{\"instruction\": \"what is this\", \"output\": \"a thing\"}\n",
        "{\"instruction\": \"say it.\\nNOW\", \"output\": \"other\"}\n",
        "{\"instruction\": \"fine\", \"output\": \"it\"}\n",
    );
    let dir = folder(&[("a.jsonl", train), ("b.jsonl", &row(1)), ("a.dev.jsonl", eval)]);
    let mut config = config(dir.path(), &["a.jsonl", "b.jsonl"], &["a.dev.jsonl"]);
    let data = run_data(&config);
    let found = contamination(&data.train, data.eval.as_ref().unwrap());
    assert_eq!(found.clean, [1, 3, 4]);
    let of_a = &found.tasks[0];
    assert_eq!((found.tasks.len(), of_a.rows, of_a.repeated, of_a.same_reply), (1, 4, 2, 1));
    let lines: Vec<(u64, u64)> = of_a.pairs.iter().map(|((_, a), (_, b))| (*a, *b)).collect();
    assert_eq!(lines, [(1, 1), (3, 2)]);
    let warning = data.train.warnings().join("\n");
    for part in ["a: 2 of 4 training rows", "1 with the same reply", "a.jsonl:1 = ", "a.dev.jsonl:1", "drop"]
    {
        assert!(warning.contains(part), "{warning}");
    }
    assert_eq!(data.train.len(), 5);
    config.data.eval_contamination = EvalContamination::Drop;
    let data = run_data(&config);
    assert_eq!(data.train.iter().map(|e| e.line).collect::<Vec<_>>(), [2, 4, 1]);
    assert!(data.train.warnings()[0].contains("left out of training: 2 of 4"));
    config.data.eval_contamination = EvalContamination::Off;
    let data = run_data(&config);
    assert!(data.train.len() == 5 && data.train.warnings().is_empty());
    // Nothing would be left: an error that says so.
    config.data.eval_contamination = EvalContamination::Drop;
    config.data.data_files = vec!["b.jsonl".into()];
    config.data.eval_data_files = vec!["b.jsonl".into()];
    let renderer = renderer(dir.path(), 200);
    let error = setup::load_data(&config, Some(&renderer), renderer.tokenizer()).err().unwrap().to_string();
    assert!(error.contains("leaves nothing to train on"), "{error}");
}

#[test]
fn a_check_names_every_row_that_cannot_be_used() {
    let text = format!(
        "{}{{}}\n{{\"instruction\": \"q\", \"output\": \" \"}}\nnot json\n{}{{\"instruction\": \"{}\", \"output\": \
         \"y\"}}\n",
        row(1),
        row(1),
        "w ".repeat(90)
    );
    let dir =
        folder(&[("a.jsonl", &text), ("b.json", "[{\"instruction\": 1"), ("t.txt", "one\n\ntwo\n\nONE")]);
    let args = args(dir.path(), &["a.jsonl", "b.json"]);
    let files = data_files(&args, Split::Train).unwrap();
    let options = LoadOptions::default();
    for renderer in [None, Some(renderer(dir.path(), 60))] {
        let mut tasks = Tasks::default();
        let (data, found) = check_sft(&files, renderer.as_ref(), &options, 2, &mut tasks).unwrap();
        assert_eq!((found.rows, found.unusable, found.problems.len()), (8, 4, 2));
        let problems: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        assert!(problems[0].contains("a.jsonl:2:") && problems[1].contains("a.jsonl:4:"), "{problems:?}");
        let lines = |list: &Listed| list.places.iter().map(|(_, line)| *line).collect::<Vec<_>>();
        assert_eq!((found.empty_replies.count, lines(&found.empty_replies)), (1, vec![3]));
        assert_eq!(lines(&found.cut), if renderer.is_some() { vec![6] } else { vec![] });
        assert_eq!(data.len(), 4);
        let repeated = duplicates(&data).tasks;
        assert_eq!((repeated[0].repeated, repeated[0].pairs[0].0.1), (1, 5));
    }
    let files = data_files(&super::args(dir.path(), &["t.txt", "a.jsonl"]), Split::Train).unwrap();
    let pt = PtOptions { cutoff_len: 2, packing: false, drop_duplicates: false };
    for tok in [None, Some(tokenizer(dir.path()))] {
        let mut tasks = Tasks::default();
        let (data, found) = check_pt(&files, tok.as_deref(), pt, &options, 9, &mut tasks).unwrap();
        assert_eq!((found.rows, found.unusable, found.problems.len()), (9, 6, 6));
        assert_eq!(found.cut.count, if tok.is_some() { 3 } else { 0 });
        assert_eq!(duplicates(&data).tasks[0].repeated, 1);
    }
}
