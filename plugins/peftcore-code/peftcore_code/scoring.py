"""Answers in a file, scored by references in another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from peftcore import DataError
from peftcore_code.metrics import review_metrics
from peftcore_code.scores import scores_of
from peftcore_train.data import Row, read_rows
from peftcore_train.generation import as_tensor
from peftcore_train.metrics import computed

#: Metrics that need the model that wrote the answers.
_OF_TOKENS = ("loss", "perplexity", "accuracy")


def score_files(
    answers: Path, references: Path, action: str, id_column: str, answer: str, reference: str
) -> dict[str, Any]:
    """Return the scores of answers, and how many there are.

    Raises:
        DataError: an id stands twice, or one of the two files lacks it.
    """
    said, wanted = (_by_id(read_rows(path), id_column) for path in (answers, references))
    if lacking := [name for name in wanted if name not in said]:
        raise DataError(
            f"{answers.name}: {len(lacking)} of {len(wanted)} ids of {references.name} have no"
            f" answer, such as {lacking[0]!r}. Answer all of them."
        )
    if surplus := [name for name in said if name not in wanted]:
        raise DataError(
            f"{said[surplus[0]].where}: {references.name} has no id {surplus[0]!r}. Score it"
            " with the file that it answers."
        )
    texts = [_text(said[name], answer) for name in wanted]
    right = [_reference(wanted[name], action, reference) for name in wanted]
    scores: dict[str, Any] = scores_of(action, texts, right)
    given = {name: torch.tensor(values) for name, values in scores.items()}
    given |= {"prediction": as_tensor(texts), "reference": as_tensor(right)}
    metrics = review_metrics(action, generate=True)
    for name in _OF_TOKENS:
        del metrics[name]
    metrics.update(**given)
    return {"texts": len(texts), **computed(metrics)}


def _by_id(rows: list[Row], column: str) -> Mapping[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        name = str(row.column(column))
        if name in found:
            raise DataError(
                f"{row.where}: the id {name!r} stands at {found[name].where} too; leave one out."
            )
        found[name] = row
    return found


def _text(row: Row, column: str) -> str:
    """Return an answer, which may be empty."""
    value = row.column(column)
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column {column!r} holds {value!r}, which is no text.")
    return value


def _reference(row: Row, action: str, column: str) -> str:
    if action != "necessity":
        return row.text(column)
    value = str(row.column(column)).strip().lower()
    said = {"1": "yes", "0": "no"}.get(value, value)
    if said not in ("yes", "no"):
        raise DataError(f"{row.where}: column {column!r} holds {value!r}, not 1, 0, yes or no.")
    return said
