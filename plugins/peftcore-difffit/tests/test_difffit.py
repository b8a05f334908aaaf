"""Contract, formula, merging, exactly what trains, counts, what is refused."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

import peftcore
from peftcore import ConfigError, installed
from peftcore.testing import MethodContract, Toy


class TestDiffFit(MethodContract):
    method = "difffit"

    # after it bitfit would have nothing left to train, which is an error
    @pytest.mark.parametrize("other", ["lora", "probe"])
    @pytest.mark.parametrize("first", [True, False])
    def test_it_composes_with_other_methods(self, other: str, first: bool, tmp_path: Path) -> None:
        super().test_it_composes_with_other_methods(other, first, tmp_path)


class TestScalesOnly(MethodContract):
    method = "difffit"
    config = {"biases": False, "norms": False, "per_feature": True}


LAYERS = {
    "linear": (nn.Linear(5, 6), (2, 3, 5)),
    "linear without bias": (nn.Linear(5, 6, bias=False), (2, 5)),
    "convolution": (nn.Conv2d(5, 6, 3), (2, 5, 8, 7)),
}


@pytest.mark.parametrize("per_feature", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_a_branch_is_scaled_and_merges(name: str, per_feature: bool) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    model, x = nn.Sequential(layer), torch.randn(shape)
    bare = model(x)
    config = {"per_feature": per_feature, "biases": False, "norms": False}
    adapter = peftcore.attach(
        model, "difffit", targets=["linear" if "lin" in name else "conv"], **config
    )
    (gamma,) = adapter.parameters()
    assert gamma.numel() == (6 if per_feature else 1)
    assert torch.equal(model(x), bare)
    nn.init.normal_(gamma)
    dim = -1 if "lin" in name else 1
    expected = (bare.movedim(dim, -1) * gamma).movedim(-1, dim)
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


def test_a_trained_bias_is_scaled_with_its_branch() -> None:
    model, x = nn.Sequential(nn.Linear(5, 6)), torch.randn(2, 5)
    weight = model[0].weight.detach().clone()
    adapter = peftcore.attach(model, "difffit", targets=["linear"])
    gamma, bias = adapter.parameters()
    nn.init.constant_(gamma, 3.0)
    nn.init.constant_(bias, 0.5)
    expected = 3 * (x @ weight.T + 0.5)
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


def test_biases_norms_and_what_is_named_besides_train() -> None:
    model = Toy()

    def chosen(**config) -> list[str]:
        return [s.info.name for s in peftcore.plan(model, "difffit", **config).selected]

    names = [n for n, _ in model.named_parameters() if not n.startswith("head")]
    assert chosen() == [n for n in names if n.endswith("bias") or "norm" in n]
    assert chosen(biases=False) == [n for n in names if "norm" in n]
    assert chosen(norms=False) == [n for n in names if n.endswith("bias")]
    only = chosen(biases=False, norms=False, also=["embeddings"])
    assert only == ["embeddings.weight"]
    assert peftcore.plan(model, "difffit").trainable == 2 * (7 * 16 + 32 + 2 * 16 + 2)


@pytest.mark.skipif("bert" not in installed().backbones, reason="no backbone plugin for BERT")
def test_bert_base_has_the_count_of_its_parts() -> None:
    from peftcore import build_on_meta

    plan = peftcore.plan(build_on_meta("bert-base-cased", head="none"), "difffit")
    assert plan.trainable == 102_912 + 25 * 768 + 2 * 12


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": ["norm"]}, "is of kind norm; difffit acts on linear layers and conv"),
        ({"targets": ["mlp.dwn"]}, "Did you mean mlp.down"),
        ({"targets": {"roles": ["mlp.down"], "layers": "last 3"}}, "names block -1"),
        ({"also": ["embedings"]}, "Did you mean embeddings"),
        ({"per_featur": True}, "Did you mean per_feature"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(config: dict, message: str) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, "difffit", **config)
    assert "_peftcore" not in model.__dict__
