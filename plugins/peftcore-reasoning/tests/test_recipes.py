"""The recipes of examples/ on small models and few rows: trained, scored, read back."""

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftcore.testing import run_in_process
from peftcore_reasoning.sets import SETS

EXAMPLES = Path(__file__).parents[3] / "examples"
SMOKE = {
    "max_steps": 2, "epochs": 1, "batch_size": 4, "device": "cpu", "warmup_ratio": 0.0,
    "gradient_accumulation_steps": 1,
}  # fmt: skip


def trained(folder: Path, recipe: str, arm: str, source: Path, data: Path, **task: Any) -> Any:
    """Train a recipe in a small size, with all else as it says, and return the results."""
    content = yaml.safe_load((EXAMPLES / recipe).read_text())
    content.pop("seeds", None)
    content["backbone"] = {"source": str(source)}
    content["task"] |= task
    content["data"] |= {"source": str(data), "limits": {"train": 8, "validation": 4, "test": 4}}
    content["output"] = str(folder / "runs")
    for method in content.get("methods", ()):
        method["targets"] |= {"layers": "0;1"}  # a small model has no block 24
    chosen = content.pop("compare", {}).get(arm)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    given = [f"train.{key}={value}" for key, value in SMOKE.items()]
    if arm:
        chosen = chosen if isinstance(chosen, dict) else {"methods": chosen, "set": {}}
        content["methods"] = chosen["methods"]
        (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
        given = [f"{key}={value}" for key, value in chosen["set"].items()] + given
        given += [f"task.{key}={value}" for key, value in task.items()]
    given = [part for one in given for part in ("--set", one)]
    done = run_in_process("train", folder / "recipe.yaml", "-q", "--json", *given)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    found = json.loads(done.stdout)
    assert found["reloaded_equal"] and found["steps"] == 2
    return found


def sets(root: Path, training: str) -> Path:
    """Write two rows of every set, and a training set of them."""
    rows = []
    for name, answers in SETS.items():
        for i in range(2):
            answer = answers.words[i] if answers.words else str(i)
            row = {"instruction": f"{name} {i}?", "input": "", "output": "", "answer": answer}
            file = root / name / "test.json"
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(json.dumps([row]))
            rows += [{**row, "instruction": f"{name} {i} {j}?"} for j in range(5)]
    (root / f"{training}.json").write_text(json.dumps(rows))
    return root


@pytest.mark.parametrize(
    ("recipe", "arm", "training"),
    [
        ("commonsense-llama.yaml", "loreft", "commonsense_170k"),
        ("arithmetic-llama.yaml", "prefix", "math_10k"),
    ],
)
def test_reasoning(tmp_path: Path, llama: Path, recipe: str, arm: str, training: str) -> None:
    data = sets(tmp_path / "LLM-Adapters", training)
    found = trained(
        tmp_path, recipe, arm, llama, data,
        validation_rows=10, max_length=400, max_new_tokens=31, num_beams=1,
    )  # fmt: skip
    scored = [name for name in found["test"] if name.startswith("accuracy_of.")]
    assert len(scored) == (8 if "commonsense" in recipe else 4) and "average" in found["test"]


def test_instructions(tmp_path: Path, llama: Path) -> None:
    rows = [
        {"instruction": f"Say {i}.", "input": "" if i % 2 else "in words", "output": f"It is {i}."}
        for i in range(200)
    ]
    (tmp_path / "ultrafeedback.json").write_text(json.dumps(rows))
    found = trained(
        tmp_path, "ultrafeedback-llama2.yaml", "", llama, tmp_path / "ultrafeedback.json",
        max_length=400, max_new_tokens=4,
    )  # fmt: skip
    assert found["test"]["loss"] > 0


def test_glue(tmp_path: Path, roberta: Path) -> None:
    folder = tmp_path / "glue" / "CoLA"
    folder.mkdir(parents=True)
    lines = [
        f"x\t{i % 2}\t\tit is {'so ' * (i // 2)}{'fine' if i % 2 else 'is'}" for i in range(24)
    ]
    for part in ("train", "dev"):
        (folder / f"{part}.tsv").write_text("\n".join(lines if part == "dev" else lines[:8]))
    found = trained(
        tmp_path, "glue-roberta.yaml", "loreft", roberta, tmp_path / "glue", max_length=30
    )
    assert found["metric"] == "mcc" and set(found["test"]) == {"loss", "accuracy", "mcc"}


def test_word_problems_are_right_and_tune_a_small_model(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No problem, name or thing of the test stands in training."""
    spec = spec_from_file_location("sums", EXAMPLES / "sums.py")
    assert spec is not None and spec.loader is not None
    sums = module_from_spec(spec)
    spec.loader.exec_module(sums)
    monkeypatch.setattr(sums, "SPLITS", {"train": 40, "validation": 8, "test": 20})
    assert sums.write(tmp_path / "sums") == sums.SPLITS
    rows = {
        split: json.loads((tmp_path / "sums" / f"{split}.json").read_text())
        for split in sums.SPLITS
    }
    asked = [row["instruction"] for part in rows.values() for row in part]
    assert len(set(asked)) == len(asked) == 68
    for row in rows["test"]:
        assert not any(word in row["instruction"] for word in sums.THINGS["train"])
        sum_, _, found = row["output"].partition(". ")[0].partition(" = ")
        a, sign, b = sum_.split()
        right = {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign]
        assert int(found) == right == float(row["answer"]) >= 0
        assert row["output"].endswith(f"The answer is {right}.")
    found = trained(
        tmp_path, "compare-sums.yaml", "series", llama, tmp_path / "sums", max_new_tokens=8
    )
    assert found["metric"] == "accuracy"
