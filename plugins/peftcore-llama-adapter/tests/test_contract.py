"""What every method must do, on the toy with a number of heads."""

import torch
from torch import Tensor, nn

from peftcore.testing import HEADS, MethodContract, Toy, tiny


class TestLlamaAdapter(MethodContract):
    method = "llama_adapter"
    config = {"adapter_len": 3, "adapter_layers": 2}
    merges = False
    refused_on = {
        "timm-beit": "does not call one projection for its query",
        "timm-swin-v2": "does not call one projection for its query",
        # the kit's own toy, which is among the backbones, does not say how many heads it has
        "toy": "does not say how many heads",
        "wavlm": "does not call one projection for its query",
    }

    def pair(self) -> tuple[nn.Module, dict[str, Tensor]]:
        _, _, batch = tiny("toy")
        torch.manual_seed(0)
        model = Toy().eval()
        for block in model.blocks:
            block.attention.num_heads = HEADS
        return model, batch


class TestLinearGate(TestLlamaAdapter):
    config = {"adapter_len": 3, "adapter_layers": 2, "gate": "linear"}
