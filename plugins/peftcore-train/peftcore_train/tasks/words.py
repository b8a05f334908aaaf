"""Rows that come in words or residues: which token begins which of them."""

from collections.abc import Sequence
from typing import Any

from peftcore import ConfigError, DataError, Loaded
from peftcore_train.data import Row
from peftcore_train.text import LengthConfig, check_length, most_tokens, tokenizer_of


def words_of(value: Any, row: Row, column: str, *, residues: bool) -> list[str]:
    """Return the words or residues that a column holds.

    Args:
        value: a list of texts, or one text: a sequence of residues, or words between blanks.
        row: the row.
        column: name of the column, for messages.
        residues: a text is a sequence, in which blanks do not count.

    Raises:
        DataError: it is neither, is empty, or one of the words is.
    """
    if isinstance(value, str):
        value = list("".join(value.split())) if residues else value.split()
    elif not isinstance(value, list):
        raise DataError(f"{row.where}: column {column!r} holds {value!r}, no text and no list.")
    if not value:
        raise DataError(f"{row.where}: column {column!r} is empty.")
    for place, word in enumerate(value, 1):
        if not isinstance(word, str) or not word.strip():
            raise DataError(f"{row.where}: column {column!r} holds {word!r} at place {place}.")
    return value


def encode_words(
    config: LengthConfig, row: Row, words: Sequence[str], loaded: Loaded, *, blank: str
) -> tuple[dict[str, list[int]], list[int | None]]:
    """Return the model's inputs for words, and the token that each word begins with.

    A word that was cut off, or that the tokenizer drops, begins with no token.

    Args:
        config: length limit and truncation.
        row: the row, for messages.
        words: words or residues.
        loaded: the backbone, with its tokenizer.
        blank: what stands between two words in the text that the tokenizer reads.

    Raises:
        DataError: the row is longer than the model takes, and may not be cut.
        ConfigError: one token holds two words.
    """
    tokenizer = tokenizer_of(loaded)
    limit = most_tokens(config.max_length, loaded)
    cut: dict[str, Any] = {"truncation": False}
    if config.truncation and limit is not None:
        cut = {"truncation": True, "max_length": limit}
    text = blank.join(words)
    if tokenizer.is_fast:
        encoded = dict(tokenizer(text, verbose=False, return_offsets_mapping=True, **cut))
        spans = encoded.pop("offset_mapping")
        firsts = _by_offsets(text, _starts(words, blank), spans)
    else:
        encoded = dict(tokenizer(text, verbose=False, **cut))
        firsts = _by_pieces(tokenizer, words, encoded["input_ids"])
    check_length(len(encoded["input_ids"]), limit, row)
    begun = [first for first in firsts if first is not None]
    if len(set(begun)) < len(begun):
        raise ConfigError(
            f"{row.where}: the tokenizer of {loaded.source} joins neighbours into one token, which"
            " can have one label only. Set them apart with task.spaced: true, or take a model whose"
            " vocabulary has single residues."
        )
    return encoded, firsts


def _starts(words: Sequence[str], blank: str) -> list[int]:
    """Return where each word begins in the joined text."""
    starts, place = [], 0
    for word in words:
        starts.append(place)
        place += len(word) + len(blank)
    return starts


def _by_offsets(
    text: str, starts: Sequence[int], spans: Sequence[tuple[int, int]]
) -> list[int | None]:
    """Return for each word the first token with a character of it."""
    owner = [0] * len(text)
    for word, (start, stop) in enumerate(zip(starts, [*starts[1:], len(text)], strict=True)):
        owner[start:stop] = [word] * (stop - start)
    firsts: list[int | None] = [None] * len(starts)
    for token, (start, stop) in enumerate(spans):
        # some tokenizers count the blank before a word to it
        seen = {owner[i] for i in range(start, stop) if not text[i].isspace()}
        for word in seen:
            if firsts[word] is None:
                firsts[word] = token
    return firsts


def _by_pieces(tokenizer: Any, words: Sequence[str], ids: Sequence[int]) -> list[int | None]:
    """Return the same for a tokenizer that tells no offsets: it must cut word by word."""
    pieces = [tokenizer(w, add_special_tokens=False, verbose=False)["input_ids"] for w in words]
    flat = [token for piece in pieces for token in piece]
    special = tokenizer.num_special_tokens_to_add()
    inside = len(ids) - special
    before = next(
        (i for i in range(special + 1) if list(ids[i : i + inside]) == flat[:inside]), None
    )
    if before is None:
        raise ConfigError(
            f"{type(tokenizer).__name__} cuts a row otherwise than its words one by one, and tells"
            " no offsets; take a backbone with a fast tokenizer."
        )
    firsts: list[int | None] = []
    place = before
    for piece in pieces:
        firsts.append(place if piece and place < before + inside else None)
        place += len(piece)
    return firsts
