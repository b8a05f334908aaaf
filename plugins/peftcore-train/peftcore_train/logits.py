"""Logits of the tokens that a loss asks for, and of no others."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore_train.task import Batch, inner

#: Label of a token that is not predicted.
IGNORED = -100


def targets_of(labels: Tensor, *, shift: int, rows: Tensor | None = None) -> dict[str, Tensor]:
    """Return which places of a batch predict which tokens.

    It is found once, where the batch is made, so that no loss waits for the device.

    Args:
        labels: [R, L], -100 where nothing is predicted.
        shift: 1 where a place predicts the token after it, else 0.
        rows: [R, L] row of each token, where a row of the batch holds several.

    Returns:
        ``places``: [N] numbers of the places, counted through all rows. ``targets``: [N] their
        tokens. ``target_rows``: [N] the rows that they are of.
    """
    wanted = labels != IGNORED
    wanted[:, :shift] = False
    row, column = wanted.nonzero(as_tuple=True)
    return {
        "places": row * labels.shape[1] + column - shift,
        "targets": labels[row, column],
        "target_rows": row if rows is None else rows[row, column],
    }


def logits_at(model: nn.Module, places: Tensor, **inputs: Any) -> Tensor:
    """Return the logits of some places of a call in float32, [N, V].

    The layer that makes them is given these places alone, where it is one of its own: for long
    rows and large vocabularies the logits of all places are the largest tensor of a step.

    Args:
        model: a language model.
        places: [N] numbers of the places, counted through all rows.
        inputs: arguments of the model.
    """
    with _given_only(inner(model), places) as narrowed:
        logits: Tensor = model(**inputs).logits
    logits = logits.flatten(0, -2)
    return (logits if narrowed else logits[places]).float()


@contextmanager
def _given_only(network: nn.Module, places: Tensor) -> Iterator[list[bool]]:
    """Let the output layer see some places alone; the list says whether it did."""
    narrowed: list[bool] = []

    def narrow(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if len(args) != 1 or not isinstance(args[0], Tensor) or args[0].dim() != 3:
            return None
        narrowed.append(True)
        return (args[0].flatten(0, 1).index_select(0, places)[None],)

    find = getattr(network, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    if not isinstance(layer, nn.Module):
        yield narrowed
        return
    handle = layer.register_forward_pre_hook(narrow)
    try:
        yield narrowed
    finally:
        handle.remove()


def token_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Return the mean loss of the predicted tokens."""
    return F.cross_entropy(logits, batch["targets"])


def token_scores(logits: Tensor, batch: Batch, rows: int) -> dict[str, Tensor]:
    """Return the summed loss, the right answers and the predicted tokens of each row, [B].

    Args:
        logits: [N, V].
        batch: what :func:`targets_of` returns.
        rows: B.
    """
    targets = batch["targets"]
    losses = F.cross_entropy(logits, targets, reduction="none")
    correct = logits.argmax(-1) == targets
    return {
        "loss": by_row(losses, batch, rows),
        "correct": by_row(correct.long(), batch, rows),
        "count": by_row(torch.ones_like(targets), batch, rows),
    }


def by_row(values: Tensor, batch: Batch, rows: int) -> Tensor:
    """Return the sum of the values [N] of predicted tokens over each row, [B]."""
    return values.new_zeros(rows).index_add(0, batch["target_rows"], values)
