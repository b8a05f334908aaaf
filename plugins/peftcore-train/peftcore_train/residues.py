"""Protein sequences as people write them, in the letters that a model's vocabulary has.

What is changed is told by name, so that it can be counted. :data:`NEAREST` has the table.
"""

from collections import Counter
from collections.abc import Container, Mapping
from typing import Any, Literal

from peftcore import DataError

#: The twenty residues of the genetic code.
STANDARD = "ACDEFGHIKLMNPQRSTVWY"
#: The standard residue that is nearest to a rare one, or the likelier of the two that it stands
#: for: selenocysteine, pyrrolysine, Asn or Asp, Gln or Glu, Leu or Ile.
NEAREST: Mapping[str, str] = {"U": "C", "O": "K", "B": "D", "Z": "E", "J": "L"}
_ANY = "X"
Rare = Literal["x", "nearest", "refuse"]
Changed = Counter[str]


def is_of_residues(vocabulary: Mapping[str, Any]) -> bool:
    """Tell whether every word of a vocabulary is one upper-case letter, the residues among them."""
    words = [token for token in vocabulary if token.isalpha()]
    one = all(len(token) == 1 and token.isupper() for token in words)
    return one and all(residue in vocabulary for residue in STANDARD)


def residues(text: str, known: Container[str], rare: Rare = "x") -> tuple[str, Changed]:
    """Return a sequence in upper-case letters, and how often what was changed.

    Blanks, line breaks, gaps (``-``, ``.``) and a stop (``*``) at the end are dropped. A rare
    residue that the vocabulary has stays as it is; else it becomes ``X``, or the nearest standard
    one.

    Args:
        text: the sequence.
        known: the vocabulary.
        rare: what becomes of rare residues that it lacks.

    Raises:
        DataError: nothing is left, or there is something that is no residue.
    """
    changed: Changed = Counter()
    sequence = _counted("blanks dropped", "".join(text.split()), text, changed)
    if lower := sum(letter.islower() for letter in sequence):
        changed["lower case read as upper"] += lower
    sequence = sequence.upper()
    sequence = _counted("stops (*) at the end dropped", sequence.rstrip("*"), sequence, changed)
    plain = sequence.replace("-", "").replace(".", "")
    sequence = _counted("gaps (- .) dropped", plain, sequence, changed).rstrip("*")
    if not sequence:
        raise DataError("the sequence is empty. Drop the row, or fill it in.")
    for place, letter in enumerate(sequence, 1):
        if not "A" <= letter <= "Z":
            hint = " Cut the sequence there." if letter == "*" else ""
            raise DataError(f"{letter!r} at residue {place} is no residue.{hint}")
    for letter in sorted(set(sequence)):
        if letter not in known and letter != _ANY:
            sequence = _replaced(sequence, letter, known, rare, changed)
    return sequence, changed


def _replaced(
    sequence: str, letter: str, known: Container[str], rare: Rare, changed: Changed
) -> str:
    if rare == "refuse":
        raise DataError(f"the vocabulary has no residue {letter}; see rare_residues.")
    new = NEAREST.get(letter, _ANY) if rare == "nearest" else _ANY
    if new not in known and new == _ANY:
        changed[f"{letter}, for which the vocabulary has no token"] += sequence.count(letter)
    else:
        changed[f"{letter} read as {new}"] += sequence.count(letter)
    return sequence.replace(letter, new)


def _counted(name: str, after: str, before: str, changed: Changed) -> str:
    if dropped := len(before) - len(after):
        changed[name] += dropped
    return after
