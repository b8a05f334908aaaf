"""What every method must do, on the toy with a number of heads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from peftcore import installed
from peftcore.testing import HEADS, MethodContract, Toy, tiny


class TestLlamaAdapter(MethodContract):
    method = "llama_adapter"
    config = {"adapter_len": 3, "adapter_layers": 2}
    merges = False
    # rows meet the core's routing in the attention and again in its projections
    routes = False

    @pytest.fixture(autouse=True)
    def _possible(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        # the kit's toy does not say how many heads it has, the one here does
        monkeypatch.setattr(installed(), "impossible", lambda method, backbone: "")
        yield

    def pair(self) -> tuple[nn.Module, dict[str, Tensor]]:
        _, _, batch = tiny("toy")
        torch.manual_seed(0)
        model = Toy().eval()
        for block in model.blocks:
            block.attention.num_heads = HEADS
        return model, batch


class TestLinearGate(TestLlamaAdapter):
    config = {"adapter_len": 3, "adapter_layers": 2, "gate": "linear"}
