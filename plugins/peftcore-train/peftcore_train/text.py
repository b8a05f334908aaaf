"""What the tasks on tokens share: length limits, encoding and padding."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from peftcore import ConfigError, DataError, Loaded, Strict
from peftcore_train.data import Row
from peftcore_train.residues import Changed, Rare, is_of_residues, residues

#: Model types whose positions start behind the padding index, so that fewer tokens fit.
_OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "esm", "longformer", "data2vec-text")


class LengthConfig(Strict):
    """Fields of every task on tokens."""

    max_length: int | None = Field(
        None, ge=1, description="Most tokens of a row; what the model takes, if not given."
    )
    truncation: bool = Field(
        False, description="Cut rows that are longer; without it a longer row is an error."
    )


class TokenConfig(LengthConfig):
    """Fields of tasks whose texts may be sequences of residues."""

    spaced: bool = Field(
        False,
        description="Put a blank between characters, for vocabularies of single characters. That is"
        " done for a vocabulary of residues in any case.",
    )
    residues: bool | None = Field(
        None,
        description="Read texts as sequences of residues: upper case, without gaps and stops. Found"
        " from the vocabulary, if not given.",
    )
    rare_residues: Rare = Field(
        "x",
        description="What U, O, B, Z and J become where the vocabulary lacks them: `x`, the"
        " `nearest` residue (C, K, D, E, L), or an error (`refuse`).",
    )


def token_limit(config: Any) -> int | None:
    """Return how many tokens the model of a configuration takes, or None for no limit."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or getattr(config, "position_embedding_type", "absolute") == "rotary":
        return None
    if getattr(config, "model_type", "") in _OFFSET_POSITIONS:
        limit -= (config.pad_token_id or 0) + 1
    return int(limit)


def tokenizer_of(loaded: Loaded) -> Any:
    """Return the tokenizer of a backbone.

    Raises:
        ConfigError: it was loaded without one.
    """
    if loaded.tokenizer is None:
        raise ConfigError(
            f"backbone.source {loaded.source}: no tokenizer there. Save one beside the weights with"
            " tokenizer.save_pretrained."
        )
    return loaded.tokenizer


def most_tokens(max_length: int | None, loaded: Loaded) -> int | None:
    """Return the most tokens of a row, by the recipe and the model.

    Raises:
        ConfigError: the recipe asks for more than the model takes.
    """
    config = getattr(loaded.model, "config", None)
    check_max_length(max_length, config)
    return token_limit(config) if max_length is None else max_length


def check_max_length(max_length: int | None, config: Any) -> None:
    """Raise ConfigError where a recipe asks for more tokens than a configuration's model takes."""
    limit = token_limit(config)
    if max_length is not None and limit is not None and max_length > limit:
        raise ConfigError(f"task.max_length is {max_length}, but the model takes {limit} tokens.")


def encode_text(
    config: TokenConfig, row: Row, columns: Sequence[str], loaded: Loaded
) -> dict[str, Any]:
    """Return the model's inputs for the texts of a row, special tokens included.

    What was changed in a sequence of residues is counted as ``changed``; ``cut`` says that the row
    was longer.

    Raises:
        DataError: the row is longer than the model takes, and may not be cut.
    """
    limit = most_tokens(config.max_length, loaded)
    changed: Changed = Counter()
    texts = [written(config, row, name, loaded, changed) for name in columns]
    tokenizer = tokenizer_of(loaded)
    encoded = dict(tokenizer(*texts, verbose=False, truncation=False))
    if config.truncation and limit is not None and len(encoded["input_ids"]) > limit:
        encoded = dict(tokenizer(*texts, verbose=False, truncation=True, max_length=limit))
        encoded["cut"] = True
    check_length(len(encoded["input_ids"]), limit, row)
    return {**encoded, "changed": dict(changed)} if changed else encoded


