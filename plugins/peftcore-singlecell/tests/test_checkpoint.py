"""Folders of ours, and checkpoints with the names and shapes of those that were released."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from peftcore import ConfigError, backbone_for_source, backbone_named, build_on_meta
from peftcore.testing import refused
from peftcore_singlecell.genes import Genes
from peftcore_singlecell.model import ScBert, ScBertConfig
from peftcore_singlecell.scratch import write_new
from peftcore_singlecell.testing import GENES, write_cells, write_scbert

#: Names and shapes that PerformerLM of the authors' repository gives its state, of one layer.
LAYER = {
    "0.norm.weight": (200,),
    "0.norm.bias": (200,),
    "0.fn.fast_attention.projection_matrix": (266, 64),
    "0.fn.to_q.weight": (640, 200),
    "0.fn.to_k.weight": (640, 200),
    "0.fn.to_v.weight": (640, 200),
    "0.fn.to_out.weight": (200, 640),
    "0.fn.to_out.bias": (200,),
    "1.norm.weight": (200,),
    "1.norm.bias": (200,),
    "1.fn.fn.w1.weight": (800, 200),
    "1.fn.fn.w1.bias": (800,),
    "1.fn.fn.w2.weight": (200, 800),
    "1.fn.fn.w2.bias": (200,),
}
RELEASED = {
    "token_emb.weight": (7, 200),
    "pos_emb.emb.weight": (16_907, 200),
    "performer.calls_since_last_redraw": (),
    **{f"performer.net.layers.{i}.{name}": LAYER[name] for i in range(6) for name in LAYER},
    "norm.weight": (200,),
    "norm.bias": (200,),
}
HEADS = {
    "masked-lm": {"to_out.weight": (7, 200), "to_out.bias": (7,)},
    "cell-type": {
        "to_out.conv1.weight": (1, 1, 1, 200),
        "to_out.conv1.bias": (1,),
        "to_out.fc1.weight": (512, 16_907),
        "to_out.fc1.bias": (512,),
        "to_out.fc2.weight": (128, 512),
        "to_out.fc2.bias": (128,),
        "to_out.fc3.weight": (11, 128),
        "to_out.fc3.bias": (11,),
    },
}


@pytest.mark.parametrize("head", HEADS)
def test_names_and_shapes_are_those_of_the_released_checkpoints(head: str) -> None:
    state = build_on_meta("scbert", head=head, num_labels=11).state_dict()
    assert {name: tuple(t.shape) for name, t in state.items()} == {**RELEASED, **HEADS[head]}


@pytest.fixture
def released(tmp_path) -> Path:
    """A small checkpoint in the shape of the authors' file, of 64-bit tables and a DDP's names."""
    torch.manual_seed(1)
    config = ScBertConfig(
        genes=12, dim=16, depth=2, heads=2, head_width=8, mlp_width=32, features=16
    )
    state = ScBert(config, "masked-lm").state_dict()
    state = {f"module.{name}": tensor for name, tensor in state.items()}
    state["module.pos_emb.emb.weight"] = state["module.pos_emb.emb.weight"].double()
    path = tmp_path / "panglao_pretrained.pth"
    held = {"epoch": 1, "model_state_dict": state, "optimizer_state_dict": {}, "losses": 0.5}
    torch.save(held, path)
    return path


def test_a_released_checkpoint_is_known_and_loads(released, tmp_path) -> None:
    genes = write_cells(tmp_path / "panglao_10000.h5ad")
    assert backbone_for_source(str(released)).name == "scbert"
    scbert = backbone_named("scbert")
    loaded = scbert.load(str(released), head="masked-lm", genes=str(genes))
    state = torch.load(released, weights_only=True)["model_state_dict"]
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.dtype in (torch.float32, torch.int64)
        assert torch.equal(tensor, state[f"module.{name}"].to(tensor.dtype))
    assert loaded.fresh == () and loaded.tokenizer.names == GENES
    typed = scbert.load(str(released), head="cell-type", num_labels=3)
    assert typed.tokenizer is None
    assert {name.split(".")[1] for name in typed.fresh} == {"conv1", "fc1", "fc2", "fc3"}
    meta = scbert.load_on_meta(str(released), head="cell-type", num_labels=3)
    assert meta.fresh == typed.fresh and all(p.is_meta for p in meta.model.parameters())


def test_a_pickle_with_code_is_refused_and_not_run(released, tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model_state_dict": Evil()}, released)
    with refused(ConfigError, "panglao_pretrained.pth cannot be read", "only where they hold"):
        backbone_named("scbert").load(str(released))
    assert not (tmp_path / "ran").exists()


def test_checkpoints_that_do_not_fit_are_refused_with_a_sentence(released, tmp_path) -> None:
    scbert = backbone_named("scbert")
    few = tmp_path / "genes.txt"
    few.write_text("A\nB\n")
    with refused(ConfigError, "names 2 genes, but the backbone has places for 12"):
        scbert.load(str(released), genes=str(few))
    few.write_text("A\nB\nA\n")
    with refused(ConfigError, "names the gene A twice"):
        scbert.load(str(released), genes=str(few))
    with refused(ConfigError, "the checkpoint has no classifier. Give num_labels"):
        scbert.load(str(released), head="cell-type")
    folder = write_scbert(tmp_path / "folder")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mlp_width": 31}))
    with refused(ConfigError, "w1.weight has the shape (32, 16)"):
        scbert.load(str(folder))
    (folder / "model.safetensors").write_bytes(b"")
    with refused(ConfigError, "model.safetensors cannot be read"):
        scbert.load(str(folder))
    with refused(ConfigError, "'gens' is not an option", "Did you mean genes?"):
        scbert.load(str(folder), gens="x")
    torch.save({"model_state_dict": {"a": torch.zeros(1)}}, released)
    with refused(ConfigError, "is no checkpoint of scBERT: it has no performer.net"):
        scbert.load(str(released))


def test_a_new_model_has_the_genes_of_a_file_and_the_vectors_of_a_table(tmp_path) -> None:
    genes = write_cells(tmp_path / "cells.h5ad")
    table = np.random.default_rng(0).normal(size=(12, 16))
    np.save(tmp_path / "gene2vec.npy", table)
    sizes = {"dim": 16, "depth": 2, "heads": 2, "head_width": 8}
    for folder in ("one", "two"):
        write_new(tmp_path / folder, genes, tmp_path / "gene2vec.npy", seed=3, **sizes)
    one, two = (backbone_named("scbert").load(str(tmp_path / f)) for f in ("one", "two"))
    vectors = one.model.pos_emb.emb.weight
    assert torch.equal(vectors[:-1], torch.from_numpy(table).float()) and not vectors[-1].any()
    assert one.tokenizer.names == GENES
    assert all(map(torch.equal, one.model.state_dict().values(), two.model.state_dict().values()))
    np.save(tmp_path / "gene2vec.npy", table[:, :3])
    with refused(ConfigError, "an array (12, 3), not (12, 16)"):
        write_new(tmp_path / "three", genes, tmp_path / "gene2vec.npy", **sizes)
    with refused(ConfigError, "exists and is not an empty folder"):
        write_new(tmp_path / "one", genes, **sizes)
    assert isinstance(one.tokenizer, Genes)
