"""Putting virtual tokens into a sequence and what goes with it, and taking them out again."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from peftcore import AttachError

#: In torch's own layers True, or a value, hides a key; zero shows it.
_HIDING = ("src_mask", "src_key_padding_mask")
_MASKS = ("mask", "attn_mask", "attention_mask")


def spliced(sequence: Tensor, at: int, tokens: Tensor) -> Tensor:
    """Return a sequence, [B, L, ...], with tokens, [B, P, ...], after its first ``at``."""
    return torch.cat([sequence[:, :at], tokens, sequence[:, at:]], dim=1)


def without(value: Any, at: int, count: int, length: int) -> Any:
    """Return a result without its virtual tokens, wherever it is [B, length, d]."""
    if isinstance(value, Tensor):
        if value.dim() != 3 or value.shape[1] != length:
            return value
        rest = value[:, at + count :]
        return torch.cat([value[:, :at], rest], dim=1) if at else rest
    if type(value) in (tuple, list):
        return type(value)(without(v, at, count, length) for v in value)
    if isinstance(value, Mapping):  # an output of transformers
        return type(value)(**{k: without(v, at, count, length) for k, v in value.items()})
    return value


class Widening:
    """How the arguments of a block grow by P tokens after the first ``at`` of L.

    A virtual token is seen by every token that sees any, and sees all that any token sees; it has
    no position: no bias by distance, and no rotation.
    """

    def __init__(self, at: int, count: int):
        self.at, self.count = at, count

    def of(self, name: str, value: Any, length: int) -> Any:
        """Return an argument, by its name, for the longer sequence."""
        if name == "position_embeddings" and isinstance(value, tuple):
            cos, sin = value
            return self._grown(cos, -2, length, _ones), self._grown(sin, -2, length, _zeros)
        if not isinstance(value, Tensor):
            return value
        if name in _MASKS:
            if value.shape[-1] not in (1, length):
                raise AttachError(
                    f"{name} is for {value.shape[-1]} tokens where the sequence has {length}. Among"
                    " several methods that add tokens, shallow vpt comes first, and only once."
                )
            # what shows a key is 0, 1 or True, and always the largest value of a row
            fill = _largest
        elif name in (*_HIDING, "position_bias", "relative_pos"):
            fill = _zeros
        else:
            return value
        value = self._grown(value, -1, length, fill)
        # two dimensions are rows and keys, but torch's own src_mask has queries and keys
        has_queries = value.dim() > 2 or name == "src_mask"
        return self._grown(value, -2, length, fill) if has_queries else value

    def _grown(
        self, value: Tensor, dim: int, length: int, fill: Callable[[Tensor, int], Tensor]
    ) -> Tensor:
        if value.shape[dim] != length:
            return value
        before, after = value.tensor_split([self.at], dim)
        shape = [-1] * value.dim()
        shape[dim] = self.count
        return torch.cat([before, fill(value, dim).expand(shape), after], dim)


def _largest(value: Tensor, dim: int) -> Tensor:
    return value.amax(dim, keepdim=True)


def _zeros(value: Tensor, dim: int) -> Tensor:
    return torch.zeros_like(value.narrow(dim, 0, 1))


def _ones(value: Tensor, dim: int) -> Tensor:
    return torch.ones_like(value.narrow(dim, 0, 1))
