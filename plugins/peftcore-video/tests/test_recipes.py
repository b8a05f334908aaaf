"""The recipes of examples/ from end to end, in a small size, on videos of their script."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from peftcore import installed
from peftcore.testing import run_in_process

EXAMPLES = Path(__file__).parents[3] / "examples"
NEEDED = {"full", "kaadapter", "llama_adapter"}

pytestmark = [
    pytest.mark.skipif(bool(NEEDED - set(installed().methods)), reason="their methods are missing"),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the recipes are not here"),
]


def ran(*arguments: object) -> str:
    small = {
        "train.max_steps": 1, "train.batch_size": 4, "train.device": "cpu",
        "data.limits": {"train": 4, "validation": 3, "test": 3},
    }  # fmt: skip
    options = [part for n, v in small.items() for part in ("--set", f"{n}={json.dumps(v)}")]
    more = options if arguments[0] in ("train", "compare") else []
    done = run_in_process(*map(str, arguments), *more)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def test_networks_are_trained_merged_and_tuned_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = [sys.executable, EXAMPLES / "moving_shapes.py", tmp_path / "moving", "--copies", "1"]
    script += ["--every", "16"]
    subprocess.run(script, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    for name, network in (("video-pretrain", "clip"), ("video-language", "llama")):
        found = json.loads(ran("train", EXAMPLES / f"{name}.yaml", "-q", "--json"))
        assert found["reloaded_equal"] and found["steps"] == 1
        (run,) = Path("runs").glob(f"{name}-*")
        ran("merge", run, f"moving/{network}-pretrained")
    content = yaml.safe_load((EXAMPLES / "video-agadapter.yaml").read_text())
    del content["compare"]["pg"]
    content |= {"seeds": [0], "task": {**content["task"], "max_new_tokens": 2}}
    Path("recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    done = ran("compare", "recipe.yaml", "--executor", "in-process", "-q", "--json")
    arms = json.loads(done)["arms"]
    assert set(arms) == {"projection", "agadapter"}
