"""Golden values for train/src/metrics, from the programs whose definitions it follows.

    pip install rouge-score==0.1.2 scikit-learn==1.9.1 'transformers==4.57.6'
    python tests/reference/metrics.py > tests/fixtures/metrics/metrics.json

ROUGE is Google's rouge-score (use_stemmer=False), exact match and token F1 are SQuAD's evaluation script as
transformers carries it, accuracy and macro-F1 are scikit-learn's.
"""

import json
import random

from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

EDGES = [
    ("", ""),
    ("", "something"),
    ("something", ""),
    ("the", "a"),
    ("The Cat.", "cat"),
    ("an apple a day", "apple day"),
    ("theory of another", "theory another"),
    ("well-known fact", "wellknown fact"),
    ("a-b c_d", "ab cd"),
    ("x  y\tz\n", "x y z"),
    ("Paris", "paris, France"),
    ("Köln ist schön", "koln ist schon"),
    ("北京 是 首都", "首都 是 北京"),
    ("naïve café—menu", "naive cafe menu"),
    ("1,234.5 MB", "1234.5 MB"),
    ("the the the cat cat", "the cat the"),
    ("yes!!!", "Yes"),
    ("$5 (five) dollars", "5 dollars five"),
    ("a.the.an", "x"),
    ("the\u00e9 the_ _an", "\u00e9"),
    ("ÀÉ İstanbul STRASSE straße", "àé istanbul strasse STRASSE"),
]

WORDS = "the a an server client library file for data of and to Python web tool, (GNU) fast. image-viewer x86 it's".split()


def noisy_pairs(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(1, 25))]
        prediction = [w for w in reference if rng.random() > 0.25]
        for _ in range(rng.randint(0, 6)):
            prediction.insert(rng.randint(0, len(prediction)), rng.choice(WORDS))
        if rng.random() < 0.3:
            rng.shuffle(prediction)
        yield " ".join(prediction), " ".join(reference)


def label_sets(seed):
    rng = random.Random(seed)
    for labels, count in [(["sound", "net", "games"], 30), (["yes", "no"], 12), ([f"c{i}" for i in range(20)], 60)]:
        references = [rng.choice(labels) for _ in range(count)]
        outside = ["nonsense", "", "net sound"]
        predictions = [
            r if rng.random() < 0.6 else rng.choice(labels if rng.random() < 0.7 else outside) for r in references
        ]
        yield predictions, references


def main():
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    pairs = []
    for prediction, reference in EDGES + list(noisy_pairs(60, seed=7)):
        scores = rouge.score(reference, prediction)
        pairs.append(
            {
                "prediction": prediction,
                "reference": reference,
                "exact_match": compute_exact(reference, prediction),
                "f1": float(compute_f1(reference, prediction)),
                "rouge1": scores["rouge1"].fmeasure,
                "rouge2": scores["rouge2"].fmeasure,
                "rougeL": scores["rougeL"].fmeasure,
            }
        )
    labels = []
    for predictions, references in label_sets(seed=11):
        # Classes are those of the references: an answer outside them is wrong, but no class of its own.
        classes = sorted(set(references))
        labels.append(
            {
                "predictions": predictions,
                "references": references,
                "accuracy": accuracy_score(references, predictions),
                "macro_f1": f1_score(references, predictions, labels=classes, average="macro", zero_division=0),
            }
        )
    print(json.dumps({"pairs": pairs, "labels": labels}, ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
