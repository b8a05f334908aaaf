"""Where the entry of a backbone leaves the context for its pieces."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.model.context import Context

if TYPE_CHECKING:
    from peftcore.model.backbones import Backbone


class ContextHolder:
    """The place where the entry of a backbone leaves the context for its pieces.

    Attributes:
        current: context of the call that is running, or that ran last.
        wanted: an active piece uses the context.
        columns: within ``generate``, how many leading columns of the input are the prompt.
        lengths: [B] number of leading real tokens that are the prompt, said by the caller.
    """

    def __init__(self, backbone: "Backbone"):
        self.backbone = backbone
        self.current = Context()
        self.wanted = False
        self.columns: int | None = None
        self.lengths: Tensor | None = None

    def begin(self, entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the context of a call that is about to run."""
        context = self.backbone.context(entry, args, kwargs)
        if self.columns is not None and context.offset >= self.columns:
            context.generated = True
        if context.mask is not None and not context.generated:
            if self.lengths is not None:
                lengths = self._lengths_for(context.mask)
                context.prompt = context.mask & (context.mask.cumsum(1) <= lengths[:, None])
            elif self.columns is not None:
                column = torch.arange(context.mask.shape[1], device=context.mask.device)
                context.prompt = context.mask & (column + context.offset < self.columns)
        self.current = context

    def _lengths_for(self, mask: Tensor) -> Tensor:
        assert self.lengths is not None
        times, rest = divmod(mask.shape[0], self.lengths.shape[0])
        if rest or not times:
            raise AttachError(
                f"{self.lengths.shape[0]} prompt lengths for a batch of {mask.shape[0]} rows."
            )
        return self.lengths.to(mask.device).repeat_interleave(times)
