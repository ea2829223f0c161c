//! Against golden values of rouge-score, SQuAD's script and scikit-learn; `tests/reference/metrics.py` makes them.

use serde_json::Value;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/metrics/metrics.json")).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(text).collect()
}

fn pairs<'a>(predictions: &[&'a str], references: &[&'a str]) -> Vec<Pair<'a>> {
    predictions.iter().zip(references).map(|(prediction, reference)| Pair { prediction, reference }).collect()
}

#[test]
fn texts_score_as_the_references_say() {
    let golden = golden();
    for (kind, language, least) in [
        ("pairs", Language::En, 70),
        ("chinese_pairs", Language::Zh, 15),
        // Without a Chinese character the language makes no difference.
        ("western_pairs", Language::Auto, 50),
        ("chinese_pairs", Language::Auto, 15),
    ] {
        let western = kind == "western_pairs";
        let cases = golden[if western { "pairs" } else { kind }].as_array().unwrap();
        let mut checked = 0;
        for case in cases {
            let (prediction, reference) = (text(&case["prediction"]), text(&case["reference"]));
            let cuts = Language::Auto.cuts(prediction, reference);
            if language == Language::Auto && cuts == western {
                continue;
            }
            checked += 1;
            let scores = [
                ("exact_match", f64::from(u8::from(exact_match(prediction, reference, language)))),
                ("f1", token_f1(prediction, reference, language)),
                ("rouge1", rouge_n(prediction, reference, 1, language)),
                ("rouge2", rouge_n(prediction, reference, 2, language)),
                ("rougeL", rouge_l(prediction, reference, language)),
            ];
            for (name, got) in scores {
                let expected = case[name].as_f64().unwrap();
                assert!(
                    (got - expected).abs() < 1e-12,
                    "{name} of {prediction:?} / {reference:?} in {language:?}: {got}, not {expected}"
                );
            }
        }
        assert!(checked >= least, "{kind}: {checked}");
    }
}

#[test]
fn corpora_score_as_sacrebleu_says() {
    let golden = golden();
    let cases = golden["corpora"].as_array().unwrap();
    assert!(cases.len() >= 8);
    let mut zeros = 0;
    for case in cases {
        let (predictions, references) = (texts(&case["predictions"]), texts(&case["references"]));
        let pairs = pairs(&predictions, &references);
        for (name, language) in [("13a", Language::En), ("zh", Language::Zh)] {
            let (got, expected) = (corpus_bleu(&pairs, language), case[name].as_f64().unwrap() / 100.0);
            assert!((got - expected).abs() < 1e-12, "{name} of {predictions:?}: {got}, not {expected}");
            zeros += usize::from(got == 0.0);
        }
        let chosen = case["auto"].as_str().unwrap();
        let expected = case[chosen].as_f64().unwrap() / 100.0;
        assert!((corpus_bleu(&pairs, Language::Auto) - expected).abs() < 1e-12, "{predictions:?}");
    }
    assert!(zeros > 0 && zeros < cases.len());
    assert_eq!(corpus_bleu(&[], Language::Auto), 0.0);
}

#[test]
fn labels_score_as_scikit_learn_says() {
    let golden = golden();
    for case in golden["labels"].as_array().unwrap() {
        let (predictions, references) = (texts(&case["predictions"]), texts(&case["references"]));
        let pairs = pairs(&predictions, &references);
        assert!(are_labels(&pairs));
        let scores =
            [("accuracy", accuracy(&pairs)), ("macro_f1", macro_f1(&pairs)), ("micro_f1", micro_f1(&pairs))];
        for (name, got) in scores {
            let expected = case[name].as_f64().unwrap();
            assert!((got - expected).abs() < 1e-12, "{name}: {got} is not {expected}");
        }
        let table = LabelTable::new(&pairs);
        let expected = case["by_label"].as_array().unwrap();
        assert_eq!(table.labels.len(), expected.len());
        for (got, expected) in table.labels.iter().zip(expected) {
            assert_eq!(got.label, text(&expected["label"]));
            assert_eq!(got.support as u64, expected["support"].as_u64().unwrap());
            for (name, got) in [("precision", got.precision), ("recall", got.recall), ("f1", got.f1)] {
                assert!((got - expected[name].as_f64().unwrap()).abs() < 1e-12, "{name} {got} {expected}");
            }
        }
        let confusion: Vec<Vec<usize>> = serde_json::from_value(case["confusion"].clone()).unwrap();
        assert_eq!(table.confusion, confusion);
    }
}

#[test]
fn answers_are_taken_out_before_they_are_scored() {
    let pattern = AnswerRegex::All(r"answer: (\w+)".into());
    let scoring = Scoring {
        extraction: Extraction::new(Some(&pattern), false).unwrap(),
        labels: [("yesno".to_string(), ["yes".to_string(), "no".to_string()].into())].into(),
        ..Scoring::default()
    };
    let pair = |prediction, reference| ("yesno", Pair { prediction, reference });
    let examples = [pair("well, answer: yes", "yes"), pair("yes", "yes"), pair("answer: no", "yes")];
    let report = &scoring.reports(examples)["yesno"];
    // The second reply has no answer in the form asked for, so it is wrong.
    assert_eq!((report.accuracy, report.answered), (Some(1.0 / 3.0), Some(2.0 / 3.0)));
    let table = &scoring.label_tables(examples)["yesno"];
    assert_eq!((table.labels[0].label.as_str(), table.confusion[0].as_slice()), ("yes", &[1, 2][..]));
    assert_eq!(Scoring::default().reports(examples)["yesno"].exact_match, 1.0 / 3.0);
    assert_eq!(Scoring::default().reports(examples)["yesno"].answered, None);
}

#[test]
fn labels_are_few_and_repeat() {
    let few = ["yes", "no", "yes", "no "];
    assert!(are_labels(&pairs(&few, &few)));
    let all_different = ["one", "two", "three", "four"];
    assert!(!are_labels(&pairs(&all_different, &all_different)));
    let many: Vec<String> = (0..84).map(|index| format!("{}", index % 21)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(!are_labels(&pairs(&many, &many)));
    assert!(are_labels(&pairs(&many[..40], &["x"; 40])));
    assert!(!are_labels(&[]));
}

#[test]
fn tasks_are_scored_apart() {
    let pair = |prediction, reference| Pair { prediction, reference };
    let reports = score_tasks([
        ("qa", pair("the cat sat", "cat")),
        ("section", pair("net", "net")),
        ("section", pair("sound\n", "net")),
        ("section", pair("net", "net")),
        ("section", pair("net", "sound")),
        ("qa", pair("dog", "dog")),
    ]);
    let qa = &reports["qa"];
    assert_eq!((qa.examples, qa.exact_match, qa.accuracy), (2, 0.5, None));
    assert!((qa.f1 - (2.0 / 3.0 + 1.0) / 2.0).abs() < 1e-12);
    let section = &reports["section"];
    assert_eq!(section.accuracy, Some(0.5));
    // net: 2 right of 3 predicted and 3 actual; sound: 0 right.
    assert!((section.macro_f1.unwrap() - (2.0 / 3.0) / 2.0).abs() < 1e-12);
    let names = |report: &TaskReport| report.scores().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(names(qa), TEXT_SCORES);
    assert_eq!(names(section), [&TEXT_SCORES[..], &LABEL_SCORES].concat());
    assert_eq!(TaskReport::score(&[]), None);
    let json = serde_json::to_value(qa).unwrap();
    assert!(json.get("accuracy").is_none() && json.get("rougeL").is_some());
    assert_eq!(&serde_json::from_value::<TaskReport>(json).unwrap(), qa);
}
