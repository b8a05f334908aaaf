"""The recipes of examples/ on point clouds, in a small size, from made shapes to a comparison."""

import json
import sys
from pathlib import Path
from runpy import run_path

import pytest
import yaml

from peftcore.testing import run_in_process
from peftcore_train.schema import load_jobs

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples"
SHORT = ["--set", "train.epochs=1", "--set", "train.max_steps=1", "--set", "train.batch_size=4"]


def run(*arguments: object) -> str:
    done = run_in_process(*[str(argument) for argument in arguments])
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def test_made_shapes_are_learned_from_scratch_and_others_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["shapes.py", "shapes", "--each=2", "--few=2", "--test=1"])
    run_path(str(EXAMPLES / "shapes.py"), run_name="__main__")
    found = json.loads(run("train", EXAMPLES / "points-pretrain.yaml", "-q", "--json", *SHORT))
    assert found["reloaded_equal"] and found["parameters"]["trainable"] > 1_000_000
    (trained,) = Path("runs").iterdir()
    run("merge", trained, "shapes/pretrained")
    recipe = EXAMPLES / "points-tune.yaml"
    bank = json.loads(run("point-bank", recipe, "--output", "shapes/bank.safetensors", "--json"))
    assert bank["clouds"] == 8
    arms = yaml.safe_load(recipe.read_text())["compare"]
    small = {**yaml.safe_load(recipe.read_text()), "seeds": [0]}
    small["compare"] = {name: arms[name] for name in ("head", "pointpeft-bank")}
    Path("tune.yaml").write_text(yaml.safe_dump(small, sort_keys=False))
    found = json.loads(
        run("compare", "tune.yaml", "-q", "--json", "--executor", "in-process", *SHORT)
    )
    assert set(found["arms"]) == {"head", "pointpeft-bank"} and not found["failed"]
    results = [json.loads(path.read_text()) for path in Path("runs").rglob("results.json")]
    assert len(results) == 3 and all(r["reloaded_equal"] for r in results)


@pytest.mark.parametrize("name", ["points-modelnet40", "points-scanobjectnn", "points-tune"])
def test_recipes_of_the_paper_can_be_read(name):
    for job in load_jobs(EXAMPLES / f"{name}.yaml"):
        assert job.task_type == "point-classification" and job.recipe.train.weight_decay == 0.05
