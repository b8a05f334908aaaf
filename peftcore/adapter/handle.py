"""The adapter as its users hold it, and the two ways to one: attaching and loading."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftcore.adapter import saving
from peftcore.adapter.attach import apply, check_free, remove
from peftcore.adapter.merge import merge, merge_for_good, unmerge
from peftcore.adapter.plan import make_plan
from peftcore.adapter.starting import start_from
from peftcore.adapter.state import STATE, Attached, ModelState, state_of
from peftcore.adapter.switch import adapters_named, base_only, check_outside
from peftcore.errors import AttachError
from peftcore.method.examples import Examples
from peftcore.method.method import MethodChoice


class Adapter(Attached):
    """One named adapter on a model; made by :func:`attach` or :func:`peftcore.load`.

    Attributes:
        name: name on this model.
        model: the model that carries it; None once it is detached.
        plan: what was attached.
        swaps: base parameters that it holds values of its own for.
    """

    def detach(self) -> None:
        """Take the adapter off; the last one gives back the bare model, bit for bit."""
        detach(self.carrier(), self.name)

    def merge(self) -> None:
        """Fold the adapter into the weights; see :func:`peftcore.merge`."""
        merge(self.carrier(), self.name)

    def unmerge(self) -> None:
        """Give the weights back as they were before the merge, exactly."""
        unmerge(self.carrier())

    def save(self, path: str | Path) -> None:
        """Write the adapter to a directory, atomically; see :func:`peftcore.save`."""
        saving.save(self, path)

    def start_from(self, path: str | Path, *, heads: bool = True) -> tuple[str, ...]:
        """Take the values of a stored adapter; see :func:`peftcore.adapter.starting.start_from`.

        Args:
            path: a stored adapter of the same methods on the same network.
            heads: take the values of ``modules_to_save`` too, where their shapes are the same.

        Returns:
            The tensors of ``modules_to_save`` that keep their values.

        Raises:
            CheckpointError: it is of other methods or another base. Nothing has been changed.
        """
        return start_from(self, path, heads=heads)

    def __repr__(self) -> str:
        methods = ", ".join(m.label for m in self.methods)
        return f"Adapter({self.name!r}, [{methods}], trainable={self.plan.trainable:,})"


def adapters(model: nn.Module) -> dict[str, Adapter]:
    """Return the adapters of a model by name; empty for a bare model."""
    state: ModelState | None = model.__dict__.get(STATE)
    return dict(state.adapters) if state else {}  # type: ignore[arg-type]


def attach(
    model: nn.Module,
    methods: MethodChoice | Sequence[MethodChoice],
    *,
    name: str = "default",
    backbone: str | None = None,
    modules_to_save: Sequence[str] = (),
    save_frozen: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    examples: Examples | None = None,
    tokenizer: Any = None,
    **config: Any,
) -> Adapter:
    """Put an adapter on a model, in place, and make it the active one.

    The whole plan is made and checked before the first change; if anything is wrong the model
    stays as it was. The base's parameters are frozen until the last adapter is detached.

    Args:
        model: any module.
        methods: a method's name with its configuration as keywords, or a list of names and
            mappings ``{"method": name, ...}``. An empty list trains ``modules_to_save`` alone.
        name: name of the adapter on this model.
        backbone: name of the backbone plugin; found from the model where it is not given.
        modules_to_save: roles or ``path:`` globs of modules that are trained whole.
        save_frozen: the same for modules that are stored with the adapter but not trained.
        dtype: dtype of the pieces' tensors; at least fp32 where it is not given.
        examples: data for methods whose start depends on it.
        tokenizer: what turns text into the model's inputs, for methods that start from text.
        config: configuration of the one method.

    Raises:
        ConfigError: a configuration is wrong or a target matches nothing; all problems at once.
        UnknownName: no installed plugin provides a method.
        AttachError: the name is taken, or a piece cannot act where it is asked to.

    Example:
        >>> model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16), 2)
        >>> adapter = attach(model, "lora", rank=2, targets=["linear"])  # doctest: +SKIP
    """
    check_free(model, name, "attach")
    with _collector_paused():
        with base_only(model):
            made = make_plan(
                model, methods, config, backbone, modules_to_save, save_frozen,
                dtype=dtype, examples=examples, tokenizer=tokenizer,
            )  # fmt: skip
        if not made.placed and not made.selected:
            raise AttachError(
                "nothing to attach: name a method, or what is trained whole as modules_to_save."
            )
        return apply(model, Adapter(name, model, made))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking thousands of new objects again and again."""
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if running:
            gc.enable()


def load(
    model: nn.Module,
    path: str | Path,
    *,
    name: str = "default",
    allow_other_base: bool = False,
    allow_other_version: bool = False,
) -> Adapter:
    """Put a saved adapter on a model and make it the active one.

    Everything is checked before the model is touched.

    Args:
        model: a model of the base that the adapter was trained on.
        path: the directory, or the ``.safetensors`` file alone.
        name: name of the adapter on this model.
        allow_other_base: accept a base with other weights, as long as all tensors fit.
        allow_other_version: accept another version of a method's plugin.

    Raises:
        CheckpointError: the file is damaged, belongs to another base or another version of a
            method, or its tensors do not fit; the sentence names the tensor.
        UnknownName: a method's plugin is not installed.
    """
    return saving.load_as(
        Adapter, model, path, name,
        allow_other_base=allow_other_base, allow_other_version=allow_other_version,
    )  # fmt: skip


def detach(model: nn.Module, *names: str) -> None:
    """Take adapters off, all of them where none is named.

    With the last one the model is as it was before the first: classes, parameters, and what
    required a gradient.
    """
    state = state_of(model)
    check_outside(state, "detach")
    chosen = adapters_named(state, names or tuple(state.adapters))
    if state.merged:
        unmerge(model)
    for adapter in chosen:
        remove(model, state, adapter)


def merge_and_unload(model: nn.Module, *names: str) -> nn.Module:
    """Merge for good and take all adapters off; returns the model, now with the merged weights.

    Weights are folded one after another: the model is never in memory twice.

    Raises:
        MergeError: as :func:`peftcore.merge`. Nothing has been changed then.
    """
    merge_for_good(model, names)
    detach(model)
    return model
