"""Expecting one clear sentence, and that nothing was changed before it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from peftcore.adapter.handle import adapters
from peftcore.errors import ConfigError, PeftcoreError
from peftcore.model.walk import base_modules

#: What stands in a message that was not written for users.
_RAW = ("Traceback", " object at 0x", "<class '", "<function ")


class Snapshot:
    """What a model is, to tell later whether it was changed."""

    def __init__(self, model: nn.Module):
        self.model = model
        self._modules = [(path, type(m)) for path, m, _ in base_modules(model)]
        self._state = {n: t.detach().clone() for n, t in _tensors(model).items()}
        self._frozen = {n: p.requires_grad for n, p in model.named_parameters()}
        self._adapters = list(adapters(model))

    def change(self) -> str:
        """Say what was changed since, or return an empty string."""
        if list(adapters(self.model)) != self._adapters:
            return f"it carries the adapters {list(adapters(self.model))}, not {self._adapters}"
        now = [(path, type(m)) for path, m, _ in base_modules(self.model)]
        if now != self._modules:
            path = next((a[0] for a, b in zip(now, self._modules, strict=False) if a != b), "")
            return f"module {path or 'the model'} is another one, or there are more or fewer"
        state = _tensors(self.model)
        if list(state) != list(self._state):
            return f"its tensors are others: {sorted(set(state) ^ set(self._state))[:3]}"
        for name, before in self._state.items():
            if state[name].dtype != before.dtype or not _equal(state[name], before):
                return f"{name} has other values"
        flags = {n: p.requires_grad for n, p in self.model.named_parameters()}
        other = [n for n in flags if flags[n] != self._frozen.get(n)]
        return f"requires_grad of {other[0]} was changed" if other else ""


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {n: t for n, t in model.state_dict().items() if isinstance(t, Tensor)}


def _equal(one: Tensor, two: Tensor) -> bool:
    if one.shape != two.shape:
        return False
    if one.is_meta or two.is_meta:
        return one.is_meta and two.is_meta
    # NaN is a value like any other here
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(two))


@contextmanager
def refused(
    kind: type[PeftcoreError], *parts: str, model: nn.Module | None = None
) -> Iterator[None]:
    """Expect one clear sentence of an error, and a model that was left as it was.

    Args:
        kind: the error.
        parts: what the sentence says, such as the site and what to write instead.
        model: what must not be changed.

    Raises:
        AssertionError: nothing was refused, by another error, with other words, or too late.
    """
    before = None if model is None else Snapshot(model)
    try:
        yield
    except PeftcoreError as error:
        if not isinstance(error, kind):
            raise AssertionError(
                f"a {type(error).__name__}, not a {kind.__name__}: {error}"
            ) from error
        check_sentence(error)
        missing = [part for part in parts if part not in str(error)]
        if missing:
            raise AssertionError(f"{missing[0]!r} is not in the sentence: {error}") from error
    else:
        raise AssertionError(f"nothing was refused; expected a {kind.__name__}")
    if before is not None and (change := before.change()):
        raise AssertionError(f"refused, but {change}")


def check_sentence(error: PeftcoreError) -> None:
    """Check that an error speaks to a user, in one sentence or one for each problem.

    Raises:
        AssertionError: it has several lines, says too little, or shows what Python shows.
    """
    problems = error.problems if isinstance(error, ConfigError) else [str(error)]
    if len(problems) > 1:
        raise AssertionError(f"{len(problems)} problems, not one: {error}")
    (sentence,) = problems
    raw = next((part for part in _RAW if part in sentence), "")
    if raw or "\n" in sentence or len(sentence.split()) < 4:
        raise AssertionError(f"no clear sentence: {sentence!r}")
