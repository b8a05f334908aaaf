"""S2-LoRA: one low-rank pair shared by all layers, and sparse coefficients for each.

A reconstruction: only the abstract of Liu et al. 2024 could be read. That two low-rank matrices
are shared globally and that every weight has sparse rank coefficients of its own is theirs; how the
coefficients are kept sparse, how all starts, and what layers of other sizes do is chosen here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcore import MethodSpec, hookimpl

if TYPE_CHECKING:
    from peftcore import Adapter


@hookimpl
def peftcore_register_methods() -> MethodSpec:
    """Return the method ``s2lora``."""
    return MethodSpec(
        name="s2lora",
        summary="Sparse coefficients a layer, low-rank pair shared; mergeable; a reconstruction.",
        config="peftcore_s2lora.config:S2LoraConfig",
        method="peftcore_s2lora.method:S2Lora",
        paper="Liu et al. 2024, Sparsely Shared LoRA on Whisper, https://arxiv.org/abs/2309.11756",
        needs=("linear",),
    )


def effective(adapter: Adapter) -> int:
    """Return the number of parameters that matter: the shared pairs and the coefficients not 0."""
    from peftcore_s2lora.pieces import SharedLowRank

    pieces = [item.piece for item in adapter.placed if isinstance(item.piece, SharedLowRank)]
    dense = sum(p.numel() for pair in {piece.pair for piece in pieces} for p in pair.parameters())
    return dense + sum(int(piece.coefficients.count_nonzero()) for piece in pieces)
