"""Token classification: which token has which label, what is scored, and what is predicted."""

import json

import pytest
import torch
from nervaluate import Evaluator
from torch import nn
from transformers import BertTokenizerFast, EsmTokenizer

from peftcore import ConfigError, DataError, Loaded
from peftcore_train.data import Row
from peftcore_train.metrics import computed, entity_metrics, label_metrics
from peftcore_train.residues import STANDARD
from peftcore_train.tasks.token_classification import (
    TokenClassification,
    TokenClassificationConfig,
    entities,
)

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def row(tokens, labels=None, line=1):
    return Row({"tokens": tokens, "labels": labels}, f"x.jsonl:{line}")


def learned(*rows, **config):
    task = TokenClassification(TokenClassificationConfig(**config))
    task.learn(rows)
    return task


def bert_tokens(folder, *words):
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]))
    return Loaded(nn.Linear(1, 1), BertTokenizerFast(str(folder / "vocab.txt")))


def esm_tokens(folder):
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"ACDEFGHIKLMNPQRSTVWY", "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(words))
    return Loaded(nn.Linear(1, 1), EsmTokenizer(str(folder / "vocab.txt")))


def test_the_label_is_on_the_first_token_of_a_word(tmp_path):
    loaded = bert_tokens(tmp_path, "film", "##s", "new", "york")
    one = row(["films", "New York", "film"], ["a", "b", "a"])
    task = learned(one)
    features = task.encode(one, loaded)
    tokens = loaded.tokenizer.convert_ids_to_tokens(features["input_ids"])
    assert tokens == ["[CLS]", "film", "##s", "new", "york", "film", "[SEP]"]
    assert features["labels"] == [-100, 0, -100, 1, -100, 0, -100]
    assert task.encode(row("films film", "a a"), loaded)["labels"] == [-100, 0, -100, 0, -100]


@pytest.mark.parametrize("fast", [True, False])
def test_each_residue_has_its_label_whatever_the_vocabulary(tmp_path, fast):
    loaded = bert_tokens(tmp_path, *"mkv") if fast else esm_tokens(tmp_path)
    one = row("MKVK", "HE-E")
    task = learned(one, unit="residue", spaced=fast, ignored_label="-")
    assert task.learned() == {"labels": ["E", "H"]}
    assert task.encode(one, loaded)["labels"] == [-100, 1, 0, -100, 0, -100]
    as_list = row("MK VK", ["H", "E", "-", "E"])
    assert task.encode(as_list, loaded)["labels"] == [-100, 1, 0, -100, 0, -100]
    short = learned(one, unit="residue", spaced=fast, max_length=4, truncation=True)
    features = short.encode(one, loaded)
    assert len(features["input_ids"]) == len(features["labels"]) == 4
    assert features["firsts"] == [1, 2, None, None]


def test_residues_that_share_a_token_are_refused_with_what_to_do(tmp_path):
    loaded = bert_tokens(tmp_path, *"mkv")
    one = row("MKVK", "HEEE")
    with pytest.raises(ConfigError, match=r"x.jsonl:1: .* one token.*task.spaced: true"):
        learned(one, unit="residue").encode(one, loaded)


