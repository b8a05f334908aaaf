"""The contract of methods, on a small network on points."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.testing import MethodContract, tiny


class OnClouds(MethodContract):
    method = "pointpeft"
    config: Mapping[str, Any] = {"prompt_blocks": 1, "bottleneck": 4, "num_virtual_tokens": 3}
    merges = False

    def pair(self) -> tuple[nn.Module, dict[str, Tensor]]:
        _, model, batch = tiny("point-transformer", "point-classification")
        torch.manual_seed(0)
        return model, batch


class TestPointPeft(OnClouds):
    pass
