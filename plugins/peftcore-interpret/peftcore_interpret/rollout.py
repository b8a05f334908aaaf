"""Attention roll-out: from which tokens what is read off comes, if attention were all.

Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from peftcore import ConfigError
from peftcore_interpret.opened import Opened, Subject
from peftcore_interpret.switching import base_under_head


def rollout(run: Opened, one: Subject) -> dict[str, Any]:
    """Return how much of each token arrives where the output is read, tuned and base.

    Raises:
        ConfigError: the model gives no maps of its attention.
    """
    found: dict[str, Any] = {}
    for name in ("tuned", "base"):
        context = base_under_head(run.model, run.adapter) if name == "base" else nullcontext()
        with context:
            maps = maps_of(run, one)
        found["read_at"] = read_at(run, one, maps)
        found[name] = {"tokens": together(maps)[found["read_at"]].tolist()}
    return found


def read_at(run: Opened, one: Subject, maps: Sequence[Tensor]) -> int:
    """Return the token at which the output is read: the word's, or that of the whole row.

    That is the first one, or the last where tokens do not see those after them.
    """
    if one.output.token is not None:
        return one.output.token
    causal = all(not layer.triu(1).any() for layer in maps)
    return len(one.tokens) - 1 if causal else 0


def maps_of(run: Opened, one: Subject) -> list[Tensor]:
    """Return the attention of each layer, mean over heads, [L, L].

    Raises:
        ConfigError: the model gives none.
    """
    model: Any = run.model
    config = getattr(model, "config", None)
    before = getattr(config, "_attn_implementation", None)
    if before is not None and before != "eager" and hasattr(model, "set_attn_implementation"):
        # fused kernels compute no maps
        model.set_attn_implementation("eager")
    with torch.no_grad():
        outputs = model(**one.inputs, output_attentions=True)
    maps = getattr(outputs, "attentions", None)
    if not maps or any(layer is None or layer.ndim != 4 for layer in maps):
        raise ConfigError(
            f"{run.place}: the {type(model).__name__} gives no maps of its attention, of which a"
            " roll-out is made. Try --set backbone.options.attn_implementation=eager, or leave"
            " roll-out out."
        )
    return [layer[0].double().mean(0) for layer in maps]


def together(maps: Sequence[Tensor]) -> Tensor:
    """Return the product of all layers, [L, L], each half attention and half the residual path."""
    found = torch.eye(len(maps[0]), dtype=maps[0].dtype)
    for layer in maps:
        mixed = layer + torch.eye(len(layer), dtype=layer.dtype)
        found = mixed / mixed.sum(-1, keepdim=True) @ found
    return found
