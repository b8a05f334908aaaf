"""The recipes of examples/ from end to end, in a small size and on toy cells."""

import json
from pathlib import Path

import pytest
import torch

from peftcore import installed
from peftcore.testing import run_in_process
from peftcore_singlecell.model import ScBert, ScBertConfig
from peftcore_singlecell.testing import GENES, write_cells

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


def test_a_network_is_pre_trained_merged_and_tuned_in_every_way(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    splits = ["train"] * 12 + ["validation"] * 6 + ["test"] * 6
    write_cells(tmp_path / "cells.h5ad", 24, split=splits)
    ran("scbert", "random", "--genes", "cells.h5ad", "--dim", "16", "--depth", "2")
    source = {"data.source": "cells.h5ad", "task.values": "counts", "backbone.source": "random"}
    ran("train", EXAMPLES / "cells-pretrain.yaml", "-q", *settings(**source))
    (run,) = (tmp_path / "runs").iterdir()
    ran("merge", run, "pretrained")
    of_random = {f"compare.{arm}.set": {"backbone.source": "random"} for arm in ARMS[-2:]}
    source |= {"backbone.source": "pretrained", "seeds": [0], **of_random}
    recipe = EXAMPLES / "cells-compare.yaml"
    found = json.loads(
        ran("compare", recipe, "--executor", "in-process", "-q", "--json", *settings(**source))
    )
    assert set(found["arms"]) == set(ARMS)


ARMS = (
    "frozen", "layer-freezing", "adapter", "bitfit", "lora", "bitfit-lora", "frozen-random",
    "lora-random",
)  # fmt: skip


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
    recipe = EXAMPLES / "cells-zheng68k.yaml"
    found = json.loads(
        ran("compare", recipe, "--executor", "in-process", "-q", "--json", *settings(**source))
    )
    assert len(found["arms"]) == 7
