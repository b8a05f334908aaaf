"""What a piece may know of the batch that is running."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Context:
    """Facts about the current call of the backbone, made once for each call.

    Attributes:
        mask: [B, L] bool, True at real tokens among the L tokens of this call.
        prompt: [B, L] bool, True at the tokens of the prompt; edits of hidden states act there.
        generated: every token of this call was generated (a cached decoding step).
        offset: number of tokens of each row that came in earlier calls and are in a cache.
    """

    mask: Tensor | None = None
    prompt: Tensor | None = None
    generated: bool = False
    offset: int = 0
    _rows: dict[int, tuple[Tensor, "Context"]] = field(default_factory=dict, repr=False)

    def rows(self, index: Tensor) -> "Context":
        """Return the context of some rows of the batch; the same one for the same index."""
        found = self._rows.get(id(index))
        if found is None:
            part = Context(
                None if self.mask is None else self.mask[index],
                None if self.prompt is None else self.prompt[index],
                self.generated,
                self.offset,
            )
            # the index is kept alive with its context: its id stays its own
            found = self._rows[id(index)] = (index, part)
        return found[1]

    def widened(self, at: int, count: int) -> "Context":
        """Return the context of a sequence into which virtual tokens were put.

        They count as real tokens and as no part of the prompt, so that nothing is edited there.

        Args:
            at: how many tokens stay before them.
            count: their number.
        """

        def wider(tensor: Tensor | None, value: bool) -> Tensor | None:
            if tensor is None:
                return None
            new = tensor.new_full((tensor.shape[0], count), value)
            return torch.cat([tensor[:, :at], new, tensor[:, at:]], dim=1)

        mask, prompt = wider(self.mask, True), wider(self.prompt, False)
        return Context(mask, prompt, self.generated, self.offset)