def written(config: TokenConfig, row: Row, column: str, loaded: Loaded, changed: Changed) -> str:
    """Return the text of a column as the tokenizer of a backbone reads it.

    Args:
        config: the fields of the task.
        row: the row.
        column: which.
        loaded: the backbone, with its tokenizer.
        changed: where what was changed in a sequence of residues is counted.

    Raises:
        DataError: there is no text, or a sequence holds something that is no residue.
    """
    text = row.text(column)
    letters = _letters_of(config, loaded)
    if letters is not None:
        try:
            text, now = residues(text, letters, config.rare_residues)
        except DataError as error:
            raise DataError(f"{row.where}: column {column!r}: {error}") from None
        changed.update(now)
        return " ".join(text)
    return " ".join("".join(text.split())) if config.spaced else text


def residues_one_by_one(
    config: TokenConfig, row: Row, column: str, found: Sequence[str], loaded: Loaded
) -> tuple[list[str], Changed]:
    """Return residues that have a label each as a vocabulary of residues has them, and the changes.

    Raises:
        DataError: one of them is none, or a gap, which no model reads and no label can be given to.
    """
    letters = _letters_of(config, loaded)
    changed: Changed = Counter()
    if letters is None:
        return list(found), changed
    out = []
    for place, residue in enumerate(found, 1):
        try:
            letter, now = residues(residue, letters, config.rare_residues)
        except DataError:
            letter, now = "", Counter()
        if len(letter) != 1:
            raise DataError(
                f"{row.where}: column {column!r}: {residue!r} at place {place} is no residue; leave"
                " it out together with its label."
            )
        out.append(letter)
        changed.update(now)
    return out, changed


def reads_residues(config: TokenConfig, loaded: Loaded) -> bool:
    """Tell whether texts are read as sequences of residues, a blank between two."""
    return _letters_of(config, loaded) is not None


def _letters_of(config: TokenConfig, loaded: Loaded) -> frozenset[str] | None:
    """Return the residues that a vocabulary has; None where texts are no sequences of residues."""
    letters, of_residues = _letters(tokenizer_of(loaded))
    wanted = of_residues if config.residues is None else config.residues
    return letters if wanted else None


@lru_cache(maxsize=4)
def _letters(tokenizer: Any) -> tuple[frozenset[str], bool]:
    """Return the tokens of one letter, and whether the vocabulary is of residues; once for each."""
    vocabulary = tokenizer.get_vocab()
    return frozenset(t for t in vocabulary if len(t) == 1), is_of_residues(vocabulary)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """Return the tokens of a text that something follows.

    It begins as the tokenizer lets texts begin, once, even where the text itself begins with that
    token, as what a chat template wrote does. Some tokenizers close every text; here none is.
    """
    begun = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    ids = list(tokenizer(text, add_special_tokens=not begun, verbose=False)["input_ids"])
    end = tokenizer.eos_token
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(end):
        ids.pop()
    return ids


def check_length(length: int, limit: int | None, row: Row) -> None:
    """Raise DataError where a row has more tokens than fit."""
    if limit is not None and length > limit:
        raise DataError(
            f"{row.where}: {length} tokens, but only {limit} fit. Cut it with task.truncation:"
            " true, or leave the row out."
        )


def padded(
    rows: Sequence[Mapping[str, list[int]]], fill: Mapping[str, int], *, left: bool = False
) -> dict[str, Tensor]:
    """Return [B, L] tensors of the named lists, padded to the longest row.

    Args:
        rows: features of each row.
        fill: name of each list to its padding value.
        left: pad on the left, as generation needs.
    """
    out = {}
    for name, value in fill.items():
        longest = max(len(row[name]) for row in rows)
        lists = []
        for row in rows:
            padding = [value] * (longest - len(row[name]))
            lists.append([*padding, *row[name]] if left else [*row[name], *padding])
        out[name] = torch.tensor(lists, dtype=torch.long)
    return out


def fills(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the padding value of each of the model's inputs that the rows hold."""
    values = {
        "input_ids": tokenizer.pad_token_id,
        "attention_mask": 0,
        "token_type_ids": tokenizer.pad_token_type_id,
    }
    return {name: value for name, value in values.items() if name in rows[0]}
