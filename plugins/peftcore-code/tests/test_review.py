"""What the model is given and what it learns; recipes on a small one; published counts."""

import json
import math
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from peftcore import ConfigError, DataError, backbone_named, validated
from peftcore.testing import run_in_process
from peftcore_code.task import CodeReview, CodeReviewConfig
from peftcore_train.data import Row
from peftcore_train.schema import jobs_of, read_recipe
from peftcore_train.testing.program import printed

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def loaded(reviewer: Path) -> Any:
    return backbone_named("llama").load(str(reviewer), head="causal-lm")


def text_of(loaded: Any, ids: list[int]) -> str:
    return loaded.tokenizer.decode(ids)


def test_the_loss_is_on_the_answer_alone(loaded: Any, change: Callable[..., dict]) -> None:
    row = Row(change(), "x:1")
    features = CodeReview(CodeReviewConfig(max_new_tokens=4)).encode(row, loaded)
    learned = [label for label in features["labels"] if label != -100]
    assert text_of(loaded, learned) == "name it better </s>"
    whole = text_of(loaded, features["input_ids"])
    assert whole.startswith("Below is an instruction") and "- a = b + a = c # # # Response" in whole
    everything = CodeReviewConfig(max_new_tokens=4, train_on_inputs=True)
    features = CodeReview(everything).encode(row, loaded)
    assert features["labels"] == features["input_ids"]


@pytest.mark.parametrize("prompt", ["alpaca", "chat", "plain"])
def test_code_that_is_too_long_loses_its_last_lines_and_nothing_else(
    loaded: Any, change: Callable[..., dict], prompt: str
) -> None:
    config = {"max_new_tokens": 8, "max_length": 100, "truncation": True, "prompt": prompt}
    row = Row(change(old="\n-".join(f"if a : {i}" for i in (1, 2) * 20)), "x:1")
    features = CodeReview(CodeReviewConfig(**config)).encode(row, loaded)
    assert features["cut"] and 85 < len(features["input_ids"]) <= 100
    assert len(features["asked"]["input_ids"]) <= 92, "there is room for what is written"
    whole = text_of(loaded, features["input_ids"])
    assert "name it better" in whole and "a = c" not in whole
    with pytest.raises(DataError, match="the prompt alone has 257 tokens and 128 fit"):
        CodeReview(CodeReviewConfig(max_new_tokens=8)).encode(row, loaded)


@pytest.mark.parametrize(
    ("config", "changed", "sentence"),
    [
        ({}, {"patch": "+a"}, "x:1: the diff has no hunk"),
        ({}, {"msg": " "}, "x:1: column 'msg' is empty"),
        ({"action": "necessity"}, {"y": True}, "x:1: column 'y' holds True; write 1 where"),
        ({"action": "refinement"}, {"comment": None}, "x:1: column 'comment' holds None"),
        ({"action": "refinement"}, {"new": ""}, "x:1: column 'new' is empty"),
        ({"action": "instruction"}, {"instruction": "a", "input": 1}, "column 'input' holds 1"),
    ],
)
def test_a_row_that_is_no_exercise_is_one_sentence(
    config: dict, changed: dict, sentence: str, change: Callable[..., dict]
) -> None:
    row = Row({**change(), "output": "x", **changed}, "x:1")
    with pytest.raises(DataError) as caught:
        CodeReview(CodeReviewConfig(**config)).check([row])
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [{"layout": "tufano", "action": "necessity"}, {"layout": "tufano", "action": "instruction"}],
)
def test_a_layout_that_has_no_such_rows_is_refused(config: dict) -> None:
    with pytest.raises(ConfigError, match="layout: "):
        validated(CodeReviewConfig, config, where="task", label="code-review")


