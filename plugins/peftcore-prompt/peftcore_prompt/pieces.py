"""The pieces that run a block on a longer sequence."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Around, AttachError, Context
from peftcore_prompt.splicing import Widening, spliced, without


class Wider(Around):
    """Run a block on a sequence with P virtual tokens in it: [before; P; rest].

    What else the block is given (masks, biases, rotations) grows with the sequence.

    Args:
        names: names of the block's arguments; the first is the sequence.
        at: how many tokens stay before the virtual ones.
        count: number P of virtual tokens.
        enters: they are put in here, otherwise an earlier block did.
        leaves: they are taken out after the block.
    """

    needs = ("one-sequence", "rows-first")

    def __init__(self, names: tuple[str, ...], at: int, count: int, *, enters: bool, leaves: bool):
        super().__init__()
        self.names = names
        self.widening = Widening(at, count)
        self.enters = enters
        self.leaves = leaves

    def tokens(self, sequence: Tensor) -> Tensor:
        """Return the tokens to put in, [B, P, d]."""
        raise NotImplementedError

    def inner(self, context: Context) -> Context:
        """Return the context of the longer sequence."""
        return context.widened(self.widening.at, self.widening.count)

    def forward(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the block; the sequence is the first element of what it returns."""
        first, *names = self.names
        sequence: Tensor = args[0] if args else kwargs.pop(first)
        _check(sequence)
        at, count = self.widening.at, self.widening.count
        length = sequence.shape[1]
        if self.enters:
            sequence = spliced(sequence, at, self.tokens(sequence))
        else:
            length -= count
        rest = [
            self.widening.of(name, value, length)
            for name, value in zip(names, args[1:], strict=False)
        ]
        rest += args[1 + len(names) :]
        named = {name: self.widening.of(name, value, length) for name, value in kwargs.items()}
        out = call(sequence, *rest, **named)
        if not self.leaves:
            return out
        if isinstance(out, Tensor):
            return without(out, at, count, length + count)
        return type(out)((without(out[0], at, count, length + count), *out[1:]))


def _check(sequence: Tensor) -> None:
    if sequence.is_nested:
        raise AttachError(
            "tokens cannot go into a nested tensor. Build the encoder with"
            " enable_nested_tensor=False, or set its use_nested_tensor to False."
        )
    if sequence.dim() != 3:
        raise AttachError(
            "tokens go into [rows, tokens, features], but a block was given a tensor of"
            f" {sequence.dim()} axes. Leave it out with exclude."
        )


def projection(width: int, out: int) -> nn.Linear:
    """Return the layer from d' to d that all tokens share, at its start."""
    linear = nn.Linear(width, out)
    nn.init.kaiming_normal_(linear.weight, mode="fan_out")
    return linear


class Tokens(Wider):
    """Learned tokens of a block, [P, d], dropped after it (Jia et al. 2022, eq. 6 and 7).

    Where every block has tokens of its own, dropping them after a block and putting others in
    before the next one is the paper's replacement.

    Args:
        names, at, leaves: as above.
        shape: (P, d), or (P, d') where a projection widens the tokens.
        bound: they start uniform within it.
        dropout: on the tokens as they go in.
        projection: the layer from d' to d, if there is one.
    """

    def __init__(
        self, names: tuple[str, ...], at: int, shape: tuple[int, int], bound: float, *,
        dropout: float = 0.0, leaves: bool = True, projection: nn.Linear | None = None,
    ):  # fmt: skip
        super().__init__(names, at, shape[0], enters=True, leaves=leaves)
        self.prompt = nn.Parameter(torch.zeros(shape))
        self.bound = bound
        self.dropout = dropout
        self.projection = projection

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the tokens."""
        self.prompt.uniform_(-self.bound, self.bound)

    def tokens(self, sequence: Tensor) -> Tensor:
        """Return the tokens of each row, [B, P, d], in the dtype of the sequence."""
        tokens = self.prompt.to(sequence)
        if self.projection is not None:
            weight, bias = (p.to(sequence) for p in self.projection.parameters())
            tokens = F.linear(tokens, weight, bias)
        return F.dropout(tokens.expand(len(sequence), -1, -1), self.dropout, self.training)
