from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import GptOssConfig, MixtralConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.pytorch_utils import Conv1D

import peftcore
from peftcore import backbone_named, layer_of
from peftcore.testing import WeightsContract, perturb, run


def test_a_transposed_linear_runs_with_its_own_weight_as_it_does_by_itself() -> None:
    module = Conv1D(6, 4)
    torch.nn.init.normal_(module.bias)
    layer = layer_of(module)
    assert layer is not None
    x = torch.randn(2, 3, 4)
    assert_close(layer.call(module, layer.weight(module), x), module(x))
    assert torch.equal(layer.stored(layer.weight(module)), module.weight)
    info = layer.info(module)
    assert (info.kind, info.in_features, info.out_features, info.bias) == ("linear", 4, 6, True)
    assert info.weight_shape == (6, 4) == tuple(layer.weight(module).shape)


@pytest.mark.parametrize("role", ["attention.qkv", "attention.output", "mlp.up", "mlp.down"])
def test_merging_into_a_transposed_linear_keeps_the_output(role: str) -> None:
    torch.manual_seed(0)
    backbone = backbone_named("gpt2")
    model = backbone.tiny()
    batch = backbone.batch(model)
    bare = run(model, batch)
    adapter = peftcore.attach(model, "probe", targets=[role])
    perturb(adapter)
    tuned = run(model, batch)
    assert not torch.equal(tuned[0], bare[0])
    adapter.merge()
    assert_close(run(model, batch)[0], tuned[0], atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    adapter.detach()
    assert torch.equal(run(model, batch)[0], bare[0])


def test_the_slices_of_the_fused_projection_are_its_thirds() -> None:
    from peftcore import survey

    backbone = backbone_named("gpt2")
    sites = survey(backbone.tiny(), backbone).sites
    rows = {s.role: s.features for s in sites if s.block == 0 and s.features}
    assert rows == {
        "attention.query": (0, 32),
        "attention.key": (32, 64),
        "attention.value": (64, 96),
    }


def test_a_scaled_embedding_runs_with_its_own_weight_as_it_does_by_itself() -> None:
    module = backbone_named("gemma").tiny().embed_tokens
    layer = layer_of(module)
    assert layer is not None and not layer.writable
    ids = torch.tensor([[3, 0, 5]])
    assert torch.equal(layer.call(module, layer.weight(module), ids), module(ids))
    assert layer.info(module).kind == "embedding"


class TestExperts(WeightsContract):
    """Weights stored as [experts, out, in]."""

    kind: ClassVar[type[nn.Module]] = MixtralExperts
    config: ClassVar[type] = MixtralConfig

    def make(self) -> nn.Module:
        made = self.kind(self.config(hidden_size=8, intermediate_size=6, num_local_experts=3))
        for parameter in made.parameters():
            nn.init.normal_(parameter)
        return made

    def example(self, module: nn.Module) -> tuple[Any, ...]:
        chosen: Tensor = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2]])
        return torch.randn(4, 8), chosen, torch.rand(4, 2)


class TestTransposedExperts(TestExperts):
    """Weights stored as [experts, in, out]."""

    kind = GptOssExperts
    config = GptOssConfig
    tolerance = 1e-4
