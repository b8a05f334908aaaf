"""Prompts inside blocks: visual prompt tuning and embedding prompts."""

from collections.abc import Sequence
from math import prod, sqrt

import torch
from torch import Tensor, nn

from peftcore import Method, Piece, Site, TargetError, hookimpl, trainable_dtype
from peftcore_prompt.config import EmbeddingPromptConfig, VptConfig
from peftcore_prompt.pieces import Projection, Tokens, Wider
from peftcore_prompt.splicing import argument_names

#: Channels, height and width of a patch, where the model has none.
_PATCH = (3, 16, 16)


class EmbeddingPrompt(Method):
    """Embedding prompts of PEFT-SER, Feng et al. 2023: tokens before the input of each block."""

    config: EmbeddingPromptConfig

    @hookimpl
    def peftcore_prepare(self, model: nn.Module, sites: Sequence[Site]) -> None:
        """Check the chosen blocks.

        Raises:
            TargetError: one of them cannot take further tokens.
        """
        _chosen(self, sites)

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        """Return the tokens of a chosen block."""
        if not site.matches(self.config.targets):
            return None
        count, width = self.config.num_virtual_tokens, site.layer.out_features
        # the released code's tensor is [1, p, d], and Xavier takes its last axis for a kernel
        bound = sqrt(6 / (width * (count + 1)))
        start = _empty(site, count, width).uniform_(-bound, bound)
        return Tokens(start, argument_names(site.module), 0)


class Vpt(Method):
    """Visual prompt tuning, Jia et al. 2022: [class token; P; patches] in one or all blocks."""

    config: VptConfig
    _blocks: list[Site]
    _bound: float
    _projection: Projection | None

    @hookimpl
    def peftcore_prepare(self, model: nn.Module, sites: Sequence[Site]) -> None:
        """Check the chosen blocks, and find the size of a patch.

        Raises:
            TargetError: one of the blocks cannot take further tokens, or not from its neighbours.
        """
        self._blocks = _chosen(self, sites)
        if not self.config.deep:
            self._check_shallow(sites)
        patch = next((s.layer.weight_shape[1:] for s in sites if s.role == "patch"), _PATCH)
        width = self.config.project or self._blocks[0].layer.out_features
        self._bound = sqrt(6 / (prod(patch) + width))
        self._projection = None

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        """Return the tokens of a chosen block; shallow, the first one's alone."""
        if not site.matches(self.config.targets):
            return None
        config, layer = self.config, site.layer
        names, count = argument_names(site.module), config.num_virtual_tokens
        first, last = (site.path == self._blocks[i].path for i in (0, -1))
        if not config.deep and not first:
            return Wider(names, config.after, count, enters=False, leaves=last)
        width = config.project or layer.out_features
        start = _empty(site, count, width).uniform_(-self._bound, self._bound)
        piece = Tokens(
            start, names, config.after, dropout=config.dropout, leaves=config.deep or last
        )
        if config.project is not None:
            owns = self._projection is None
            self._projection = self._projection or Projection(layer, config.project)
            piece.refer_to(self._projection, owns=owns)
        return piece

    def _check_shallow(self, sites: Sequence[Site]) -> None:
        where = [site.block or 0 for site in self._blocks]
        if where != list(range(where[0], where[0] + len(where))):
            raise TargetError(
                f"{self.label}.targets: blocks {where} are not next to each other, and shallow"
                " tokens go from block to block. Choose a range, or write deep: true."
            )
        network = next((site.module for site in sites if site.role == "model"), None)
        dropped = getattr(getattr(network, "config", None), "layerdrop", 0)
        if dropped:
            raise TargetError(
                f"{self.label}.deep: training leaves out blocks at random (layerdrop = {dropped})"
                " and shallow tokens go from block to block. Write deep: true, or load the model"
                " with layerdrop 0."
            )


def _chosen(method: Method, sites: Sequence[Site]) -> list[Site]:
    """Return the chosen blocks, checked."""
    chosen = [site for site in sites if site.matches(method.config.targets)]
    decoders = {site.block for site in sites if site.role.startswith("cross_attention")}
    for site in chosen:
        where = f"{method.label}.targets: {site.here}"
        if site.role != "block":
            raise TargetError(f"{where} is no block; tokens go into whole blocks. Name block.")
        if not site.layer.out_features:
            raise TargetError(f"{where} has no width that is known. Leave it out with exclude.")
        if site.block in decoders:
            raise TargetError(
                f"{where} is a block of a decoder, whose cache has no place for its tokens. Choose"
                " the blocks of the encoder: layers, or a path glob."
            )
        attention = [m for m in site.module.modules() if isinstance(m, nn.MultiheadAttention)]
        if any(not m.batch_first for m in attention):
            raise TargetError(
                f"{where} takes sequences as [tokens, rows, features]; tokens go into [rows,"
                " tokens, features]. Build the model with batch_first=True."
            )
    blocks = {site.block for site in sites if site.role == "block"} - decoders
    if len(chosen) < len(blocks) and "position_bias" in argument_names(chosen[0].module):
        raise TargetError(
            f"{method.label}.targets: blocks of this model hand the bias of relative positions on,"
            " so all of them need sequences of one length. Choose all blocks."
        )
    return chosen


def _empty(site: Site, *shape: int) -> Tensor:
    dtype = trainable_dtype(site.layer.dtype)
    return torch.empty(shape, dtype=dtype, device=site.layer.device)
