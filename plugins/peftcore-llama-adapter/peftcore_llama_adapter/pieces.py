"""The prompts of one attention layer. Symbols are the paper's."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Around, Context, Site, Transform, trainable_dtype
from peftcore_llama_adapter.config import LlamaAdapterConfig

Rows = tuple[int, int] | None


@dataclass(frozen=True)
class Parts:
    """What the prompts of a layer need of its attention.

    Attributes:
        heads: number of heads of the queries.
        width: width of a head.
        in_features: width of a prompt.
        scale: what scores are multiplied with.
        rows: slices of the projections to queries, keys and values, where they are fused.
        key, value: projections to keys and values; no submodules of a piece, as they stand here.
        query_norm, key_norm: norms of the heads of queries and keys, where there are some.
    """

    heads: int
    width: int
    in_features: int
    scale: float
    rows: tuple[Rows, Rows, Rows]
    key: nn.Module
    value: nn.Module
    query_norm: nn.Module | None
    key_norm: nn.Module | None


class Prompts(Around):
    """act(g) softmax(q (P W_K)ᵀ / √d) P W_V, heads side by side (Zhang et al. 2023, eq. 4 to 7).

    Scores over prompts and over tokens are soft-maxed apart, so the prompts' part is a summand of
    what the output projection gets. Prompts have no position; every token sees them. They go
    through the layer's own projections as these stand, pieces of other methods included.
    """

    def __init__(self, site: Site, parts: Parts, config: LlamaAdapterConfig):
        super().__init__()
        made: Any = {"dtype": trainable_dtype(site.layer.dtype), "device": site.layer.device}
        prompt = torch.randn(config.adapter_len, parts.in_features, **made)
        self.adaption_prompt = nn.Parameter(prompt)
        self.adaption_gate = nn.Parameter(torch.zeros(parts.heads, **made))
        self.linear = config.gate == "linear"
        self.parts = parts
        names = list(inspect.signature(type(site.module).forward).parameters)[1:]
        self.rotary_at = (
            names.index("position_embeddings") if "position_embeddings" in names else -1
        )
        self.running = Running()

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the attention; keep the rotary embedding that it is given for its queries."""
        rotary = kwargs.get("position_embeddings")
        if 0 <= self.rotary_at < len(args):
            rotary = args[self.rotary_at]
        self.running.rotary = rotary
        return call(*args, **kwargs)

    def attended(self) -> Tensor:
        """Return the prompts' part for the queries of the running call, [B, L, heads x width]."""
        parts, running = self.parts, self.running
        prompt = self.adaption_prompt.to(running.query.dtype)[None]
        query, key, value = (
            _sliced(states, rows).unflatten(-1, (-1, parts.width))
            for states, rows in zip(
                (running.query, parts.key(prompt), parts.value(prompt)), parts.rows, strict=True
            )
        )
        if parts.query_norm is not None:
            query = parts.query_norm(query)
        if parts.key_norm is not None:
            key = parts.key_norm(key)
        key, value = key[0], value[0]
        query = _turned(query, running.rotary)
        # the tensors of a call are not held beyond it
        running.query = running.rotary = None
        # heads of queries are in groups that share a head of keys and values
        query = query.unflatten(2, (key.shape[1], -1))
        scores = torch.einsum("blkgd,pkd->blkgp", query, key) * parts.scale
        gate = self.adaption_gate if self.linear else torch.tanh(self.adaption_gate)
        weights = scores.softmax(-1, dtype=gate.dtype) * gate.view(key.shape[1], -1, 1)
        return torch.einsum("blkgp,pkd->blkgd", weights.to(value.dtype), value).flatten(2)


class Running:
    """What the pieces of one layer tell each other within a call."""

    def __init__(self) -> None:
        self.query: Any = None
        self.rotary: Any = None


class TakeQuery(Transform):
    """Leaves the layer's queries, before they are turned, for the prompts."""

    casts_itself = True

    def __init__(self, prompts: Prompts):
        super().__init__()
        self.referred = (prompts,)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the queries as they came, [B, L, heads x width]."""
        self.referred[0].running.query = hidden
        return hidden


class AddPrompts(Transform):
    """Adds the prompts' part to the input of the output projection."""

    where = "input"
    casts_itself = True

    def __init__(self, prompts: Prompts):
        super().__init__()
        self.referred = (prompts,)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the heads' outputs, [B, L, heads x width], with what they read of the prompts."""
        return hidden + self.referred[0].attended().to(hidden.dtype)


def _sliced(states: Tensor, rows: Rows) -> Tensor:
    return states if rows is None else states[..., slice(*rows)]


def _turned(query: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
    """Turn queries [B, L, heads, width] by a rotary embedding (cos, sin), [B, L, width] each."""
    if rotary is None:
        return query
    cos, sin = (part[:, :, None] for part in rotary)
    left, right = query.chunk(2, dim=-1)
    return (query * cos + torch.cat([-right, left], -1) * sin).to(query.dtype)
