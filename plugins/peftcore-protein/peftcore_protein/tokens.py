"""Plain protein sequences to tokens, for vocabularies with one token a residue."""

from collections.abc import Mapping, Sequence
from typing import Any

from peftcore import ConfigError, DataError

_STANDARD = "ACDEFGHIKLMNPQRSTVWY"
_GAPS = str.maketrans("", "", "-.")


def tokenize(
    sequences: Sequence[str], tokenizer: Any, *, max_length: int | None = None
) -> list[list[int]]:
    """Turn sequences into token ids, special tokens included.

    Serves ESM's tokenizer and BERT's with a residue vocabulary (AntiBERTy, ProtBERT), which would
    lower-case a plain sequence and take it for one unknown word. White space, gaps (``-``, ``.``)
    and a final stop (``*``) are dropped; lower case counts as upper. A residue that the vocabulary
    lacks becomes ``X``, or the unknown token where there is no ``X``.

    Args:
        sequences: one-letter sequences, such as ``EVQLVESGGG``.
        tokenizer: a transformers' tokenizer.
        max_length: longest row, special tokens included; longer sequences lose their end.

    Raises:
        DataError: a sequence is empty or holds something that is no residue; it names the row,
            counted from 1.
        ConfigError: the tokenizer has no tokens for residues.

    Example:
        >>> tokenize(["EVQL"], tokenizer)  # doctest: +SKIP
        [[0, 9, 7, 16, 4, 2]]
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    lacking = [residue for residue in _STANDARD if residue not in vocabulary]
    if lacking:
        raise ConfigError(
            f"the tokenizer has no token for the residues {', '.join(lacking)}: it is not that of a"
            " protein model. Take the tokenizer of the protein model's own folder."
        )
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    before = [] if tokenizer.cls_token_id is None else [tokenizer.cls_token_id]
    after = [] if end is None else [end]
    room = None if max_length is None else max_length - len(before) - len(after)
    unknown = vocabulary.get("X", tokenizer.unk_token_id)
    rows = []
    for row, sequence in enumerate(sequences, 1):
        residues = _residues(sequence, row)[:room]
        rows.append([*before, *(vocabulary.get(r, unknown) for r in residues), *after])
    return rows


def _residues(sequence: str, row: int) -> str:
    residues = "".join(sequence.split()).upper().removesuffix("*").translate(_GAPS)
    if not residues:
        raise DataError(f"row {row}: the sequence is empty. Drop the row, or fill it in.")
    for place, letter in enumerate(residues, 1):
        if not ("A" <= letter <= "Z"):
            hint = " Cut the sequence there." if letter == "*" else ""
            raise DataError(f"row {row}: {letter!r} at residue {place} is no residue.{hint}")
    return residues
