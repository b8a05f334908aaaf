"""Scoring a file of answers that were written elsewhere, or by ``peftcore predict``."""

from collections.abc import Sequence
from typing import Any

from peftcore import DataError, nearest
from peftcore_reasoning.extraction import Paper, answer_in, is_right
from peftcore_reasoning.sets import SETS, refusal_of
from peftcore_train.data import Row

#: Columns of what was written: LLM-Adapters' scripts, LoReFT's, ``peftcore predict``.
TEXTS = ("output_pred", "raw_generation", "predicted_output", "output")
_SHOWN = 5


def score(rows: Sequence[Row], name: str, paper: Paper, column: str | None) -> dict[str, Any]:
    """Return how many answers of a set are right.

    Args:
        rows: with what was written, and with ``answer``, what is right.
        name: the set.
        paper: whose rule finds an answer.
        column: where what was written stands; one of :data:`TEXTS` if not given.

    Raises:
        DataError: a row has no such columns, or its answer is none of the set's.
    """
    answers = SETS[name]
    column = column or next((text for text in TEXTS if text in rows[0].values), TEXTS[0])
    right = none = 0
    for row in rows:
        gold = str(row.column("answer")).strip()
        if wrong := refusal_of(gold, answers, name):
            raise DataError(f"{row.where}: the answer {wrong}.")
        written = row.column(column)
        if not isinstance(written, str):
            raise DataError(f"{row.where}: column {column!r} holds {written!r}, which is no text.")
        found = answer_in(written, answers, paper)
        right += is_right(found, gold, answers)
        none += not found
    accuracy = right / len(rows)
    return {"set": name, "rows": len(rows), "right": right, "unanswered": none,
            "accuracy": accuracy}  # fmt: skip


def joined(rows: Sequence[Row], gold: Sequence[Row]) -> list[Row]:
    """Return a row for every row of a set, with what was written for its ``id``.

    Raises:
        DataError: an id is missing, unknown, or there twice; nothing is scored then.
    """
    written = _by_id(rows)
    wanted = _by_id(gold)
    for name, row in written.items():
        if name not in wanted:
            raise DataError(f"{row.where}: the set has no id {name!r}.{nearest(name, wanted)}")
    if missing := [name for name in wanted if name not in written]:
        shown = ", ".join(map(repr, missing[:_SHOWN]))
        if len(missing) > _SHOWN:
            shown += " and others"
        file = rows[0].where.rpartition(":")[0]
        raise DataError(
            f"{file} has no answer for {len(missing)} of {len(wanted)} ids: {shown}. Add"
            " them, empty where nothing was written, so that they count as wrong."
        )
    return [
        Row({**written[name].values, "answer": row.column("answer")}, written[name].where)
        for name, row in wanted.items()
    ]


def _by_id(rows: Sequence[Row]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in rows:
        name = str(row.column("id"))
        if name in found:
            raise DataError(f"{row.where}: the id {name!r} stands at {found[name].where} already.")
        found[name] = row
    return found
