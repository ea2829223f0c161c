"""Golden values for train/src/metrics, from the programs whose definitions it follows.

    pip install rouge-score==0.1.2 scikit-learn==1.9.1 'transformers==4.57.6' sacrebleu==2.6.0
    python tests/reference/metrics.py > tests/fixtures/metrics/metrics.json

ROUGE is Google's rouge-score (use_stemmer=False), exact match and token F1 are SQuAD's evaluation script as
transformers carries it, BLEU is sacrebleu's, the scores of labels are scikit-learn's. For Chinese, ROUGE is
rouge-score's with a tokeniser that takes each character for a word, and exact match and F1 are MLQA's
(mlqa_evaluation_v1.py, language zh), whose normalisation is repeated here.
"""

import json
import random
import re
import string
import sys
import unicodedata

import sacrebleu
from rouge_score import rouge_scorer, tokenizers
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support
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
    ("x\x1cy z\x1ez", "x y z z"),
    ("ΣΊΣΥΦΟΣ the", "σίσυφος"),
]

CHINESE = [
    ("", "北京"),
    ("北京", ""),
    ("北京是中国的首都。", "中国的首都是北京"),
    ("北京,是首都!", "北京是首都"),
    ("《红楼梦》的作者是曹雪芹", "红楼梦,曹雪芹"),
    ("共有 128 个文件(约 3.5 MB)", "约 128 个文件,3.5MB"),
    ("The 答案是 Rust", "答案是rust"),
    ("网络——工具…", "网络工具"),
    ("網頁瀏覽器", "网页浏览器"),
    ("〇一二三", "一二三〇"),
    ("的的的", "的"),
    ("a的an的the", "的的"),
    ("文本 text 编辑器 editor", "文本编辑器 text-editor"),
    ("这个软件包提供了一个用于处理音频的库", "一个处理音频文件的库"),
    ("用于测试的共享数据", "测试用的数据,共享"),
    ("“引号”、‘单引号’", "引号单引号"),
]

CORPORA = [
    (["the cat sat on the mat", "there is a dog"], ["the cat is on the mat", "there is the dog here"], "13a"),
    (["Version 1,234.5 (beta) costs $5-10.", "It's a well-known, 3-D tool."],
     ["Version 1,234.5 (alpha) costs $5-12.", "It is a well-known 3-D tool!"], "13a"),
    (["&quot;a &lt;b&gt; &amp; c&quot; d", "line-\nbreak and\nmore <skipped> words. "],
     ["\"a <b> & c\" d e", "linebreak and more words."], "13a"),
    (["", "a b c"], ["x y", "a b c d"], "13a"),
    (["", ""], ["x", ""], "13a"),
    (["yes", "no", "yes"], ["yes", "no", "no"], "13a"),
    (["one two three four five six"], ["six five four three two one"], "13a"),
    (["a server for the web, and a client library for files."], ["a client library for files and a web server."], "13a"),
    (["北京是中国的首都。", "这个软件包有 3.5 MB,共 1,024 个文件"], ["中国的首都是北京。", "软件包大小为 3.5 MB,含 1,024 个文件"], "zh"),
    (["用于处理音频的库", "a library"], ["处理音频文件的库", "a library for audio files"], "zh"),
    (["an editor for text", "“引号”——工具…", "a b c d e"], ["a text editor", "引号 tools for 网络", "a b c d e"], "13a"),
    (["完全不同"], ["北京"], "zh"),
]

# What counts as a character of Chinese or Japanese: the ranges of train/src/metrics/language.rs.
IDEOGRAPH = (
    "[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af\u3005\u3007"
    "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]"
)


class Characters(tokenizers.Tokenizer):
    """rouge-score's own rule, [a-z0-9]+ in lower case, and ideographs one by one."""

    def tokenize(self, text):
        return re.findall(f"[a-z0-9]+|{IDEOGRAPH}", text.lower())


PUNCT = {chr(i) for i in range(sys.maxunicode) if unicodedata.category(chr(i)).startswith("P")}.union(string.punctuation)


def mlqa_tokens(text):
    """MLQA's normalize_answer for zh: lower case, no punctuation, characters apart."""
    text = "".join(c for c in text.lower() if c not in PUNCT)
    return re.sub(f"({IDEOGRAPH})", r" \1 ", text).split()


def mlqa_scores(prediction, reference):
    p, r = mlqa_tokens(prediction), mlqa_tokens(reference)
    left, common = list(r), 0
    for token in p:
        if token in left:
            left.remove(token)
            common += 1
    if not p or not r:
        return float(p == r), float(p == r)
    if common == 0:
        return float(p == r), 0.0
    precision, recall = common / len(p), common / len(r)
    return float(p == r), 2 * precision * recall / (precision + recall)


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


def text_scores(scorer, prediction, reference, exact, f1):
    scores = scorer.score(reference, prediction)
    rouge = {name: scores[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")}
    return {"prediction": prediction, "reference": reference, "exact_match": exact, "f1": f1, **rouge}


def label_scores(predictions, references):
    # Classes are those of the references: an answer outside them is wrong, but no class of its own.
    classes = sorted(set(references))
    f1 = lambda average: f1_score(references, predictions, labels=classes, average=average, zero_division=0)
    by_label = zip(*precision_recall_fscore_support(references, predictions, labels=classes, zero_division=0))
    names = ("precision", "recall", "f1", "support")
    outside = "\uffff"
    answers = [p if p in classes else outside for p in predictions]
    return {
        "predictions": predictions,
        "references": references,
        "accuracy": accuracy_score(references, predictions),
        "macro_f1": f1("macro"),
        "micro_f1": f1("micro"),
        "by_label": [
            {"label": label, **{n: (int(v) if n == "support" else float(v)) for n, v in zip(names, values)}}
            for label, values in zip(classes, by_label)
        ],
        "confusion": confusion_matrix(references, answers, labels=classes + [outside]).tolist()[: len(classes)],
    }


def bleu(predictions, references, tokenize):
    return sacrebleu.corpus_bleu(predictions, [references], tokenize=tokenize, force=True).score


def main():
    names = ["rouge1", "rouge2", "rougeL"]
    english = rouge_scorer.RougeScorer(names, use_stemmer=False)
    chinese = rouge_scorer.RougeScorer(names, tokenizer=Characters())
    pairs = [
        text_scores(english, p, r, compute_exact(r, p), float(compute_f1(r, p)))
        for p, r in EDGES + list(noisy_pairs(60, seed=7))
    ]
    chinese_pairs = [text_scores(chinese, p, r, *mlqa_scores(p, r)) for p, r in CHINESE]
    noisy = list(noisy_pairs(12, seed=19))
    corpora = CORPORA + [([p for p, _ in noisy], [r for _, r in noisy], "13a")]
    golden = {
        "pairs": pairs,
        "chinese_pairs": chinese_pairs,
        "corpora": [
            {"predictions": p, "references": r, "13a": bleu(p, r, "13a"), "zh": bleu(p, r, "zh"), "auto": auto}
            for p, r, auto in corpora
        ],
        "labels": [label_scores(p, r) for p, r in label_sets(seed=11)],
    }
    # A line a case.
    lines = {k: ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases) for k, cases in golden.items()}
    print("{" + ",\n".join(f'"{k}": [\n{text}\n]' for k, text in lines.items()) + "}")


if __name__ == "__main__":
    main()
