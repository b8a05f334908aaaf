"""In-silico mutagenesis: what every exchange of one residue would do to an output."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from peftcore import ConfigError
from peftcore_interpret.opened import Opened, Subject, logits_of
from peftcore_train.residues import STANDARD, is_of_residues

_BATCH = 32


def mutagenesis(run: Opened, one: Subject) -> dict[str, Any]:
    """Return the change of an output for each residue at each place, [20, L].

    Returns:
        ``residues``: the twenty. ``sequence``: the row's. ``change``: a line for each residue.

    Raises:
        ConfigError: the row is no sequence of residues.
    """
    column, sequence = sequence_of(run, one)
    mutants = [
        (number, place)
        for number, residue in enumerate(STANDARD)
        for place, there in enumerate(sequence)
        if residue != there
    ]
    change = [[0.0] * len(sequence) for _ in STANDARD]
    before = one.logits[one.output.index]
    for start in range(0, len(mutants), _BATCH):
        part = mutants[start : start + _BATCH]
        rows = [
            run.encode(replace(one.row, values=_mutated(one, column, sequence, place, number)))
            for number, place in part
        ]
        with torch.no_grad():
            after = one.output.of(logits_of(run.model, run.inputs(rows))).tolist()
        for (number, place), value in zip(part, after, strict=True):
            change[number][place] = value - before
    return {"residues": STANDARD, "sequence": sequence, "change": change}


def sequence_of(run: Opened, one: Subject) -> tuple[str, str]:
    """Return the column of the one sequence of a row, and the sequence.

    Raises:
        ConfigError: the row is something else.
    """
    columns = run.task.columns().inputs
    value = one.row.values.get(columns[0]) if len(columns) == 1 else None
    letters = "".join(value) if isinstance(value, list) else value
    letters = "".join(str(letters).split()).upper() if letters else ""
    single = getattr(run.task.config, "spaced", False) or is_of_residues(_vocabulary(run))
    if not single or not letters or set(letters) - set(STANDARD):
        raise ConfigError(
            f"{one.row.where}: mutagenesis exchanges residues, and the row is no one sequence"
            " of the twenty, read residue by residue; leave mutagenesis out."
        )
    return columns[0], letters


def _vocabulary(run: Opened) -> Mapping[str, Any]:
    tokenizer: Any = run.loaded.tokenizer
    found: Mapping[str, Any] = tokenizer.get_vocab()
    return found


def _mutated(
    one: Subject, column: str, sequence: str, place: int, number: int
) -> Mapping[str, Any]:
    changed = sequence[:place] + STANDARD[number] + sequence[place + 1 :]
    return {**one.row.values, column: changed}
