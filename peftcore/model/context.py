"""What a piece may know of the batch that is running."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(eq=False)
class Context:
    """Facts about the current call of the backbone, made once for each call.

    Attributes:
        mask: [B, L] bool, True at real tokens among the L tokens of this call.
        prompt: [B, L] bool, True at the tokens of the prompt; edits of hidden states act there.
        generated: every token of this call was generated (a cached decoding step).
        offset: number of tokens of each row that came in earlier calls and are in a cache; 1 where
            it holds some and does not tell how many.
        group: where a module runs for the rows of one routed adapter alone, the number of that
            adapter among those routed, -1 for the bare base; None where all rows run together.
        sequences: [B, L] int, which of the sequences of its row a token is of, from 0; None where
            the call tells of one a row.
        unmasked: [] bool, rows begin or end with padding that no mask tells; None where nothing
            of the kind could be seen.
        window: how many tokens a token sees at most, where attention slides in every layer.
        batch: number of rows of the call, where rows have adapters of their own.
        memory: of a stack that reads what another one made of its tokens, the context of those;
            cross-attention computes its keys and values of them.
        call: in a stack with a context of its own, that of the entry's call which it is a part of.
    """

    mask: Tensor | None = None
    prompt: Tensor | None = None
    generated: bool = False
    offset: int = 0
    group: int | None = None
    sequences: Tensor | None = None
    unmasked: Tensor | None = None
    window: int | None = None
    batch: int | None = None
    memory: "Context | None" = field(default=None, repr=False)
    call: "Context | None" = field(default=None, repr=False)
    _packed: bool | None = field(default=None, repr=False)
    _rows: dict[Any, tuple[Tensor, "Context"]] = field(default_factory=dict, repr=False)
    _kept: dict[Any, list[Any]] = field(default_factory=dict, repr=False)

    @property
    def packed(self) -> bool:
        """Whether a row holds several sequences; in a compiled graph, whether one may."""
        if self.sequences is None or torch.compiler.is_compiling():
            return self.sequences is not None
        if self._packed is None:
            self._packed = bool(self.sequences.any())
        return self._packed

    def keep(self, piece: nn.Module, value: Any) -> None:
        """Keep something of this call for ``peftcore_extra_loss`` of the piece's method.

        It is dropped once that hook has been called, or with the next call of the model, and is
        never copied or pickled. A checkpointed block keeps it twice, and the value of the first
        time has no gradient: take penalties of activations without gradient checkpointing.
        """
        self._kept.setdefault(piece, []).append(value)

    def kept(self, piece: nn.Module) -> list[Any]:
        """Return what a piece has kept in this call so far, for another piece that refers to it."""
        return self._kept.get(piece, [])

    def take_kept(self, pieces: Iterable[nn.Module]) -> dict[Any, list[Any]]:
        """Return what pieces kept in this call, and forget it."""
        return {piece: self._kept.pop(piece) for piece in pieces if piece in self._kept}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": {}, "_kept": {}}

    def elsewhere(self) -> "Context":
        """Return the context of a stack whose tokens and rows are others: nothing is known."""
        return Context(group=self.group, _kept=self._kept)

    def inside(self, call: "Context | None") -> "Context":
        """Return this context as that of a stack inside of a call of the entry, or alone."""
        self.call = call
        if call is not None:
            self._kept = call._kept
        return self

    def read(self) -> "Context":
        """Return the context of what cross-attention reads; this one where nothing is told of it.

        It belongs to the same call, so that what is kept in one of them is kept in both.
        """
        if self.memory is None:
            return self
        self.memory.batch, self.memory._kept = self.batch, self._kept
        return self.memory

    def rows(self, index: Tensor, group: int | None = None) -> "Context":
        """Return the context of some rows of the batch; the same one for the same index."""
        group = self.group if group is None else group
        found = self._rows.get((id(index), group))
        if found is None:

            def picked(tensor: Tensor | None) -> Tensor | None:
                return None if tensor is None else tensor[index]

            part = replace(
                self, mask=picked(self.mask), prompt=picked(self.prompt), group=group,
                sequences=picked(self.sequences), _rows={},
                memory=None if self.memory is None else self.memory.rows(index, group),
            )  # fmt: skip
            # the index is kept alive with its context: its id stays its own
            found = self._rows[id(index), group] = (index, part)
        return found[1]

    def widened(self, at: int, count: int) -> "Context":
        """Return the context of a sequence into which virtual tokens were put.

        They count as real tokens and as no part of the prompt, so that nothing is edited there.

        Args:
            at: how many tokens stay before them.
            count: their number.
        """

        def wider(tensor: Tensor | None, value: int) -> Tensor | None:
            if tensor is None:
                return None
            new = tensor.new_full((tensor.shape[0], count), value)
            return torch.cat([tensor[:, :at], new, tensor[:, at:]], dim=1)

        return replace(
            self, mask=wider(self.mask, True), prompt=wider(self.prompt, False),
            sequences=wider(self.sequences, 0), _rows={},
        )  # fmt: skip