def test_scores_of_written_code_leave_tags_and_blanks_out(
    loaded: Any, change: Callable[..., dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"action": "refinement", "layout": "codereviewer", "diff": "tags"}
    task = CodeReview(CodeReviewConfig(**config, max_new_tokens=8))
    batch = task.collate([task.encode(Row(change(), "x:1"), loaded)] * 2)
    written = iter(["<add>x  <add>\na = c", ""])
    monkeypatch.setattr(loaded.tokenizer, "batch_decode", lambda *_, **__: [*written])
    with torch.no_grad():
        scores = task.score(loaded.model, batch)
    assert scores["exact_match"].tolist() == [1, 0]
    assert scores["bleu4"].tolist() == pytest.approx([1, math.exp(-4)])


@pytest.fixture
def smoke(tmp_path: Path, reviewer: Path) -> Callable[..., dict[str, Any]]:
    """Return what trains a recipe of examples/ in a small size."""

    def trained(recipe: str, source: Path, arm: str = "", **sections: Any) -> dict[str, Any]:
        content = yaml.safe_load((EXAMPLES / recipe).read_text())
        if arm:
            assert len(jobs_of(read_recipe(EXAMPLES / recipe))) == 3
            content["methods"] = content.pop("compare")[arm]
            del content["seeds"]
        small = {"max_steps": 2, "epochs": 1, "batch_size": 2, "device": "cpu"}
        content["train"] |= {**small, "gradient_accumulation_steps": 1, "mixed_precision": "no"}
        content["task"] |= {"max_length": 128, "max_new_tokens": 4, **sections.pop("task", {})}
        content["backbone"] = {"source": str(reviewer)}
        content["data"] = {"source": str(source)}
        content["output"] = str(tmp_path / "runs")
        content |= sections
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        found: dict[str, Any] = json.loads(
            printed("train", tmp_path / "recipe.yaml", "-q", "--json")
        )
        assert found["reloaded_equal"] and found["steps"] == 2
        return found

    return trained


def write(folder: Path, names: dict[str, str], row: dict) -> Path:
    folder.mkdir()
    for name in names.values():
        (folder / name).write_text((json.dumps(row) + "\n") * 4)
    return folder


def test_a_review_is_learned_after_a_stage_of_instructions(
    tmp_path: Path, smoke: Callable[..., dict], change: Callable[..., dict]
) -> None:
    """The second stage starts from the adapter of the first."""
    splits = {"train": "train.jsonl", "validation": "valid.jsonl", "test": "test.jsonl"}
    task = {"instruction": "add a test", "input": "", "output": "def test ( ) : return a"}
    smoke("code-instruct.yaml", write(tmp_path / "alpaca", splits, task))
    (stage,) = (tmp_path / "runs").iterdir()
    released = {split: f"msg-{name}" for split, name in splits.items()}
    data = write(tmp_path / "reviewer", released, change())
    found = smoke("code-review-lora.yaml", data, **{"from": str(stage)})
    assert {"bleu4", "bleu4_without_stop_words", "exact_match", "bleu"} <= found["test"].keys()


def test_llama_adapter_learns_whether_a_comment_is_needed(
    tmp_path: Path, smoke: Callable[..., dict], change: Callable[..., dict]
) -> None:
    names = {split: f"cls-{split}.jsonl" for split in ("train", "valid", "test")}
    data = write(tmp_path / "reviewer", names, change())
    methods = [{"method": "llama_adapter", "adapter_len": 2}]
    task = {"action": "necessity"}
    found = smoke("code-review-llama-adapter.yaml", data, task=task, methods=methods)
    assert {"precision", "recall", "f1", "unparsable"} <= found["test"].keys()
    (run,) = (tmp_path / "runs").iterdir()
    line = json.dumps({"patch": change()["patch"]})
    answer = json.loads(printed("predict", run, "--input", "-", input=line))
    assert isinstance(answer["needs_comment"], bool) and "completion" in answer


def test_code_is_revised_in_the_comparison_on_the_standard_library(
    tmp_path: Path, smoke: Callable[..., dict]
) -> None:
    splits = {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
    pair = {"old": "a == b", "comment": "why", "new": "a is b"}
    found = smoke("compare-refinement.yaml", write(tmp_path / "pairs", splits, pair), "lora")
    assert found["test"]["bleu4"] >= 0 and "exact_match" in found["test"]


@pytest.mark.parametrize(
    ("recipe", "changes", "count"),
    [
        ("code-review-llama-adapter.yaml", [], 1_229_760),
        ("code-review-lora.yaml", [], 8_388_608),
        ("code-review-lora.yaml", ["methods[0].rank=8"], 4_194_304),
    ],
)
def test_the_methods_of_llama_reviewer_have_their_numbers(
    recipe: str, changes: list[str], count: int
) -> None:
    settings = [
        text for change in ("backbone.source=llama-7b", *changes) for text in ("--set", change)
    ]
    done = run_in_process("plan", EXAMPLES / recipe, *settings, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["trainable"] == count and found["base"] == 6_738_415_616


LIBRARY = '''
def find(path, files):
    if path is None or path not in files:
        raise KeyError(path)
    return [one for one in files if one is not path]


class Tree:
    def size(self, items):
        """A docstring that stays where it is."""
        if items:
            return 1
        return isinstance(items, list) + len(self.all_of_them_together)

    def grow(self, amount):
        total = amount + self.total
        self.history.append(amount)
        return total, "%s is text" % amount
'''


def test_pairs_of_the_standard_library_differ_by_one_stated_rule(tmp_path: Path) -> None:
    spec = spec_from_file_location("refinement", EXAMPLES / "refinement.py")
    assert spec is not None and spec.loader is not None
    refinement = module_from_spec(spec)
    spec.loader.exec_module(refinement)
    (tmp_path / "tree.py").write_text(LIBRARY)
    (tmp_path / "broken.py").write_text("def (")
    found = [pair for module, pair in refinement.pairs(tmp_path) if module == "tree"]
    assert [pair["comment"] for pair in found] == [
        "Compare path with None by identity.",
        "Name the argument amount, not arg1.",
    ]
    for pair in found:
        assert pair["new"] in LIBRARY or pair["new"] in LIBRARY.replace("\n    ", "\n")
        changed = zip(pair["old"].split("\n"), pair["new"].split("\n"), strict=True)
        assert any(old != new for old, new in changed)
    assert "if path == None or path not in files:" in found[0]["old"]
    assert "def grow(self, arg1):\n    total = arg1 +" in found[1]["old"]
    counts = refinement.write(tmp_path, tmp_path / "out")
    assert sum(counts.values()) == 2
    task = CodeReview(CodeReviewConfig(action="refinement"))
    texts = [(tmp_path / f"out/{split}.jsonl").read_text() for split in counts]
    lines = [line for text in texts for line in text.splitlines()]
    task.check([Row(json.loads(line), "x:1") for line in lines])
