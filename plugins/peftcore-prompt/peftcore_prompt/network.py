"""The pieces of prompt tuning: one around the network, one at its table of tokens."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Around, AttachError, Context, Transform
from peftcore_prompt.splicing import spliced, without


@dataclass(frozen=True)
class Places:
    """Where virtual tokens go.

    Attributes:
        at: how many tokens stay before them.
        count: their number P.
        positions: numbers of the positions that the model has a table of; None without one.
    """

    at: int
    count: int
    positions: range | None = None


class Handover(threading.local):
    """What the piece around the network hands to the one at the table; every thread has its own.

    Attributes:
        prompt: [P, d] vectors that take the place of placeholders; None where there are none.
        shape: (B, L + P) of what is to be embedded.
    """

    prompt: Tensor | None = None
    shape: tuple[int, ...] = ()

    def __reduce__(self) -> Any:
        return Handover, ()  # a copy is in no call


class Filled(Transform):
    """Put the prompt where placeholders were embedded, in the first look-up of a pass."""

    casts_itself = True

    def __init__(self, places: Places, handover: Handover):
        super().__init__()
        self.places = places
        self.handover = handover

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the embedded tokens, [B, L + P, d], with the prompt in place."""
        prompt, self.handover.prompt = self.handover.prompt, None
        if prompt is None:
            return hidden
        if hidden.shape[:2] != self.handover.shape:
            raise AttachError(
                f"{tuple(hidden.shape[:2])} tokens were embedded where the prompt was put among"
                f" {tuple(self.handover.shape)}. Activate one adapter with a prompt at a time, and"
                " route no rows through it."
            )
        at, count = self.places.at, self.places.count
        tokens = torch.cat([hidden[:, :at], hidden[:, at + count :]], dim=1)
        return spliced(tokens, at, prompt.to(hidden).expand(len(hidden), -1, -1))


class Prompted(Around):
    """Run the network on the prompt and the tokens, and cut the prompt off what it returns.

    The network sees [P; X] (Lester et al. 2021, section 2). Where tokens come as ids, placeholders
    keep the places until they are embedded, so that the model's own way with ids, positions and
    padding goes on. In generation the prompt goes in once and stays in the cache.

    Behind the class token it goes after the first token of a row, padding or not; before the row it
    needs no mask, but the model sees padding that no mask tells as it does without a prompt.
    """

    def __init__(
        self, width: int, names: tuple[str, ...], places: Places, handover: Handover,
        first: Callable[[], Tensor],
    ):  # fmt: skip
        """Make the piece.

        Args:
            width: width d of the vectors.
            names: names of the network's arguments.
            places: where the vectors go.
            handover: what leads to the piece at the table.
            first: gives the vectors to start from, [P, d].
        """
        super().__init__()
        self.needs = ("one-sequence", "mask") if places.at else ("one-sequence",)
        self.prompt = nn.Parameter(torch.zeros(places.count, width))
        self.names = names
        self.places = places
        self.handover = handover
        self.first = first

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Start from the vectors that were asked for."""
        self.prompt.copy_(self.first())

    def inner(self, context: Context) -> Context:
        """Return the context with virtual tokens, in the calls that put them in."""
        if context.offset or context.generated:
            return context
        return context.widened(self.places.at, self.places.count)

    def forward(self, call: Callable[..., Any], *args: Any, context: Context, **kwargs: Any) -> Any:
        """Run the network; its outputs are those of the tokens that were given.

        Raises:
            AttachError: the cache has a fixed size, the mask is not one of tokens, the model has
                too few positions, or its window is shorter than the row.
        """
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        name = "inputs_embeds" if given.get("input_ids") is None else "input_ids"
        tokens: Tensor = given[name]
        cached = _cached(given.get("past_key_values"))
        length = tokens.shape[1] + (0 if cached else self.places.count)
        self._check_room(cached + length)
        self._check_window(cached + length, context.window)
        mask = given.get("attention_mask")
        if mask is not None:
            given["attention_mask"] = self._mask(mask)
        positions = given.get("position_ids")
        if positions is not None:
            given["position_ids"] = self._positions(positions, cached=bool(cached))
        if cached:
            return call(**given)
        types = given.get("token_type_ids")
        if types is not None:
            given["token_type_ids"] = self._repeated(types)
        at, count = self.places.at, self.places.count
        if name == "input_ids":
            given[name] = self._repeated(tokens)
            self.handover.prompt, self.handover.shape = self.prompt, given[name].shape
        else:
            prompt = self.prompt.to(tokens).expand(len(tokens), -1, -1)
            given[name] = spliced(tokens, at, prompt)
        try:
            return without(call(**given), at, count, length)
        finally:
            self.handover.prompt = None

    def _repeated(self, ids: Tensor) -> Tensor:
        """Return ids, [B, L + P]: a virtual token has those of the first token of its row."""
        return spliced(ids, self.places.at, ids[:, :1].expand(-1, self.places.count))

    def _mask(self, mask: Any) -> Tensor:
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise AttachError(
                "a prompt needs an attention mask of tokens, [rows, tokens]; this one is made for"
                " attention already. Give the model the mask of the tokenizer."
            )
        return spliced(mask, self.places.at, mask.new_ones(len(mask), self.places.count))

    def _positions(self, positions: Tensor, *, cached: bool) -> Tensor:
        """Return positions, [B, L], moved behind the virtual tokens, and theirs before them."""
        at, count = self.places.at, self.places.count
        if cached:
            return positions + count
        start = self.places.positions.start if self.places.positions else 0
        first = positions[:, at - 1 : at] + 1 if at else torch.full_like(positions[:, :1], start)
        virtual = first + torch.arange(count, device=positions.device)
        return torch.cat([positions[:, :at], virtual, positions[:, at:] + count], dim=1)

    def _check_room(self, needed: int) -> None:
        known = self.places.positions
        if known is not None and needed > len(known):
            raise AttachError(
                f"{needed} tokens, {self.places.count} virtual ones among them, are more than the"
                f" {len(known)} positions of this model. Shorten the rows, or take fewer virtual"
                " tokens."
            )

    def _check_window(self, needed: int, window: int | None) -> None:
        if window is not None and needed - self.places.at > window:
            raise AttachError(
                f"{needed} tokens, {self.places.count} virtual ones among them, are more than the"
                f" {window} over which attention slides in every layer of this model, so that the"
                " last tokens would not see the prompt. Shorten the rows, or choose a method whose"
                " vectors all tokens see, such as prefix."
            )


def _cached(cache: Any) -> int:
    """Return the number of tokens in a cache."""
    if cache is None:
        return 0
    if getattr(cache, "is_compileable", False):
        raise AttachError(
            "a static cache is as large as the tokens that were asked for and has no room for the"
            " virtual ones. Generate with the default, dynamic cache."
        )
    return int(cache.get_seq_length())
