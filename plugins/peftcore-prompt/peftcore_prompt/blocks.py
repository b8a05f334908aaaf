"""Prompts inside blocks: visual prompt tuning and embedding prompts."""

from collections.abc import Sequence
from math import prod, sqrt

from peftcore import Site, Targeted, TargetError, argument_names, hookimpl
from peftcore_prompt.config import EmbeddingPromptConfig, VptConfig
from peftcore_prompt.pieces import Tokens, Wider, projection

#: Channels, height and width of a patch, where the model has none.
_PATCH = (3, 16, 16)


class _InBlocks(Targeted):
    """What methods that put tokens into whole blocks have in common."""

    kinds = ("module",)
    needs_width = True

    def blocks(self, sites: Sequence[Site]) -> list[Site]:
        """Return the chosen blocks.

        Raises:
            TargetError: one of them cannot take further tokens.
        """
        chosen = self.chosen(sites)
        decoders = {site.block for site in sites if site.role.startswith("cross_attention")}
        for site in chosen:
            where = f"{self.label}.targets: {site.here}"
            if site.role != "block":
                raise TargetError(f"{where} is no block; tokens go into whole blocks. Name block.")
            self.settled(site)
            if site.block in decoders:
                raise TargetError(
                    f"{where} is a block of a decoder, whose cache has no place for its tokens."
                    " Choose the blocks of the encoder: stack, layers, or a path glob."
                )
            kernel = _kernel_that_masks(site)
            if kernel is not None:
                raise TargetError(
                    f"{where} runs {kernel}, which computes by itself which tokens see which, so"
                    " that virtual ones would not be seen. Masks tell it in a model that is loaded"
                    " with attn_implementation='sdpa'."
                )
        blocks = {site.block for site in sites if site.role == "block"} - decoders
        if len(chosen) < len(blocks) and "position_bias" in argument_names(chosen[0].module):
            raise TargetError(
                f"{self.label}.targets: blocks of this model hand the bias of relative positions"
                " on, so all of them need sequences of one length. Choose all blocks."
            )
        return chosen


class EmbeddingPrompt(_InBlocks):
    """Embedding prompts of PEFT-SER, Feng et al. 2023: tokens before the input of each block."""

    config: EmbeddingPromptConfig

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Check the chosen blocks.

        Raises:
            TargetError: one of them cannot take further tokens.
        """
        self.blocks(sites)

    def piece(self, site: Site, config: EmbeddingPromptConfig) -> Tokens:
        """Return the tokens of a block."""
        count, width = config.num_virtual_tokens, site.layer.out_features
        # the released code's tensor is [1, p, d], and Xavier takes its last axis for a kernel
        bound = sqrt(6 / (width * (count + 1)))
        return Tokens(argument_names(site.module), 0, (count, width), bound)


class Vpt(_InBlocks):
    """Visual prompt tuning, Jia et al. 2022: [class token; P; patches] in one or all blocks."""

    config: VptConfig

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Check the chosen blocks, and find the size of a patch.

        Raises:
            TargetError: one of the blocks cannot take further tokens, or not from its neighbours.
        """
        blocks = self.blocks(sites)
        if not self.config.deep:
            self._check_shallow(blocks, sites)
        self._first, self._last = blocks[0].path, blocks[-1].path
        self._patch = next((s.layer.weight_shape[1:] for s in sites if s.role == "patch"), _PATCH)

    def piece(self, site: Site, config: VptConfig) -> Wider:
        """Return the tokens of a block; shallow, those of the first go through the others."""
        names, at, count = argument_names(site.module), config.after, config.num_virtual_tokens
        leaves = config.deep or site.path == self._last
        if not config.deep and site.path != self._first:
            return Wider(names, at, count, enters=False, leaves=leaves)
        out = site.layer.out_features
        width, shared = config.project or out, None
        if config.project is not None:
            shared = self.shared(out, lambda: projection(width, out))
        return Tokens(
            names, at, (count, width), sqrt(6 / (prod(self._patch) + width)),
            dropout=config.dropout, leaves=leaves, projection=shared,
        )  # fmt: skip

    def _check_shallow(self, blocks: Sequence[Site], sites: Sequence[Site]) -> None:
        where = [site.block or 0 for site in blocks]
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
                " and shallow tokens go from block to block. Write deep: true, or set"
                " layerdrop to 0 in the checkpoint's config.json."
            )


def _kernel_that_masks(site: Site) -> str | None:
    """Return the kernel of a block's attention whose mask or window does not grow with tokens."""
    for module in site.module.modules():
        config = getattr(module, "config", None)
        kernel = str(getattr(config, "_attn_implementation", ""))
        window = getattr(module, "sliding_window", getattr(config, "sliding_window", None))
        if "flex" in kernel or ("flash" in kernel and window is not None):
            return kernel
    return None
