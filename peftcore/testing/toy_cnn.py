"""A toy image classifier: convolutions and batch norms, no tokens and no attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore.errors import ConfigError
from peftcore.model.backbones import Backbone
from peftcore.model.context import Context
from peftcore.model.loaded import Loaded
from peftcore.testing import kit
from peftcore.testing.toy import Output

CHANNELS, CLASSES = 12, 3


class ConvBlock(nn.Module):
    """Two convolutions with a batch norm each, around which the input is added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(CHANNELS)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=2)
        self.norm2 = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the next maps, [B, C, H, W]."""
        inner = F.gelu(self.norm1(self.conv1(x)))
        return F.gelu(x + self.norm2(self.conv2(inner)))


class ToyCnn(nn.Module):
    """A two-block image classifier of about 4,000 parameters, whose statistics are not trivial."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 2, stride=2)
        self.blocks = nn.ModuleList(ConvBlock() for _ in range(2))
        self.head = nn.Linear(CHANNELS, CLASSES)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.1)
                nn.init.normal_(module.get_buffer("running_mean"), 0.0, 0.1)
                nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
        """Classify images, [B, 3, 8, 8]."""
        x = self.stem(pixel_values)
        for block in self.blocks.children():
            x = block(x)
        logits = self.head(x.mean((2, 3)))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return Output(loss, logits)


class ToyCnnBackbone(Backbone):
    """The image classifier as a backbone."""

    roles = {
        "model": "",
        "patch": "stem",
        "block": "blocks.*",
        "conv": "blocks.*.conv{1,2}",
        "norm": "blocks.*.norm{1,2}",
        "head": "head",
    }
    has = ("one-pass",)
    stands_in = dict.fromkeys(
        (
            "all-linear", "attention.query", "attention.key", "attention.value",
            "attention.output", "mlp.up", "mlp.down",
        ),
        "conv",
    )  # fmt: skip

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the number of channels."""
        return CHANNELS

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say nothing: there are no tokens."""
        return Context()

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Refuse: there is no checkpoint of a toy."""
        raise ConfigError(f"{source!r}: the toy backbone has no checkpoints.")

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return the classifier; it has one head whatever is asked."""
        return ToyCnn()

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random images."""
        labels = torch.randint(0, CLASSES, (rows,))
        return {"pixel_values": torch.randn(rows, 3, 8, 8), "labels": labels}


kit.register_kit()
