"""Which tokens of a call are the prompt's, where the caller said so or the model generates."""

from __future__ import annotations

import torch
from torch import Tensor

from peftcore.errors import AttachError
from peftcore.model.context import Context


def within(context: Context, columns: int) -> Tensor | None:
    """Return the real tokens in the leading columns of the input, [B, L] bool.

    Args:
        context: of the call.
        columns: their number, those in a cache counted in.
    """
    if context.mask is None:
        return None
    column = torch.arange(context.mask.shape[1], device=context.mask.device)
    return context.mask & (column + context.offset < columns)


def prompt_for(context: Context, lengths: Tensor) -> Tensor:
    """Return the tokens of the prompt that the caller said, [B, L] bool.

    Args:
        context: of the call.
        lengths: [B] leading real tokens, or [B, L] which tokens.

    Raises:
        AttachError: they are none of this call's rows or tokens, or its tokens are not known.
    """
    mask = context.mask
    if mask is None or (context.packed and lengths.dim() == 1):
        lacking = "nothing tells its tokens" if mask is None else "a row holds several sequences"
        raise AttachError(
            f"peftcore.prompt gives a length for each row, but {lacking} in this call. Give"
            " rows of one sequence as input_ids or inputs_embeds, a mask of the prompts' tokens"
            " instead of lengths, or the model a backbone plugin whose context has the mask."
        )
    times, rest = divmod(mask.shape[0], lengths.shape[0])
    if rest or not times or lengths.shape[1:] not in ((), mask.shape[1:]):
        said = " x ".join(map(str, lengths.shape))
        raise AttachError(
            f"{said} prompt lengths for a batch of {mask.shape[0]} rows of {mask.shape[1]} tokens."
        )
    lengths = lengths.to(mask.device).repeat_interleave(times, 0)
    return mask & (lengths if lengths.dim() == 2 else mask.cumsum(1) <= lengths[:, None])
