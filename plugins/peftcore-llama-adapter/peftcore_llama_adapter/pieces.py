"""The prompts of one attention layer. Symbols are the paper's."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Around, Context, Transform, argument_names
from peftcore_llama_adapter.config import LlamaAdapterConfig

#: (start, stop) of the output features of a fused layer; None for the whole of one.
Features = tuple[int, int] | None


@dataclass(frozen=True)
class Parts:
    """What the prompts of a layer need of its attention.

    Attributes:
        heads: number of heads of the queries.
        width: width of a head.
        in_features: width of a prompt.
        scale: what scores are multiplied with.
        features: slices of the projections to queries, keys and values, where they are fused.
        key, value: projections to keys and values; no submodules of a piece, as they stand here.
        query_norm, key_norm: norms of the heads of queries and keys, where there are some.
        turn: turns queries and keys, [B, heads, L, turned], by cosines and sines, in the model's
            own code; None where no rotary embedding is given to the attention.
        turned: how many features of a head it turns.
    """

    heads: int
    width: int
    in_features: int
    scale: float
    features: tuple[Features, Features, Features]
    key: nn.Module
    value: nn.Module
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    turn: Callable[..., tuple[Tensor, Tensor]] | None
    turned: int


class Running(threading.local):
    """What the pieces of one layer tell each other within a call; every thread has its own.

    Attributes:
        query: [B, L, heads x width], before they are turned.
        rotary: cosines and sines, [B, L, width] each, where there are some.
    """

    query: Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None

    def __reduce__(self) -> Any:
        return Running, ()  # a copy is in no call


class TakeRotary(Around):
    """Leaves the rotary embedding that an attention is given for the prompts."""

    casts_itself = True

    def __init__(self, attention: nn.Module, running: Running):
        super().__init__()
        self.names = argument_names(attention)
        self.running = running

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the attention."""
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        self.running.rotary = given.get("position_embeddings")
        return call(*args, **kwargs)


class TakeQuery(Transform):
    """Leaves the layer's queries, before they are turned, for the prompts."""

    casts_itself = True

    def __init__(self, running: Running):
        super().__init__()
        self.running = running

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the queries as they came, [B, L, heads x width]."""
        self.running.query = hidden
        return hidden


class AddPrompts(Transform):
    """act(g) softmax(q (P W_K)ᵀ / √d) P W_V, heads side by side (Zhang et al. 2023, eq. 4 to 7).

    Scores over prompts and over tokens are soft-maxed apart, so the prompts' part is a summand of
    what the output projection gets. Prompts have no position; every token sees them. They go
    through the layer's own projections as these stand, pieces of other methods included.
    """

    where = "input"
    casts_itself = True

    def __init__(self, parts: Parts, config: LlamaAdapterConfig, running: Running):
        super().__init__()
        self.adaption_prompt = nn.Parameter(torch.zeros(config.adapter_len, parts.in_features))
        self.adaption_gate = nn.Parameter(torch.zeros(parts.heads))
        self.linear = config.gate == "linear"
        self.parts = parts
        self.running = running

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the prompts from N(0, 1); the gates start closed."""
        self.adaption_prompt.normal_()

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the heads' outputs, [B, L, heads x width], with what they read of the prompts."""
        query, rotary = self.running.query, self.running.rotary
        assert query is not None
        # the tensors of a call are not held beyond it
        self.running.query = self.running.rotary = None
        return hidden + self._read(query, rotary).to(hidden.dtype)

    def _read(self, query: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return what queries read of the prompts, [B, L, heads x width]."""
        parts = self.parts
        prompt = self.adaption_prompt.to(query.dtype)[None]
        states = (query, parts.key(prompt), parts.value(prompt))
        query, key, value = (
            (part if at is None else part[..., slice(*at)]).unflatten(-1, (-1, parts.width))
            for part, at in zip(states, parts.features, strict=True)
        )
        if parts.query_norm is not None:
            query = parts.query_norm(query)
        if parts.key_norm is not None:
            key = parts.key_norm(key)
        key, value = key[0], value[0]
        # heads of queries are in groups that share a head of keys and values
        query = self._turned(query, rotary).unflatten(2, (key.shape[1], -1))
        scores = torch.einsum("blkgd,pkd->blkgp", query, key) * parts.scale
        gate = self.adaption_gate if self.linear else torch.tanh(self.adaption_gate)
        weights = scores.softmax(-1, dtype=gate.dtype) * gate.view(key.shape[1], -1, 1)
        return torch.einsum("blkgp,pkd->blkgd", weights.to(value.dtype), value).flatten(2)

    def _turned(self, query: Tensor, rotary: tuple[Tensor, Tensor] | None) -> Tensor:
        """Turn queries [B, L, heads, width] as the model does, by (cos, sin)."""
        turn, n = self.parts.turn, self.parts.turned
        if turn is None or rotary is None:
            return query
        front = query[..., :n].transpose(1, 2)
        front = turn(front, front, *rotary)[0].transpose(1, 2)
        return torch.cat([front.to(query.dtype), query[..., n:]], -1)
