"""What every method must do, on the toy with a cache."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import backbone_named
from peftcore.testing import HEADS, Attention, MethodContract, Toy, tiny


class CachedAttention(Attention):
    """The toy's attention as a decoder has it: it hands its keys and values to a cache."""

    def forward(self, x: Tensor, attention_mask: Tensor, past_key_values: Any = None) -> Tensor:
        parts = (f(x).unflatten(-1, (HEADS, -1)) for f in (self.query, self.key, self.value))
        q, k, v = (part.transpose(1, 2) for part in parts)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, 0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask[:, None, None, :])
        return self.output(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CachedToy(Toy):
    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            block.attention = CachedAttention()


class OnCachedToy(MethodContract):
    method = "prefix"
    merges = False
    refused_on = {
        # the kit's own toy, which is among the backbones, has no cache
        "toy": "takes no cache",
        # its attention names its mask otherwise, and adds a table of relative positions
        "t5": "takes no cache",
    }

    @pytest.fixture(autouse=True)
    def _with_a_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        toy = type(backbone_named("toy"))
        monkeypatch.setattr(toy, "has", (*toy.has, "cache"))

    def pair(self) -> tuple[nn.Module, dict[str, Tensor]]:
        _, _, batch = tiny("toy")
        torch.manual_seed(0)
        return CachedToy().eval(), batch


class TestLearned(OnCachedToy):
    config = {"num_virtual_tokens": 4}


class TestProjected(OnCachedToy):
    config = {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 5}
