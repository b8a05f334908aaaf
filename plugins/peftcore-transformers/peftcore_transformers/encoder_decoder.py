"""Families of transformers' models in which a decoder writes what an encoder has read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from peftcore import Context, argument_names, base_modules, padding_id, read_call
from peftcore_transformers.backbone import TransformersBackbone


class EncoderDecoder(TransformersBackbone):
    """An encoder reads a sequence, and a decoder writes another one.

    Blocks of both sides are blocks, the encoder's first. So ``attention`` is the self-attention of
    both, and ``cross_attention`` the decoder's to the encoder. Targets name one side as ``stack``,
    and count its blocks from 0 then.

    Each side has a context of its own, read when its module is called, so that generation, which
    calls the encoder by itself, is told as a whole call is. What the encoder reads is a prompt
    throughout; a decoder's prompt is what it is given before it writes: a start token, of Whisper
    some more. With labels it ends at the token that predicts the first one. Real tokens of a
    decoder are those of its mask, without one those that predict a label or come before one.
    """

    has = ("tokens", "bidirectional", "cache", "own-queries")
    lacks = {"one-pass": "generation runs its encoder and its decoder apart"}
    stacks = {"encoder": "**.encoder", "decoder": "**.decoder"}
    writing_stack = "decoder"

    def entries(self, model: nn.Module) -> Mapping[str, str]:
        """Return the paths of the two sides; none of a model that has only one."""
        entry = model.get_submodule(self.entry(model))
        if "decoder_input_ids" not in argument_names(entry):
            return {}
        names = {id(module): path for path, module, _ in base_modules(model)}
        sides = {"encoder": entry.get_encoder(), "decoder": entry.get_decoder()}
        return {side: names[id(module)] for side, module in sides.items()}

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say what the call of a model that is one side alone tells."""
        call = {**dict(zip(argument_names(entry), args, strict=False)), **kwargs}
        causal = bool(getattr(getattr(entry, "config", None), "is_decoder", False))
        return read_call(call, causal=causal, padding=padding_id(entry))
