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
    let cases = golden["pairs"].as_array().unwrap();
    assert!(cases.len() > 70);
    for case in cases {
        let (prediction, reference) = (text(&case["prediction"]), text(&case["reference"]));
        let scores = [
            ("exact_match", f64::from(u8::from(exact_match(prediction, reference)))),
            ("f1", token_f1(prediction, reference)),
            ("rouge1", rouge_n(prediction, reference, 1)),
            ("rouge2", rouge_n(prediction, reference, 2)),
            ("rougeL", rouge_l(prediction, reference)),
        ];
        for (name, got) in scores {
            let expected = case[name].as_f64().unwrap();
            assert!(
                (got - expected).abs() < 1e-12,
                "{name} of {prediction:?} / {reference:?}: {got}, not {expected}"
            );
        }
    }
}

#[test]
fn labels_score_as_scikit_learn_says() {
    let golden = golden();
    for case in golden["labels"].as_array().unwrap() {
        let (predictions, references) = (texts(&case["predictions"]), texts(&case["references"]));
        let pairs = pairs(&predictions, &references);
        assert!(are_labels(&pairs));
        assert!((accuracy(&pairs) - case["accuracy"].as_f64().unwrap()).abs() < 1e-12);
        let (got, expected) = (macro_f1(&pairs), case["macro_f1"].as_f64().unwrap());
        assert!((got - expected).abs() < 1e-12, "{got} is not {expected}");
    }
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
    assert_eq!(qa.scores().len(), 5);
    assert_eq!(section.scores().len(), 7);
    assert_eq!(TaskReport::score(&[]), None);
    let json = serde_json::to_value(qa).unwrap();
    assert!(json.get("accuracy").is_none() && json.get("rougeL").is_some());
    assert_eq!(&serde_json::from_value::<TaskReport>(json).unwrap(), qa);
}
