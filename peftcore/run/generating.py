"""Methods of a model that generate, which tell how long the prompt is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor


def generating(cls: type, name: str, *, stacked: bool) -> Callable[..., Any]:
    """Return a method of a model's class that generates, so that it tells of the prompt.

    Args:
        cls: the class.
        name: of the method.
        stacked: what it is given is read by one stack and continued by another, whose prompt is
            what it is first called with.
    """
    base = getattr(cls, name)

    @functools.wraps(base)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        holder = self._peftcore.holder
        before = holder.columns
        given = (*args[:1], *(kwargs.get(k) for k in ("inputs", "input_ids", "inputs_embeds")))
        inputs = next((v for v in given if isinstance(v, Tensor)), None)
        holder.columns = 0 if stacked else None if inputs is None else inputs.shape[1]
        try:
            return base(self, *args, **kwargs)
        finally:
            holder.columns = before

    return generate
