"""What pieces need of a call, and the refusal of a call that does not have it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from peftcore.errors import AttachError
from peftcore.model.context import Context


def check_needs(context: Context, needs: Mapping[str, str]) -> None:
    """Refuse a call that lacks what an active piece needs.

    Args:
        context: of the call.
        needs: what is needed, to the name of a method that needs it.

    Raises:
        AttachError: it is lacking; in a compiled graph a RuntimeError with the same sentence.
    """
    if "one-sequence" in needs and context.sequences is not None:
        _refuse(
            context.sequences.any(),
            f"{needs['one-sequence']} needs one sequence in each row, and a row of this call holds"
            " several (told by position_ids, seq_idx, cu_seqlens or the mask). Give each sequence"
            " a row of its own, padded, with its attention_mask.",
        )
    if "mask" in needs and context.unmasked is not None:
        _refuse(
            context.unmasked,
            f"{needs['mask']} counts real tokens, and rows of this call begin or end with the token"
            " that pads while no attention_mask says so. Give the mask, as the tokenizer returns"
            " it.",
        )


def _refuse(wrong: Tensor, sentence: str) -> None:
    if torch.compiler.is_compiling():
        torch._assert_async(~wrong, sentence)
    elif wrong:
        raise AttachError(sentence)
