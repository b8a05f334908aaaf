"""Answers that are parts of a context, as SQuAD and flat tables hold them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from peftcore import DataError
from peftcore_train.data import Row


class Answer(NamedTuple):
    """A part of a context: its text, and the character at which it begins, from 0."""

    text: str
    start: int


def answers_of(
    row: Row, column: str, start_column: str | None, context_column: str
) -> list[Answer]:
    """Return the answers of a row; none where there is none.

    Args:
        row: the row.
        column: column of ``{text: [...], answer_start: [...]}``, or of one text.
        start_column: column of where a text begins; without it the text occurs once.
        context_column: column of the context.

    Raises:
        DataError: the column holds something else, or an answer is not where it is said to be.
    """
    value = row.column(column)
    context = row.text(context_column)
    if isinstance(value, str):
        if not value:
            return []
        start = (
            _only_place(value, context, row) if start_column is None else row.column(start_column)
        )
        found = [Answer(value, _whole(start, row))]
    else:
        found = _squad(value, row, column)
    for answer in found:
        if context[answer.start : answer.start + len(answer.text)] != answer.text:
            raise DataError(
                f"{row.where}: the context has {context[answer.start :][: len(answer.text)]!r} at"
                f" character {answer.start}, not the answer {answer.text!r}. Count from 0."
            )
    return found


def check_answers(answers: Sequence[Answer], row: Row, *, none: bool) -> None:
    """Raise DataError where there is no answer and there may not be none."""
    if not (answers or none):
        raise DataError(
            f"{row.where}: there is no answer, but the training rows all have one. Write"
            " task.no_answer: true, or leave the row out."
        )


def _squad(value: Any, row: Row, column: str) -> list[Answer]:
    texts = value.get("text") if isinstance(value, dict) else None
    starts = value.get("answer_start") if isinstance(value, dict) else None
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(
            f"{row.where}: column {column!r} holds {value!r}, neither a text nor"
            " {text: [...], answer_start: [...]} with as many of both."
        )
    for text in texts:
        if not isinstance(text, str) or not text:
            raise DataError(f"{row.where}: column {column!r} holds the answer {text!r}.")
    return [Answer(t, _whole(s, row)) for t, s in zip(texts, starts, strict=True)]


def _only_place(text: str, context: str, row: Row) -> int:
    times = context.count(text)
    if not times:
        raise DataError(
            f"{row.where}: the answer {text!r} is not in the context. Correct one of the two, or"
            " leave the row out."
        )
    if times != 1:
        raise DataError(
            f"{row.where}: the answer {text!r} occurs {times} times in the context; say with"
            " task.start_column where it begins."
        )
    return context.index(text)


def _whole(value: Any, row: Row) -> int:
    """Return a place; a table holds it as text."""
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{row.where}: an answer begins at {value!r}, which is no character.")
    return value