@pytest.mark.parametrize(
    ("tokens", "labels", "config", "expected"),
    [
        ("a b", "x", {}, "x.jsonl:2: 1 labels for 2 words; each word has one"),
        (["a", ""], "x y", {}, "x.jsonl:2: column 'tokens' holds '' at place 2"),
        ("a b", ["x", None], {}, "x.jsonl:2: label None is neither a text nor an integer"),
        ("a b", "x z", {}, "x.jsonl:2: label 'z' is not among the labels of training: x, y"),
        ("a b", "- -", {"ignored_label": "-"}, "x.jsonl:2: every label is '-', which task.ign"),
        (7, "x y", {}, "x.jsonl:2: column 'tokens' holds 7, no text and no list"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tokens, labels, config, expected):
    task = learned(row("a b", "x y"), **config)
    with pytest.raises(DataError, match=expected):
        task.check([row(tokens, labels, line=2)])


def test_the_scheme_is_seen_in_the_labels_or_told():
    assert learned(row("a b c", "O B-X I-X")).marks_entities
    assert not learned(row("a b c", "O B-X N")).marks_entities
    plain = learned(row("a b c", "O B-X I-X"), scheme="plain")
    assert "mcc" in plain.metric_names and not plain.marks_entities
    with pytest.raises(DataError, match="scheme is bio, but 'N' is a label"):
        learned(row("a b c", "O B-X N"), scheme="bio")
    with pytest.raises(DataError, match=r"x.jsonl: there are not two labels in column 'labels'"):
        learned(row("a b", "N N"))


def test_entities_are_read_as_conlleval_reads_them():
    labels = ["B-A", "I-A", "B-A", "O", "I-B", "I-A", "O", "B-B"]
    assert entities(labels) == [("A", 0, 2), ("A", 2, 3), ("B", 4, 5), ("A", 5, 6), ("B", 7, 8)]


def test_entity_scores_are_those_of_nervaluate():
    names = ["B-A", "B-B", "I-A", "I-B", "O"]
    task = learned(*(row("a b c d e", names, line=i) for i in range(2)))
    torch.manual_seed(0)
    target = torch.randint(0, 5, (12, 9))
    guess = torch.where(torch.rand(12, 9) < 0.7, target, torch.randint(0, 5, (12, 9)))
    target[3:, 7:] = -100
    metrics = entity_metrics()
    for part in (slice(0, 5), slice(5, 12)):
        counts = task._entity_counts(guess[part], target[part])
        ones = torch.ones(len(counts["right"]))
        metrics.update(**counts, loss=ones, correct=ones, count=ones)
    seen = target != -100
    spelled = [
        [[names[i] for i in values[mask].tolist()] for values, mask in zip(side, seen, strict=True)]
        for side in (target, guess)
    ]
    strict = Evaluator(*spelled, tags=["A", "B"], loader="list").evaluate()["overall"]["strict"]
    found = computed(metrics)
    assert 0.1 < found["f1"] < 0.9
    assert found["precision"] == pytest.approx(strict.precision)
    assert found["recall"] == pytest.approx(strict.recall)
    assert found["f1"] == pytest.approx(strict.f1)


def test_scores_of_plain_labels_are_those_of_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    torch.manual_seed(0)
    target, guess = torch.randint(0, 3, (6, 8)), torch.randint(0, 3, (6, 8))
    target[2:, 5:] = -100
    metrics, ones = label_metrics(3), torch.ones(6)
    metrics.update(preds=guess, target=target, loss=ones, count=ones)
    given, found = target[target != -100], guess[target != -100]
    assert computed(metrics) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(given, found),
            "f1": sk.f1_score(given, found, average="macro"),
            "loss": 1.0,
            "mcc": sk.matthews_corrcoef(given, found),
        }
    )


def test_entities_are_learned_and_predicted(recipe, data, peftcore):
    for split in ("train", "validation", "test"):
        path = data / f"{split}.jsonl"
        texts = [json.loads(line)["text"].split() for line in path.read_text().splitlines()]
        rows = [{"tokens": t, "labels": ["B-N" if w in NOUNS else "O" for w in t]} for t in texts]
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    path = recipe(
        methods=[{"method": "lora", "rank": 8, "targets": ["embeddings", "all-linear"]}],
        task={"type": "token-classification"},
        train={"epochs": 4},
    )
    done = peftcore("train", path, "--json", "-q")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["test"]["f1"] > 0.9
    (run,) = (data.parent / "runs").iterdir()
    done = peftcore("predict", run, "--input", "-", input='{"tokens": "the film was fine"}\n')
    assert json.loads(done.stdout) == {
        "tokens": "the film was fine",
        "labels": ["O", "B-N", "O", "O"],
        "entities": [{"type": "N", "start": 1, "end": 2, "text": "film"}],
    }


NOUNS = ("film", "story", "people")


def test_residues_are_read_as_the_vocabulary_has_them_and_keep_their_labels(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, *STANDARD, "X"]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False)
    task = TokenClassification(TokenClassificationConfig(unit="residue", labels=("H", "C")))
    task.learn([row("EVQL", "HHCC")])
    features = task.encode(row("evUl", "HHCC", 2), Loaded(nn.Identity(), tokenizer))
    read = tokenizer.convert_ids_to_tokens(features["input_ids"])
    assert read == ["[CLS]", "E", "V", "X", "L", "[SEP]"]
    assert features["labels"] == [-100, 0, 0, 1, 1, -100]
    assert features["changed"] == {"lower case read as upper": 3, "U read as X": 1}
    with pytest.raises(DataError, match=r"x.jsonl:3: column 'tokens': '-' at place 2 is no res"):
        task.encode(row("E-V", "HHC", 3), Loaded(nn.Identity(), tokenizer))
