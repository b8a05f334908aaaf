"""A toy language model that has what the plain toy has not.

A fused attention, an output projection whose weight is read without a call, a head that is tied to
the embeddings, a cache, and an argument of the blocks whose first axis is not the batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore.errors import ConfigError
from peftcore.model.backbones import Backbone
from peftcore.model.context import Context
from peftcore.model.layers import LayerInfo
from peftcore.model.loaded import Loaded
from peftcore.testing import kit
from peftcore.testing.toy import Output

WIDTH, HEADS, INNER, VOCABULARY, POSITIONS, LENGTH = 16, 4, 24, 24, 32, 9


class Cache:
    """Keys and values of the tokens that came in earlier calls, by layer; [B, heads, L, d] each."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Add the keys and values of a call, and return all of them."""
        if layer in self._kept:
            old_keys, old_values = self._kept[layer]
            keys, values = torch.cat([old_keys, keys], 2), torch.cat([old_values, values], 2)
        self._kept[layer] = keys, values
        return keys, values

    def get_seq_length(self) -> int:
        """Return the number of tokens of each row."""
        return self._kept[0][0].shape[2] if self._kept else 0


class FusedAttention(nn.Module):
    """Causal self-attention with one projection to queries, keys and values."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = HEADS
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.output = nn.Linear(WIDTH, WIDTH)

    def forward(
        self, x: Tensor, attention_mask: Tensor, past_key_values: Cache | None, head_scale: Tensor
    ) -> Tensor:
        """Attend; x is [B, L, d], attention_mask [B, 1, L, K] bool, head_scale [heads]."""
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attention_mask)
        out = (out * head_scale[:, None, None]).transpose(1, 2).flatten(2)
        return F.linear(out, self.output.weight, self.output.bias)


class DecoderBlock(nn.Module):
    """One layer of the decoder, pre-norm."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = FusedAttention(layer)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.up = nn.Linear(WIDTH, INNER)
        self.down = nn.Linear(INNER, WIDTH)

    def forward(
        self, x: Tensor, attention_mask: Tensor, past_key_values: Cache | None, head_scale: Tensor
    ) -> Tensor:
        """Return the next residual stream, [B, L, d]."""
        x = x + self.attention(self.norm1(x), attention_mask, past_key_values, head_scale)
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class Network(nn.Module):
    """The decoder without its head."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(POSITIONS, WIDTH)
        self.head_scale = nn.Parameter(1 + 0.1 * torch.randn(HEADS))
        self.blocks = nn.ModuleList(DecoderBlock(layer) for layer in range(2))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Cache | None = None
    ) -> Tensor:
        """Return hidden states, [B, L, d]; attention_mask [B, K] covers the cache too."""
        length, whole = input_ids.shape[1], attention_mask.shape[1]
        real = attention_mask.bool()
        place = (attention_mask.cumsum(1) - 1).clamp_min(0)[:, whole - length :]
        x = self.embeddings(input_ids) + self.positions(place)
        before = torch.ones(length, whole, dtype=torch.bool, device=x.device)
        # a token of the padding sees itself, so that no row of the softmax is empty
        itself = torch.eye(whole, dtype=torch.bool, device=x.device)[whole - length :]
        allowed = (real[:, None, None] & before.tril(whole - length)) | itself
        for block in self.blocks.children():
            x = block(x, allowed, past_key_values, self.head_scale)
        return self.norm(x)  # type: ignore[no-any-return]


class ToyDecoder(nn.Module):
    """A two-block language model of about 5,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.network.embeddings.weight

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: Cache | None = None,
        labels: Tensor | None = None,
    ) -> Output:  # fmt: skip
        """Return logits, [B, L, V], and the loss of the next tokens that are labelled."""
        logits = self.head(self.network(input_ids, attention_mask, past_key_values))
        if labels is None:
            return Output(None, logits)
        aims = labels[:, 1:].flatten()
        return Output(F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), aims), logits)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int = 4,
        use_cache: bool = True, **options: Any,
    ) -> Tensor:  # fmt: skip
        """Continue prompts, padded left, with the likeliest tokens."""
        cache = Cache() if use_cache else None
        ids, mask, given = input_ids, attention_mask, input_ids
        for _ in range(max_new_tokens):
            best = self(given, mask, cache).logits[:, -1:].argmax(-1)
            ids = torch.cat([ids, best], 1)
            mask = torch.cat([mask, torch.ones_like(best)], 1)
            given = best if use_cache else ids
        return ids


class ToyDecoderBackbone(Backbone):
    """The decoder as a backbone."""

    roles = {
        "model": "network",
        "embeddings": "network.embeddings",
        "embeddings.position": "network.positions",
        "block": "network.blocks.*",
        "attention": "network.blocks.*.attention",
        "attention.qkv": "network.blocks.*.attention.qkv",
        "attention.output": "network.blocks.*.attention.output",
        "mlp.up": "network.blocks.*.up",
        "mlp.down": "network.blocks.*.down",
        "norm": ("network.blocks.*.norm{1,2}", "network.norm"),
        "head": "head",
    }
    direct_weights = ("network.blocks.*.attention.output",)
    has = ("tokens", "cache", "one-pass", "own-queries")

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the only width."""
        return WIDTH

    def slices(self, path: str, role: str, layer: LayerInfo) -> Mapping[str, tuple[int, int]]:
        """Return the three parts of the fused projection."""
        if role != "attention.qkv":
            return {}
        parts = ("attention.query", "attention.key", "attention.value")
        return {part: (i * WIDTH, (i + 1) * WIDTH) for i, part in enumerate(parts)}

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Read the mask, the cache, and where the answer begins."""
        names = ("input_ids", "attention_mask", "past_key_values", "labels")
        call = {**dict(zip(names, args, strict=False)), **kwargs}
        length = call["input_ids"].shape[1]
        cache, labels = call.get("past_key_values"), call.get("labels")
        cached = cache.get_seq_length() if cache is not None else 0
        mask = call["attention_mask"][:, -length:].bool()
        prompt = mask if labels is None else mask & ((labels >= 0).cumsum(1) == 0)
        return Context(mask, prompt, generated=bool(cached) and length == 1, offset=cached)

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Refuse: there is no checkpoint of a toy."""
        raise ConfigError(f"{source!r}: the toy backbone has no checkpoints.")

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return the decoder; it has one head whatever is asked."""
        return ToyDecoder()

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return rows of 5 to 9 tokens, padded on the right; what follows the third is learned."""
        lengths = torch.randint(5, LENGTH, (rows,))
        lengths[0] = LENGTH
        mask = torch.arange(LENGTH)[None] < lengths[:, None]
        ids = torch.randint(0, VOCABULARY, (rows, LENGTH))
        labels = ids.masked_fill(~mask | (torch.arange(LENGTH) < 3), -100)
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


kit.register_kit()
