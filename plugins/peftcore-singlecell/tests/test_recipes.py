"""The recipes of examples/ from end to end, in a small size and on toy cells."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml

from peftcore import installed
from peftcore.testing import run_in_process
from peftcore_singlecell.model import ScBert, ScBertConfig
from peftcore_singlecell.testing import GENES, write_cells
from peftcore_train.schedules import schedule
from peftcore_train.schema import TrainSection

EXAMPLES = Path(__file__).parents[3] / "examples"
NEEDED = {"bitfit", "freeze", "full", "lora", "pfeiffer"}

pytestmark = [
    pytest.mark.skipif(bool(NEEDED - set(installed().methods)), reason="their methods are missing"),
    pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the recipes are not here"),
]


def settings(**values: object) -> list[str]:
    """Return the options that make a recipe small, and others."""
    small = {
        "train.max_steps": 1,
        "train.batch_size": 4,
        "train.device": "cpu",
        "task.min_genes": 1,
    }
    chosen = {**small, **{name.replace("__", "."): value for name, value in values.items()}}
    return [part for n, v in chosen.items() for part in ("--set", f"{n}={json.dumps(v)}")]


def ran(*arguments: object) -> str:
    done = run_in_process(*map(str, arguments))
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def some_of(recipe: str, *arms: str) -> Path:
    """Write a recipe of examples/ with some of its arms into the working folder."""
    content = yaml.safe_load((EXAMPLES / recipe).read_text())
    content["compare"] = {arm: content["compare"][arm] for arm in arms}
    Path(recipe).write_text(yaml.safe_dump(content, sort_keys=False))
    return Path(recipe)


def compared(recipe: Path, source: dict[str, object]) -> dict[str, dict]:
    """Run a small comparison; return what it says of each arm."""
    options = ("--executor", "in-process", "-q", "--json", *settings(**source))
    return json.loads(ran("compare", recipe, *options))["arms"]


def test_a_network_is_pre_trained_merged_and_tuned(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    splits = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    write_cells(tmp_path / "cells.h5ad", 24, split=splits)
    ran("scbert", "random", "--genes", "cells.h5ad", "--dim", "16", "--depth", "2")
    source = {"data.source": "cells.h5ad", "task.values": "counts", "backbone.source": "random"}
    ran("train", EXAMPLES / "cells-pretrain.yaml", "-q", *settings(**source))
    (run,) = (tmp_path / "runs").iterdir()
    ran("merge", run, "pretrained")
    source |= {"backbone.source": "pretrained", "seeds": [0]}
    planned = json.loads(ran("plan", EXAMPLES / "cells-compare.yaml", "--json", *settings(
        **source, **{f"compare.{arm}.set": {"backbone.source": "random"} for arm in RANDOM}
    )))  # fmt: skip
    assert len(planned["arms"]) == 8
    found = compared(some_of("cells-compare.yaml", "frozen", "layer-freezing"), source)
    assert list(found) == ["frozen", "layer-freezing"]


RANDOM = ("frozen-random", "lora-random")


def test_the_study_runs_on_a_checkpoint_as_it_was_released(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_cells(tmp_path / "cells.h5ad", 24)
    (tmp_path / "genes.txt").write_text("".join(f"{name}\n" for name in GENES))
    torch.manual_seed(0)
    sizes = {"dim": 16, "depth": 6, "heads": 2, "head_width": 8, "mlp_width": 32, "features": 16}
    state = ScBert(ScBertConfig(genes=len(GENES), **sizes), "masked-lm").state_dict()
    torch.save({"model_state_dict": state}, "checkpoint.pth")
    source = {
        "data.source": "cells.h5ad",
        "backbone.source": "checkpoint.pth",
        "backbone.options.genes": "genes.txt",
        "train.gradient_accumulation_steps": 1,
    }
    planned = json.loads(
        ran("plan", EXAMPLES / "cells-zheng68k.yaml", "--json", *settings(**source))
    )
    assert len(planned["arms"]) == 7
    found = compared(some_of("cells-zheng68k.yaml", "authors", "bitfit-lora"), source)
    assert list(found) == ["authors", "bitfit-lora"]


def test_the_rate_of_the_recipe_is_that_of_the_authors_at_each_epoch() -> None:
    section = TrainSection(
        **yaml.safe_load((EXAMPLES / "cells-zheng68k.yaml").read_text())["train"]
    )
    steps = 304  # of an epoch: 54,760 cells, 3 in a batch, 60 batches a step
    ours = schedule(section, 100 * steps)
    # scBERT's rule: 15 epochs with 5 of warm-up, then twice as many behind the warm-up, at .9
    place, cycle, length = 0, 0, 15
    for epoch in range(100):
        peak = 1e-4 * 0.9**cycle
        share = place / 5 if place < 5 else (1 + math.cos(math.pi * (place - 5) / (length - 5))) / 2
        rate = section.learning_rate * ours(epoch * steps)
        assert rate == pytest.approx(1e-6 + (peak - 1e-6) * share, rel=1e-9), epoch
        place += 1
        if place == length:
            place, cycle, length = 0, cycle + 1, 2 * (length - 5) + 5
    assert cycle == 3 and section.gradient_accumulation_steps == 60
