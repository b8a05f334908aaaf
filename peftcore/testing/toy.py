"""A toy text classifier with every common role, and a fake-quantised linear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore.errors import ConfigError
from peftcore.model.backbones import Backbone
from peftcore.model.context import Context
from peftcore.model.layers import Layer, LayerInfo
from peftcore.model.loaded import Loaded
from peftcore.testing import kit

WIDTH, HEADS, INNER, VOCABULARY, CLASSES = 16, 2, 32, 24, 3


class Attention(nn.Module):
    """Plain self-attention with four projections."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Attend among the real tokens; x is [B, L, d], mask [B, L]."""
        rows, length, _ = x.shape
        q, k, v = (
            f(x).view(rows, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for f in (self.query, self.key, self.value)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.output(out.transpose(1, 2).reshape(rows, length, WIDTH))  # type: ignore


class Block(nn.Module):
    """One layer of the toy: attention and a feed-forward part, post-norm."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return the next residual stream, [B, L, d]."""
        x = self.norm1(x + self.attention(x, mask))
        return self.norm2(x + self.down(F.gelu(self.up(x))))  # type: ignore[no-any-return]


@dataclass
class Output:
    """What the toy returns, as transformers' outputs do."""

    loss: Tensor | None
    logits: Tensor


class Toy(nn.Module):
    """A two-block text classifier of about 5,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> Output:
        """Classify rows by the mean of their real tokens."""
        mask = attention_mask.bool()
        x = self.embeddings(input_ids)
        for block in self.blocks.children():
            x = block(x, mask)
        weight = mask[:, :, None].to(x.dtype)
        logits = self.head((x * weight).sum(1) / weight.sum(1))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return Output(loss, logits)


class ToyBackbone(Backbone):
    """The toy as a backbone."""

    roles = {
        "model": "",
        "embeddings": "embeddings",
        "block": "blocks.*",
        "attention": "blocks.*.attention",
        "attention.query": "blocks.*.attention.query",
        "attention.key": "blocks.*.attention.key",
        "attention.value": "blocks.*.attention.value",
        "attention.output": "blocks.*.attention.output",
        "mlp.up": "blocks.*.up",
        "mlp.down": "blocks.*.down",
        "norm": "blocks.*.norm{1,2}",
        "head": "head",
    }

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the toy's only width."""
        return WIDTH

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Read the mask; everything real is the prompt."""
        mask = kwargs["attention_mask"] if "attention_mask" in kwargs else args[1]
        return Context(mask.bool(), mask.bool())

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Refuse: there is no checkpoint of a toy."""
        raise ConfigError(f"{source!r}: the toy backbone has no checkpoints.")

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return the toy; it has one head whatever is asked."""
        return Toy()

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return rows of 3 to 9 tokens, padded on the right."""
        lengths = torch.randint(3, 10, (rows,))
        mask = torch.arange(9)[None] < lengths[:, None]
        mask[:, :3] = True
        ids = torch.randint(0, VOCABULARY, (rows, 9))
        labels = torch.randint(0, CLASSES, (rows,))
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


class FakeQuantLinear(nn.Module):
    """A linear whose weight is int8 with one scale a row, as a quantised base has it."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
        self.register_buffer("qweight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Multiply with the dequantised weight."""
        return F.linear(x, self.dense().to(x.dtype), self.bias)

    def dense(self) -> Tensor:
        """Return the dequantised weight, [out, in]."""
        return self.qweight * self.scale  # type: ignore[operator, return-value]


class FakeQuant(Layer):
    """Handler of :class:`FakeQuantLinear`."""

    writable = False

    def info(self, module: nn.Module) -> LayerInfo:
        """Return sizes and dtype."""
        assert isinstance(module, FakeQuantLinear)
        out, in_ = module.dense().shape
        scale: Tensor = module.scale  # type: ignore[assignment]
        return LayerInfo(
            "linear", in_, out, module.bias is not None, scale.dtype, scale.device, (out, in_)
        )

    def weight(self, module: nn.Module) -> Tensor:
        """Return the dequantised weight."""
        assert isinstance(module, FakeQuantLinear)
        return module.dense()

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        """Run with another weight."""
        assert isinstance(module, FakeQuantLinear)
        return F.linear(x, weight, module.bias)


kit.register_kit()
