"""The method: which convolutions are adapted, and what cannot be done."""

from collections.abc import Sequence
from typing import Any

from peftcore import Site, Survey, Targeted, TargetError, hookimpl
from peftcore_tsa.pieces import BeforeHead, Beside, crop_of


class Tsa(Targeted):
    """Task-specific residual adapters, Li, Liu & Bilen 2022: y = f(x) + alpha(x)."""

    kinds = plain = ("conv",)

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Check that there is something to adapt.

        Raises:
            TargetError: no targeted convolution has kernel 3, or there is no linear head.
        """
        threes = [site for site in self.chosen(sites) if _is_three(site)]
        if self.config.targets is not None and not threes:
            raise TargetError(
                f"{self.label}.targets: none of the targeted layers is a convolution of kernel 3,"
                " beside which TSA puts its adapters. Name some, or use a method for linear layers."
            )
        if threes and not any(self._adapts(site) for site in threes):
            raise TargetError(
                f"{self.label}.stem: all targeted convolutions of kernel 3, such as"
                f" {threes[0].here}, are outside of the model's blocks. Write stem: true."
            )
        if self.config.pre_classifier and not any(map(_is_linear_head, sites)):
            raise TargetError(
                f"{self.label}.pre_classifier: this model has no head that is a linear layer, whose"
                " input could be transformed. Load it with one, or write pre_classifier: false."
            )

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        """Return the adapter beside a convolution of kernel 3, or the transform before the head.

        Raises:
            TargetError: a target is no convolution, or does more than a plain one.
        """
        if self.config.pre_classifier and _is_linear_head(site):
            return BeforeHead(site.layer.in_features)
        left_alone = site.kind.startswith("conv") and not self._adapts(site)
        return None if left_alone else super().peftcore_rewrite_module(site)

    def piece(self, site: Site, config: Any) -> Beside:
        """Return the adapter beside a convolution of kernel 3.

        Raises:
            TargetError: no adapter of kernel 1 is a change of its middle.
        """
        conv: Any = site.module
        if conv.padding_mode != "zeros" and max(crop_of(conv)) > 0:
            raise TargetError(
                f"{self.label}.targets: {site.here} pads by {conv.padding_mode} beyond the middle"
                " of its kernel, so that no adapter of kernel 1 stands beside it. Leave it out with"
                " exclude."
            )
        return Beside(site.layer, conv, config)

    def _adapts(self, conv: Site) -> bool:
        """Tell whether a convolution is adapted: kernel 3, and as released in a residual block."""
        return _is_three(conv) and (self.config.stem or conv.block is not None or not conv.blocks)


def has_kernel_3(found: Survey) -> bool:
    """Tell whether a model has convolutions of kernel 3."""
    return any(map(_is_three, found.sites))


def _is_three(site: Site) -> bool:
    return site.kind.startswith("conv") and set(site.layer.weight_shape[2:]) == {3}


def _is_linear_head(site: Site) -> bool:
    return site.role == "head" and site.kind == "linear"
