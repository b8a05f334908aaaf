"""Question answering: where answers are, how long contexts are cut, and what is found in them."""

import re
import string
from collections import Counter

import pytest
import torch

from peftcore import DataError, backbone_named
from peftcore_train.data import Row
from peftcore_train.squad import exact_and_f1
from peftcore_train.tasks.answers import answers_of
from peftcore_train.tasks.question_answering import QuestionAnswering, QuestionAnsweringConfig
from peftcore_train.tasks.windows import best_spans

LONG = "the film was a story of two people and it was the film of a great and lovely story"


def row(context, answers, question="film", **others):
    return Row({"question": question, "context": context, "answers": answers, **others}, "x:1")


def squad(*texts, starts):
    return {"text": list(texts), "answer_start": list(starts)}


@pytest.fixture(scope="module")
def loaded(bert):
    return backbone_named("bert").load(str(bert), head="question-answering")


@pytest.mark.parametrize(
    ("answers", "start", "expected"),
    [
        (squad("film", starts=[4]), None, [("film", 4)]),
        (squad("film", "was", starts=[4, "9"]), None, [("film", 4), ("was", 9)]),
        (squad(starts=[]), None, []),
        ("was great", None, [("was great", 9)]),
        ("film", "4", [("film", 4)]),
        ("", "", []),
    ],
)
def test_answers_come_as_in_squad_or_flat(answers, start, expected):
    given = row("the film was great", answers, start=start)
    column = None if start is None else "start"
    assert answers_of(given, "answers", column, "context") == expected


@pytest.mark.parametrize(
    ("answers", "start", "expected"),
    [
        (squad("film", starts=[5]), None, "the context has 'ilm ' at character 5, not the answer"),
        (squad("film", starts=[]), None, "as many of both"),
        (squad("", starts=[0]), None, "holds the answer ''"),
        (["film"], None, r"column 'answers' holds \['film'\], neither a text nor"),
        ("film", None, "the answer 'film' occurs 2 times in the context; say with task.start_c"),
        ("a", "-1", "an answer begins at '-1', which is no character"),
    ],
)
def test_an_answer_that_is_not_there_is_named(answers, start, expected):
    given = row("the film of film", answers, start=start)
    with pytest.raises(DataError, match=rf"x:1: .*{expected}"):
        answers_of(given, "answers", None if start is None else "start", "context")


def test_a_row_without_an_answer_needs_training_rows_without_one(loaded):
    task = QuestionAnswering(QuestionAnsweringConfig())
    task.learn([row("the film", "film")])
    assert task.learned() == {"no_answer": False}
    with pytest.raises(DataError, match="x:1: there is no answer, but the training rows all have"):
        task.check([row("the film", "")])
    task = QuestionAnswering(QuestionAnsweringConfig())
    task.learn([row("the film", "")])
    task.check([row("the film", "")])
    assert task.encode(row("the film", ""), loaded)["answers"] == [""]


def test_windows_cover_a_long_context_and_share_tokens(loaded):
    task = QuestionAnswering(QuestionAnsweringConfig(max_length=10, doc_stride=2))
    answer = "great and lovely"
    features = task.encode(row(LONG, answer), loaded)
    tokens = [
        [LONG[b:e] for b, e, c in zip(w["begins"], w["stops"], w["in_context"], strict=True) if c]
        for w in features["windows"]
    ]
    words = LONG.split()
    # 10 less the question and three special tokens; each window goes on 4 words further
    assert tokens == [words[i : i + 6] for i in range(0, len(words) - 2, 4)]
    places = [(window["start"], window["end"]) for window in features["windows"]]
    held = [answer in " ".join(part) for part in tokens]
    assert [place != (0, 0) for place in places] == held and any(held)
    for window, place in zip(features["windows"], places, strict=True):
        if place != (0, 0):
            assert LONG[window["begins"][place[0]] : window["stops"][place[1]]] == answer
    with pytest.raises(DataError, match=r"x:1: the question has 11 tokens .* 10 fit"):
        task.encode(row(LONG, answer, question="film " * 8), loaded)


def test_the_loss_is_that_of_transformers(loaded):
    task = QuestionAnswering(QuestionAnsweringConfig())
    rows = [row("the film was great", "great"), row("two people", "two people")]
    batch = task.collate([task.encode(one, loaded) for one in rows])
    inputs = {k: batch[k] for k in ("input_ids", "attention_mask", "token_type_ids")}
    short = {name: value[:1] for name, value in inputs.items()}
    with torch.no_grad():
        theirs = loaded.model(
            **short, start_positions=batch["start"][:1], end_positions=batch["end"][:1]
        ).loss
        ours = task.score(loaded.model, batch)["loss"]
        assert float(ours[0]) == pytest.approx(float(theirs), rel=1e-5)
        assert float(task.loss(loaded.model, batch)) == pytest.approx(float(ours.mean()), rel=1e-5)


def test_the_best_span_is_that_of_all_pairs():
    torch.manual_seed(0)
    logits = torch.randn(3, 9, 2)
    inside = torch.rand(3, 9) < 0.8
    for window, (score, first, last) in enumerate(best_spans(logits, inside, 3)):
        pairs = {
            (i, j): float(logits[window, i, 0] + logits[window, j, 1])
            for i in range(9)
            for j in range(i, min(i + 3, 9))
            if inside[window, i] and inside[window, j]
        }
        assert (first, last) == max(pairs, key=pairs.__getitem__)
        assert score == pytest.approx(pairs[first, last])


@pytest.mark.parametrize(("no_answer", "expected"), [(False, "great"), (True, "")])
def test_the_best_window_answers_unless_nothing_is_better(loaded, no_answer, expected):
    config = QuestionAnsweringConfig(max_length=10, doc_stride=2, no_answer=no_answer)
    task = QuestionAnswering(config)
    batch = task.collate([task.encode(row(LONG, "great"), loaded)])
    logits = torch.zeros(*batch["input_ids"].shape, 2)
    window = next(i for i, start in enumerate(batch["start"].tolist()) if start)
    logits[window, batch["start"][window]] = 3.0
    logits[:, 0] = 4.0  # says that there is none
    (found,) = task._found(logits, batch)
    assert found["answer"] == expected
    assert found["score"] == (8.0 if no_answer else 6.0)
    if not no_answer:
        assert LONG[found["start"] : found["end"]] == "great"


def test_exact_match_and_f1_are_those_of_squad():
    found = ["the Film!", "a great story", "", "something", "two people"]
    known = [["film"], ["story", "dull story"], [""], [""], ["two", "of two people and"]]
    exact, f1 = exact_and_f1(found, known)

    def words(text):  # the official script, version 2.0
        text = "".join(c for c in text.lower() if c not in string.punctuation)
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    def overlap(one, other):
        one, other = words(one), words(other)
        same = sum((Counter(one) & Counter(other)).values())
        if not one or not other:
            return float(one == other)
        return 2 * same / (len(one) + len(other))

    expected = [
        max(overlap(text, k) for k in right) for text, right in zip(found, known, strict=True)
    ]
    assert f1.tolist() == pytest.approx(expected)
    assert exact.tolist() == [
        float(any(words(text) == words(k) for k in right))
        for text, right in zip(found, known, strict=True)
    ]
