"""Plain protein sequences to tokens, for vocabularies with one token a residue."""

from collections.abc import Mapping, Sequence
from typing import Any

from peftcore import ConfigError, DataError
from peftcore_train.residues import STANDARD, Changed, Rare, residues


def tokenize(
    sequences: Sequence[str],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    rare: Rare = "x",
    changed: Changed | None = None,
) -> list[list[int]]:
    """Turn sequences into token ids, special tokens included.

    Serves ESM's tokenizer and BERT's with a residue vocabulary (AntiBERTy, ProtBERT), which would
    lower-case a plain sequence and take it for one unknown word. What else is written otherwise is
    read as :func:`peftcore_train.residues.residues` says: case, gaps, stops, rare residues.

    Args:
        sequences: one-letter sequences, such as ``EVQLVESGGG``.
        tokenizer: a transformers' tokenizer.
        max_length: longest row, special tokens included; longer sequences lose their end.
        rare: what becomes of rare residues that the vocabulary lacks.
        changed: where what was changed is counted.

    Raises:
        DataError: a sequence is empty or holds something that is no residue; it names the row,
            counted from 1.
        ConfigError: the tokenizer has no tokens for residues.

    Example:
        >>> tokenize(["EVQL"], tokenizer)  # doctest: +SKIP
        [[0, 9, 7, 16, 4, 2]]
    """
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    lacking = [residue for residue in STANDARD if residue not in vocabulary]
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
        try:
            letters, now = residues(sequence, vocabulary, rare)
        except DataError as error:
            raise DataError(f"row {row}: {error}") from None
        if changed is not None:
            changed.update(now)
        rows.append([*before, *(vocabulary.get(r, unknown) for r in letters[:room]), *after])
    return rows
