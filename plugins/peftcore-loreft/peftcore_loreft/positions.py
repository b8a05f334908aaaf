"""Which tokens of a batch are edited."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from peftcore import AttachError, Context
from peftcore_loreft.config import parse_positions


class Slots(NamedTuple):
    """Edited tokens, a fixed number of slots for each row of the batch.

    Attributes:
        tokens: [B S] the token of each slot, counted through the batch's B L tokens; an unused slot
            points at a prompt token.
        live: [B S, 1] bool, False at unused slots.
    """

    tokens: Tensor
    live: Tensor


class Positions:
    """Positions such as ``f7+l7``, shared by the pieces of one method: found once a forward.

    Attributes:
        text: as the configuration has it.
        parts: ``("prefix", "suffix")``, or the one of them that there is; empty for ``all``.
    """

    def __init__(self, text: str):
        self.text = text
        self._counts = parse_positions(text)
        counts = zip(("prefix", "suffix"), self._counts or (), strict=False)
        self.parts = tuple(part for part, count in counts if count)
        self._found: tuple[Context, torch.Size, dict[str, Slots]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Positions, (self.text,)

    def slots(self, hidden: Tensor, context: Context, part: str) -> Slots:
        """Return the slots of a part, ``prefix``, ``suffix`` or ``both``, of hidden [B, L, d]."""
        if torch.compiler.is_compiling():  # the compiler computes equal things once by itself
            return self._find(hidden, context)[part]
        found = self._found  # read once: replicas in threads share this object
        if found is None or found[0] is not context or found[1] != hidden.shape[:2]:
            found = self._found = context, hidden.shape[:2], self._find(hidden, context)
        slots = found[2][part]
        return Slots(slots.tokens.to(hidden.device), slots.live.to(hidden.device))

    def _find(self, hidden: Tensor, context: Context) -> dict[str, Slots]:
        assert self._counts is not None
        if context.offset:
            raise AttachError(
                f"positions {self.text} count from both ends of the prompt, but this call holds"
                f" only a part of it: {context.offset} tokens are in a cache already. Give the"
                " model the whole prompt in one call."
            )
        prompt = prompt_of(hidden, context)
        if prompt is None:
            prompt = hidden.new_ones(hidden.shape[:2], dtype=torch.bool)
        if context.sequences is not None and context.packed:
            return self._find_in_packed(prompt, context.sequences.to(prompt.device))
        length = prompt.sum(1, keepdim=True)
        rows, width = prompt.shape
        start = torch.arange(rows, device=prompt.device)[:, None] * width
        # the prompt's tokens come first
        order = start + (~prompt).byte().argsort(dim=1, stable=True)
        found = []
        for count, from_end in zip(self._counts, (False, True), strict=True):
            slot = torch.arange(min(count, width // 2), device=prompt.device)
            # first and last N overlap in no row: each has at most half of its prompt
            live = slot < length // 2
            place = torch.where(live, length - 1 - slot if from_end else slot, 0)
            found.append(Slots(order.gather(1, place).flatten(), live.reshape(-1, 1)))
        both = Slots(*(torch.cat(pair) for pair in zip(*found, strict=True)))
        return {"prefix": found[0], "suffix": found[1], "both": both}

    def _find_in_packed(self, prompt: Tensor, sequences: Tensor) -> dict[str, Slots]:
        """Find the positions of each sequence of a row; every token has a slot.

        Args:
            prompt: [B, L] bool, the prompts' tokens.
            sequences: [B, L] int, which of its row's sequences a token is of.
        """
        assert self._counts is not None
        values = prompt.long()
        lengths = torch.zeros_like(values).scatter_add(1, sequences, values)
        earlier = lengths.cumsum(1) - lengths
        number = values.cumsum(1) - earlier.gather(1, sequences) - 1  # within its prompt
        length = lengths.gather(1, sequences)
        tokens = torch.arange(prompt.numel(), device=prompt.device)
        live = []
        for count, place in zip(self._counts, (number, length - 1 - number), strict=True):
            chosen = prompt & (place < (length // 2).clamp_max(count))
            live.append(chosen.reshape(-1, 1))
        first, last = (Slots(tokens, part) for part in live)
        return {"prefix": first, "suffix": last, "both": Slots(tokens, live[0] | live[1])}


def prompt_of(hidden: Tensor, context: Context) -> Tensor | None:
    """Return the prompt's tokens, [B, L] bool; None where every token is one.

    Raises:
        AttachError: the sequence at this site is not the one that the batch's mask describes.
    """
    prompt = context.mask if context.prompt is None else context.prompt
    if prompt is None:
        return None
    if prompt.shape != hidden.shape[:-1]:
        raise AttachError(
            f"the prompt is known for {tuple(prompt.shape)} tokens, but the hidden states here are"
            f" of {tuple(hidden.shape[:-1])}; choose sites of the sequence that the model is given."
        )
    return prompt.to(hidden.device)
