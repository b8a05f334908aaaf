"""Starting an adapter from the values of a stored one, as a second stage of training does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from peftcore.adapter.plan import Plan
from peftcore.adapter.saving import base_tensors, check_versions, fill, piece_tensors
from peftcore.adapter.selecting import SAVED
from peftcore.adapter.state import Attached
from peftcore.errors import CheckpointError
from peftcore.store.checkpoint import read
from peftcore.store.description import Description
from peftcore.store.fingerprint import changed_tensors


def start_from(adapter: Attached, path: str | Path, *, heads: bool = True) -> tuple[str, ...]:
    """Give an attached adapter the values of a stored one.

    The methods must be the same, and the network under them. What is trained whole may differ, such
    as the head of another task: then it keeps the values that it has.

    Args:
        adapter: an adapter as :func:`peftcore.attach` made it.
        path: the stored adapter.
        heads: take the values of ``modules_to_save`` too, where their shapes are the same.

    Returns:
        The tensors of ``modules_to_save`` that keep their values.

    Raises:
        CheckpointError: the stored adapter is of other methods or of another base, or is damaged.
            Nothing has been changed then.
    """
    description, tensors = read(path)
    check_versions(description, path, False)
    _check_methods(adapter.plan, description, path)
    model = adapter.carrier()
    if changed := changed_tensors(
        description.backbone.fingerprint, base_tensors(model, adapter.plan)
    ):
        raise CheckpointError(
            f"{path} was trained on another base ({description.backbone.model}): {changed[0]} has"
            " other values here. Start from an adapter of this base."
        )
    saved = {swap.name: swap for swap in adapter.swaps if swap.selected.label == SAVED}
    needed = piece_tensors(adapter.plan)
    needed |= {swap.name: swap.own for swap in adapter.swaps if swap.name not in saved}
    _check_pieces(needed, saved, tensors, adapter.plan, path)
    fitting = {
        name for name, swap in saved.items()
        if heads and name in tensors and tensors[name].shape == swap.own.shape
    }  # fmt: skip
    taken = {name: t for name, t in tensors.items() if name in needed or name in fitting}
    kept = {name: swap.own.detach() for name, swap in saved.items() if name not in fitting}
    fill(adapter, {**taken, **kept})
    return tuple(kept)


def _check_methods(plan: Plan, description: Description, path: str | Path) -> None:
    here = [(method.name, method.config.model_dump(mode="json")) for method in plan.methods]
    there = [(method.method, method.config) for method in description.methods]
    if [name for name, _ in here] != [name for name, _ in there]:
        names = [", ".join(name for name, _ in side) or "no method" for side in (there, here)]
        raise CheckpointError(
            f"{path} holds {names[0]}, and this adapter is of {names[1]}. Name the same methods."
        )
    for (name, mine), (_, stored) in zip(here, there, strict=True):
        for field in sorted(mine.keys() | stored.keys()):
            # what is dropped at random says nothing of the values
            if "dropout" not in field and mine.get(field) != stored.get(field):
                raise CheckpointError(
                    f"{path} was trained with {name}.{field} {stored.get(field)!r}, and this"
                    f" adapter has {mine.get(field)!r}. Give {name} the same {field}."
                )


def _check_pieces(
    needed: Mapping[str, Tensor],
    saved: Mapping[str, object],
    tensors: Mapping[str, Tensor],
    plan: Plan,
    path: str | Path,
) -> None:
    for name, tensor in needed.items():
        if name not in tensors or tensors[name].shape != tensor.shape:
            there = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
            raise CheckpointError(
                f"{path}: tensor {name} {there}, this model needs {tuple(tensor.shape)}."
            )
    labels = {item.label for item in plan.placed}
    for name in tensors:
        if name not in needed and name not in saved and labels & set(name.split(".")):
            raise CheckpointError(f"{path}: tensor {name} has no place in this model.")
