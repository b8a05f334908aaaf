"""PubMedQA and BioASQ in miniatures of their layout, and stages that follow one another."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftcore import DataError
from peftcore.testing import run_in_process
from peftcore_biomedqa.config import BiomedicalQAConfig
from peftcore_biomedqa.corpora import bioasq, pubmedqa as questions_of
from peftcore_biomedqa.folds import labelled_folds
from peftcore_biomedqa.items import Item, json_items
from peftcore_biomedqa.task import BiomedicalQA
from peftcore_train.data import Row
from peftcore_train.schema import SPLITS, DataSection
from peftcore_train.testing.program import printed, refused

#: What the authors' script draws of 120 made-up items: the parts of cross-validation.
FOLDS = [
    [0, 11, 12, 17, 18, 63, 90],
    [2, 20, 24, 42, 71, 108, 111],
    [6, 19, 58, 60, 66, 88, 115],
    [21, 33, 47, 48, 56, 67, 99],
    [26, 36, 38, 39, 52, 79, 84],
    [44, 68, 92, 96, 100, 103, 116],
    [25, 69, 77],
    [114, 117, 119],
    [5, 29, 72],
    [1, 4, 40, 49, 53, 70, 105, 112, 118],
]  # fmt: skip
EXAMPLES = Path(__file__).parents[3] / "examples"


def ids_of(root: Path, split: Any, limits: dict | None = None, **config: Any) -> list[str]:
    task = BiomedicalQA(BiomedicalQAConfig(corpus="pubmedqa", **config))
    rows = task.read(DataSection(source=str(root), limits=limits or {}), split)
    task.check(rows)
    return [row.values["id"] for row in rows]


def test_the_folds_are_those_of_the_authors_script() -> None:
    """Drawn by preprocess/split_dataset.py of pubmedqa/pubmedqa from 120 made-up items."""
    labels = {str(i): ("yes", "no", "yes", "maybe", "yes")[i % 5] for i in range(120)}
    folds, test = labelled_folds(labels)
    assert test == set(labels) - set().union(*folds)
    assert [sorted(map(int, fold)) for fold in folds] == FOLDS


def test_a_question_is_in_one_split_and_every_fold_validates_once(pubmedqa: Any) -> None:
    root = pubmedqa()
    test = json.loads((root / "test_ground_truth.json").read_text())
    seen: list[str] = []
    for fold in range(10):
        parts = [ids_of(root, split, fold=fold) for split in SPLITS]
        assert sorted(name for part in parts for name in part) == [str(100 + i) for i in range(120)]
        assert set(parts[2]) == set(test)
        seen += parts[1]
    assert len(seen) == len(set(seen))


def test_artificial_questions_train_before_labelled_ones_test(pubmedqa: Any) -> None:
    root = pubmedqa()
    train, validation = (ids_of(root, s, part="artificial") for s in ("train", "validation"))
    assert len(train) == 38 and len(validation) == 2 and not set(train) & set(validation)
    assert len(ids_of(root, "train", {"train": 5}, part="artificial")) == 5
    assert ids_of(root, "test", part="artificial") == ids_of(root, "test")


def test_pseudo_labels_are_taken_where_they_are_sure(pubmedqa: Any, tmp_path: Path) -> None:
    root = pubmedqa()
    printed("qa-rows", root / "ori_pqau.json", tmp_path / "rows.jsonl")
    again = refused("qa-rows", root / "ori_pqau.json", tmp_path / "rows.jsonl")
    assert again.endswith("rows.jsonl exists already; name a new file.")
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert set(rows[0]) == {"id", "question", "context"} and len(rows) == 10
    pseudo = tmp_path / "pseudo.jsonl"

    def predicted(rows: list[dict]) -> None:
        shares = [{"yes": p, "no": 1 - p} for p in (0.95, 0.5)] * 5
        lines = (
            json.dumps({**row, "label": "yes", "probabilities": share}) + "\n"
            for row, share in zip(rows, shares, strict=False)
        )
        pseudo.write_text("".join(lines))

    config = {"part": "unlabelled", "pseudo_labels": str(pseudo)}
    predicted(rows)
    assert ids_of(root, "train", **config) == ["2000", "2002", "2004", "2006", "2008"]
    with pytest.raises(DataError, match=r"no answer is as sure as task.confidence 0\.99"):
        ids_of(root, "train", **config, confidence=0.99)
    predicted(rows[1:])
    with pytest.raises(DataError, match=r"pseudo.jsonl lacks 1 of the 10 ids of ori_pqau.json"):
        ids_of(root, "train", **config)


def question(**changed: Any) -> dict:
    entry = {
        "id": "55", "type": "yesno", "body": "does the gene grow ?", "documents": [],
        "snippets": [{"text": "it does"}, {"text": "in mice"}, {"text": "it does"}],
        "exact_answer": "Yes", "ideal_answer": ["LEAKED"],
    }  # fmt: skip
    return {**entry, **changed}


def test_yes_and_no_of_bioasq_are_read(tmp_path: Path) -> None:
    entries = [question(), question(id="56", type="list"), question(id="57", exact_answer=["no"])]
    path = tmp_path / "training.json"
    path.write_text(json.dumps({"username": "x", "questions": entries}, indent=1))
    rows = [row for row in bioasq(path) if isinstance(row, Row)]
    expected = {"question": "does the gene grow ?", "context": "it does in mice"}
    assert [row.values for row in rows] == [
        {"id": "55", **expected, "label": "yes"}, {"id": "57", **expected, "label": "no"},
    ]  # fmt: skip
    task = BiomedicalQA(BiomedicalQAConfig(corpus="bioasq"))
    assert task.labels == ["yes", "no"]
    assert set(task.metric_names) == {"loss", "accuracy", "f1", "f1_of.yes", "f1_of.no"}
    with pytest.raises(DataError, match=r"one file has no splits. Divide it with data.split"):
        task.read(DataSection(source=str(path)), "train")
    found = task.read(DataSection(source=str(tmp_path), files={"train": "training.json"}), "train")
    assert len(found) == 2


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"QUESTION": ""}, "q.json:3: 7 has no QUESTION."),
        ({"CONTEXTS": "text"}, "q.json:3: PMID 7: CONTEXTS is no list of texts"),
        ({"final_decision": "perhaps"}, "q.json:3: PMID 7: final_decision is 'perhaps', none of"),
        (None, "q.json:3: 7 is no object with a question, but list"),
    ],
)
def test_a_damaged_question_is_named(entry: dict | None, sentence: str, tmp_path: Path) -> None:
    whole = {"QUESTION": "a", "CONTEXTS": ["b"], "final_decision": "yes"}
    damaged = [] if entry is None else {**whole, **entry}
    path = tmp_path / "q.json"
    path.write_text(f'{{\n"6": {json.dumps(whole)},\n"7": {json.dumps(damaged)}\n}}')
    first, second = questions_of(path)
    assert isinstance(first, Row) and str(second).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"a": 1,\n"b": {"c": tru}}', "x.json:2: not readable as JSON: expecting value"),
        ('{"a": 1,\n"b" 2}', "x.json:2: not readable as JSON: expecting :"),
        ('{"a": 1,\n"b": [1, 2', "x.json:2: not readable as JSON: expecting"),
        ('{"a": 1\n"b": 2}', "x.json:2: not readable as JSON: expecting ,"),
        ("", "x.json:1: not readable as JSON: expecting [ or {"),
    ],
)
def test_json_that_is_damaged_ends_with_its_line(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    *whole, last = json_items(path)
    assert str(last).startswith(sentence) and whole == [Item("a", 1, "x.json:1")] * bool(text)
    path.write_bytes(b'{"a": 1, "b": "\xff"}')
    *_, last = json_items(path)
    assert "not UTF-8" in str(last)


def test_a_large_release_is_read_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "ori_pqaa.json"
    entry = {"QUESTION": "a", "CONTEXTS": ["b" * 2000], "final_decision": "yes"}
    with path.open("w") as file:
        file.write("{" + ",\n".join(f'"{i}": {json.dumps(entry)}' for i in range(4000)) + "}")
    assert path.stat().st_size > 8e6
    tracemalloc.start()
    count = sum(isinstance(row, Row) for row in questions_of(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4000 and peak < 1e6


def test_answers_are_scored_as_pubmedqa_does_and_none_may_lack(tmp_path: Path) -> None:
    """Accuracy and macro F1 by scikit-learn, as its evaluation.py computes them."""
    right = {"1": "yes", "2": "no", "3": "maybe", "4": "yes", "5": "no", "6": "yes"}
    said = right | {"2": "yes", "3": "no", "6": "no"}
    truth, answers = tmp_path / "test_ground_truth.json", tmp_path / "said.json"
    truth.write_text(json.dumps(right))
    answers.write_text(json.dumps(said))
    found = json.loads(printed("qa-score", answers, truth, "--json"))
    metrics = pytest.importorskip("sklearn.metrics")
    pairs = [*right.values()], [*said.values()]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(*pairs))
    assert found["f1"] == pytest.approx(metrics.f1_score(*pairs, average="macro"))
    assert set(found) == {"answers", "accuracy", "f1", "f1_of.yes", "f1_of.no", "f1_of.maybe"}
    answers.write_text(json.dumps({name: said[name] for name in "12456"}))
    assert refused("qa-score", answers, truth) == (
        "said.json lacks 1 of the 6 ids of test_ground_truth.json, such as '3'. Answer all"
        " questions and no others."
    )
    answers.write_text(json.dumps(said | {"1": "perhaps"}))
    assert "the answer to '1' is 'perhaps', none of" in refused("qa-score", answers, truth)


def test_a_test_that_names_other_questions_is_refused(pubmedqa: Any) -> None:
    root = pubmedqa()
    (root / "test_ground_truth.json").write_text('{"100": "yes", "9": "no"}')
    with pytest.raises(DataError, match=r"ori_pqal.json lacks 1 of the 2 ids of test_ground_truth"):
        ids_of(root, "test")
    with pytest.raises(DataError, match=r"data\.split does not go with task\.corpus"):
        data = DataSection(source=str(root), split={"validation": 0.1, "test": 0.1})
        BiomedicalQA(BiomedicalQAConfig(corpus="pubmedqa")).read(data, "test")
    (root / "test_ground_truth.json").write_text("{}")
    with pytest.raises(DataError, match="has no question of the split test"):
        ids_of(root, "test")
    (root / "ori_pqal.json").unlink()
    with pytest.raises(DataError, match=r"has no ori_pqal.json. Did you mean ori_pqa"):
        ids_of(root, "test")


@pytest.fixture
def smoke(tmp_path: Path, t5: Path) -> Callable[..., Path]:
    """Return what trains a recipe of examples/ in a small size, and gives its run."""

    def trained(recipe: str, source: Path, **sections: Any) -> Path:
        content = yaml.safe_load((EXAMPLES / recipe).read_text())
        small = {"max_steps": 2, "epochs": 1, "batch_size": 4, "device": "cpu"}
        content["train"] |= {**small, "gradient_accumulation_steps": 1, "mixed_precision": "no"}
        content["task"] |= {"max_length": 64, "soft_prompt": 2, **sections.pop("task", {})}
        content["backbone"] = {"source": str(t5)}
        content["data"] |= {"source": str(source), **sections.pop("data", {})}
        content["data"]["accept"] = ["leak", "conflict", "unknown-token"]  # a miniature
        content["output"] = str(tmp_path / f"runs-{recipe}")
        content |= sections
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        found = json.loads(printed("train", tmp_path / "recipe.yaml", "-q", "--json"))
        assert found["reloaded_equal"] and found["steps"] == 2
        assert {"accuracy", "f1"} <= found["test"].keys()
        (run,) = (tmp_path / f"runs-{recipe}").iterdir()
        return run

    return trained


def test_each_stage_starts_from_the_adapter_of_the_stage_before(
    pubmedqa: Any, smoke: Callable[..., Path], tmp_path: Path
) -> None:
    root = pubmedqa()
    first = smoke("biomedqa-1-artificial.yaml", root)
    rows, pseudo = tmp_path / "rows.jsonl", tmp_path / "pseudo.jsonl"
    printed("qa-rows", root / "ori_pqau.json", rows)
    printed("predict", first, "--input", rows, "--output", pseudo, "--probabilities", "-q")
    task = {"pseudo_labels": str(pseudo), "confidence": 0.0}
    second = smoke("biomedqa-2-pseudo.yaml", root, task=task, **{"from": str(first)})
    third = smoke("biomedqa-3-labelled.yaml", root, **{"from": str(second)})
    assert f"starting from {second / 'adapter'}" in (third / "log.txt").read_text()
    entries = [
        question(id=str(i), body=f"does it grow {i} ?", exact_answer=("yes", "no")[i % 2])
        for i in range(20)
    ]
    path = tmp_path / "training13b.json"
    path.write_text(json.dumps({"questions": entries}))
    smoke("biomedqa-bioasq.yaml", path, **{"from": str(third)})


def test_the_default_has_0_152_per_cent_of_flan_t5_large() -> None:
    """LoRA of rank 4 on queries and values of all 72 attentions, and ten vectors: ours."""
    settings = ("--set", "backbone.source=flan-t5-large")
    recipe = EXAMPLES / "biomedqa-1-artificial.yaml"
    done = run_in_process("plan", recipe, *settings, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["trainable"] == 1_179_648 and found["head"] == 10_240
    assert found["trainable"] + found["head"] == 1_189_888
    base = found["base"] - found["head"]
    assert base == 783_150_080 and round(100 * 1_189_888 / base, 3) == 0.152
