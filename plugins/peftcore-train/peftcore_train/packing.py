"""Several rows in one row of a batch: nothing is padded, and none sees another."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from peftcore_train.logits import IGNORED


def bins(lengths: Sequence[int]) -> list[list[int]]:
    """Return rows that share a row of the batch, none longer than the longest of all.

    First fit, the longest first: at most 11/9 of the rows that would do (Johnson 1973).
    """
    width = max(lengths)
    found: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fits = (i for i, free in enumerate(room) if free >= lengths[row])
        place = next(fits, None)
        if place is None:
            found.append([row])
            room.append(width - lengths[row])
        else:
            found[place].append(row)
            room[place] -= lengths[row]
    return found


def packed(rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Return rows packed into as few as possible, with the positions of each, all [R, L].

    transformers makes a mask of its own where positions begin anew and no mask is given, so none
    is. What is left at the end of a row is one more sequence, of which nothing is predicted.

    Args:
        rows: ``input_ids``, ``labels`` and ``prompt_length`` of each row.

    Returns:
        ``input_ids``, ``position_ids``, ``labels``, ``sequence_rows`` (the row of each token), and
        ``prompt`` (True at the tokens of a prompt).
    """
    groups = bins([len(row["input_ids"]) for row in rows])
    shape = len(groups), max(len(row["input_ids"]) for row in rows)
    out = {
        # any real token will do: models take the one that pads for a sign of padding
        "input_ids": torch.full(shape, rows[0]["input_ids"][0]),
        "position_ids": torch.zeros(shape, dtype=torch.long),
        "labels": torch.full(shape, IGNORED),
        "sequence_rows": torch.zeros(shape, dtype=torch.long),
        "prompt": torch.zeros(shape, dtype=torch.bool),
    }
    for line, group in enumerate(groups):
        at = 0
        for row in group:
            ids, labels = rows[row]["input_ids"], list(rows[row]["labels"])
            labels[0] = IGNORED  # what is before it is of another row
            part = slice(at, at + len(ids))
            out["input_ids"][line, part] = torch.tensor(ids)
            out["position_ids"][line, part] = torch.arange(len(ids))
            out["labels"][line, part] = torch.tensor(labels)
            out["sequence_rows"][line, part] = row
            out["prompt"][line, at : at + rows[row]["prompt_length"]] = True
            at += len(ids)
        out["position_ids"][line, at:] = torch.arange(shape[1] - at)
    return out
