"""Long contexts, cut into windows that overlap, and the best span in each."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peftcore import ConfigError, DataError, Loaded
from peftcore_train.data import Row
from peftcore_train.tasks.answers import Answer
from peftcore_train.text import most_tokens, tokenizer_of

Window = dict[str, Any]


def windows_of(config: Any, row: Row, loaded: Loaded, answers: Sequence[Answer]) -> list[Window]:
    """Return the model's inputs for each window of a row's context.

    Beside them stand ``in_context`` (1 for tokens of the context), ``begins`` and ``stops``
    (characters of the context, the last excluded, that each token spans), ``start`` and ``end``
    (first and last token of the answer; 0 in a window that does not hold it whole).

    Args:
        config: the ``task`` section.
        row: the row.
        loaded: the backbone, with its tokenizer.
        answers: one answer, or none.

    Raises:
        ConfigError: the tokenizer does not tell where its tokens are.
        DataError: the question leaves no room for the context.
    """
    tokenizer = tokenizer_of(loaded)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} does not tell where its tokens are in a text; take a"
            " backbone with a fast tokenizer."
        )
    question, context = row.text(config.question_column), row.text(config.context_column)
    cut: dict[str, Any] = {"truncation": False}
    if (limit := most_tokens(config.max_length, loaded)) is not None:
        asked = tokenizer(question, add_special_tokens=False, verbose=False)["input_ids"]
        used = len(asked) + tokenizer.num_special_tokens_to_add(pair=True)
        if (room := limit - used) < 1:
            raise DataError(
                f"{row.where}: the question has {used} tokens with those that mark it, and {limit}"
                " fit; nothing of the context is left. Shorten it."
            )
        stride = min(config.doc_stride, room // 2)
        cut = {"truncation": "only_second", "max_length": limit, "stride": stride}
        cut["return_overflowing_tokens"] = True
    encoded = tokenizer(
        question, context, verbose=False, return_offsets_mapping=True, padding=False, **cut
    )
    inputs = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded]
    windows = []
    for i, encoding in enumerate(encoded.encodings):
        several = bool(cut.get("return_overflowing_tokens"))
        window: Window = {n: encoded[n][i] if several else encoded[n] for n in inputs}
        window["in_context"] = [int(part == 1) for part in encoding.sequence_ids]
        spans = [_trimmed(context, *span) for span in encoding.offsets]
        window["begins"], window["stops"] = (list(side) for side in zip(*spans, strict=True))
        windows.append({**window, **_place_of(answers, window)})
    if not any(any(window["in_context"]) for window in windows):
        raise DataError(f"{row.where}: the tokenizer finds nothing to read in the context.")
    return windows


def best_spans(logits: Tensor, in_context: Tensor, longest: int) -> list[tuple[float, int, int]]:
    """Return the greatest sum of logits of each window, and the tokens at which it is.

    Args:
        logits: of first and last tokens, [W, L, 2].
        in_context: where an answer may be, [W, L].
        longest: most tokens of an answer.
    """
    length = logits.shape[1]
    place = torch.arange(length, device=logits.device)
    distance = place - place[:, None]
    band = (distance >= 0) & (distance < longest)
    found = []
    # one window at a time: L x L numbers each
    for one, inside in zip(logits, in_context, strict=True):
        sums = one[:, None, 0] + one[None, :, 1]
        allowed = band & inside[:, None] & inside
        sums = sums.masked_fill(~allowed, -torch.inf)
        score, at = sums.flatten().max(0)
        found.append((float(score), int(at) // length, int(at) % length))
    return found


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Leave out the blanks that some tokenizers count to a token."""
    while start < end and context[start : start + 1].isspace():
        start += 1
    return start, end


def _place_of(answers: Sequence[Answer], window: Window) -> dict[str, int]:
    """Return first and last token of an answer that lies in a window as a whole."""
    for text, begin in answers:
        stop = begin + len(text)
        spans = enumerate(zip(window["begins"], window["stops"], strict=True))
        held = [
            token
            for token, (start, end) in spans
            if window["in_context"][token] and start < min(stop, end) and end > begin
        ]
        if held and window["begins"][held[0]] <= begin and window["stops"][held[-1]] >= stop:
            return {"start": held[0], "end": held[-1]}
    return {"start": 0, "end": 0}
