"""BLEU-4 by the published evaluator's arithmetic, and sacrebleu's beside it."""

import json
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU

from peftcore_code.answers import says_yes
from peftcore_code.bleu import bleu4, tokens
from peftcore_train.testing.program import printed, refused

#: Prediction, reference, and what CodeReviewer/code/evaluator/smooth_bleu.py of microsoft/CodeBERT
#: (5488f12) computes of each with stop words and without, run with NLTK's tokenizer.
PAIRS = [
    ("", "Please add a test.", 0.6737946999, 0.6737946999),
    ("", "Why?", 13.53352832, 13.53352832),
    ("Please add a test.", "Please add a test.", 100, 100),
    ("please ADD a test", "Please add a test.", 81.87307531, 81.87307531),
    (
        "why not use a constant here?", "Could we use a constant here, instead of 42?",
        32.42042747, 27.95279274,
    ),
    (
        "This isn't needed.", "this isn't needed any more, don't you think?",
        25.62185911, 34.12450881,
    ),
    (
        "nit: rename `fooBar` to `foo_bar`", "nit: use snake_case: `foo_bar`.",
        39.10763669, 42.67361722,
    ),
    ("return self.a_b_c", "return self.a_b_c_d", 80.07374029, 77.88007831),
    (
        "if (x == 1.5) { y = 2,000; }", "if (x == 1.50) { y = 2,000.0; }",
        67.28815024, 65.24885066,
    ),
    ("the the the the", "the cat", 31.94715521, 36.78794412),
    ("The the THE", "the", 48.54917717, 8.636168555e-76),
    ("a", "a", 100, 100),
    ("a", "b", 1.22133867e-75, 1.22133867e-75),
    ("x && y &amp; z &lt; w", "x && y & z < w", 40.35278637, 40.35278637),
    ("über größe naïve", "Über Größe naive", 68.6589048, 68.6589048),
    ("foo-bar 3-4 5 - 6", "foo - bar 3-4 5-6", 100, 100),
    (
        "line one\nline two\tthree", "line one line two three four five six seven eight nine ten",
        31.14032239, 71.65313106,
    ),
    (
        "This should probably be private because nothing outside uses it", "this can be private",
        16.99044245, 70.71067812,
    ),
    (
        "for (int i = 0; i < n; ++i) sum += a[i];", "for (int i = 0; i < n; i++) sum += a[i];",
        83.23387063, 82.38201533,
    ),
    ("日本語 のコメント", "日本語のコメント です", 8.636168555e-76, 8.636168555e-76),
]  # fmt: skip


@pytest.mark.parametrize(("stop_words", "mean"), [(True, 48.07), (False, 50.73)])
def test_every_text_and_their_mean_score_as_the_published_evaluator_says(
    stop_words: bool, mean: float
) -> None:
    found = [100 * bleu4(said, wanted, stop_words=stop_words) for said, wanted, *_ in PAIRS]
    expected = [pair[2 if stop_words else 3] for pair in PAIRS]
    assert found == pytest.approx(expected, rel=1e-9)
    assert round(sum(found) / len(found), 2) == mean


def test_underscores_part_words_and_stop_words_are_found_before_lower_case() -> None:
    assert tokens("Foo_Bar += 1.5;") == ["foo", "_", "bar", "+", "=", "1", ".", "5", ";"]
    assert tokens("The cat is on the mat", stop_words=False) == ["the", "cat", "mat"]


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_answers_of_any_origin_are_scored_with_sacrebleu_beside(tmp_path: Path) -> None:
    said = [{"id": i, "completion": pair[0]} for i, pair in enumerate(PAIRS)]
    wanted = [{"id": i, "msg": pair[1]} for i, pair in enumerate(PAIRS)]
    answers, truth = (
        write(tmp_path / "said.jsonl", said[::-1]),  # the order is no matter
        write(tmp_path / "wanted.jsonl", wanted),
    )
    found = json.loads(printed("review-score", answers, truth, "--json"))
    corpus = BLEU().corpus_score([p[0] for p in PAIRS], [[p[1] for p in PAIRS]]).score
    expected = {
        "texts": 20, "bleu4": 0.4807, "bleu4_without_stop_words": 0.5073, "exact_match": 2 / 20,
        "bleu": corpus / 100,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=5e-5)
    write(answers, said[1:])
    assert refused("review-score", answers, truth) == (
        "said.jsonl: 1 of 20 ids of wanted.jsonl have no answer, such as '0'. Answer all of them."
    )
    write(answers, [*said, {"id": "20", "completion": "x"}])
    assert "said.jsonl:21: wanted.jsonl has no id '20'" in refused("review-score", answers, truth)
    write(answers, [*said, said[3]])
    assert "the id '3' stands at said.jsonl:4 too" in refused("review-score", answers, truth)


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("yes", True), ("Yes, it does.", True), (" \n**NO**", False), ("no!", False), ("", None),
        ("nothing", None), ("yesterday", None), ("I think yes", None), ("1", None),
    ],
)  # fmt: skip
def test_an_answer_begins_with_yes_or_no_or_says_neither(text: str, yes: bool | None) -> None:
    assert says_yes(text) is yes


def test_what_says_neither_counts_as_no(tmp_path: Path) -> None:
    said = ["yes", "Yes.", "hmm", "", "no", "yes"]
    answers = write(
        tmp_path / "said.jsonl", [{"id": i, "completion": text} for i, text in enumerate(said)]
    )
    truth = write(
        tmp_path / "wanted.jsonl", [{"id": i, "y": y} for i, y in enumerate([1, 1, 1, 0, 1, 0])]
    )
    found = json.loads(printed("review-score", answers, truth, "--action", "necessity", "--json"))
    expected = {"texts": 6, "f1": 4 / 7, "precision": 2 / 3, "recall": 2 / 4, "unparsable": 2 / 6}
    assert found == pytest.approx(expected)
