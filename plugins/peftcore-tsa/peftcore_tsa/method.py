"""The method: which convolutions are adapted, and what cannot be done."""

from collections.abc import Sequence
from typing import Any

from peftcore import Site, Survey, Targeted, TargetError, hookimpl
from peftcore_tsa.pieces import BeforeHead, Beside, padding_of


class Tsa(Targeted):
    """Task-specific residual adapters, Li, Liu & Bilen 2022: y = f(x) + alpha(x)."""

    kinds = plain = ("conv",)

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Check that there is something to adapt.

        Raises:
            TargetError: no targeted convolution has kernel 3, or there is no head to put beta at.
        """
        targets = self.config.targets
        threes = [s for s in sites if targets is not None and s.matches(targets) and _is_three(s)]
        if targets is not None and not threes:
            raise TargetError(
                f"{self.label}.targets: none of the targeted layers is a convolution of kernel 3,"
                " beside which TSA puts its adapters. Name some, or use a method for linear layers."
            )
        if threes and not any(self._adapts(site) for site in threes):
            raise TargetError(
                f"{self.label}.stem: all targeted convolutions of kernel 3, such as"
                f" {threes[0].here}, are outside of the model's blocks. Write stem: true."
            )
        if self.config.pre_classifier and not any(s.role == "head" for s in sites):
            raise TargetError(
                f"{self.label}.pre_classifier: this model has no head. Load it with one, or write"
                " pre_classifier: false."
            )

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        """Return the adapter beside a convolution of kernel 3, or the transform before the head.

        Raises:
            TargetError: a target is no convolution or does more than a plain one, or the head is
                no linear layer.
        """
        if self.config.pre_classifier and site.role == "head":
            return self._before(site)
        left_alone = site.kind.startswith("conv") and not self._adapts(site)
        if self.config.targets is None or left_alone:
            return None
        return super().peftcore_rewrite_module(site)

    def piece(self, site: Site, config: Any) -> Beside:
        """Return the adapter beside a convolution of kernel 3.

        Raises:
            TargetError: no adapter of kernel 1 is a change of its middle.
        """
        module: Any = site.module
        wide = any(p > d for p, d in zip(padding_of(module), module.dilation, strict=True))
        if wide and module.padding_mode != "zeros":
            raise TargetError(
                f"{self.label}.targets: {site.here} pads by {module.padding_mode} beyond the middle"
                " of its kernel, so that no adapter of kernel 1 stands beside it. Leave it out with"
                " exclude."
            )
        vector = config.form == "vector" and site.layer.in_features == site.layer.out_features
        return Beside(site.layer, module, vector=vector, zero=config.init == "identity")

    def _adapts(self, conv: Site) -> bool:
        """Tell whether a convolution is adapted: kernel 3, and as released in a residual block."""
        return _is_three(conv) and (self.config.stem or conv.block is not None or not conv.blocks)

    def _before(self, head: Site) -> BeforeHead:
        if head.kind != "linear":
            raise TargetError(
                f"{self.label}.pre_classifier: the head {head.name} is of kind {head.kind}; what it"
                " reads can be transformed where it is a linear layer. Write pre_classifier: false."
            )
        return BeforeHead(head.layer.in_features)


def has_kernel_3(found: Survey) -> bool:
    """Tell whether a model has convolutions of kernel 3."""
    return any(_is_three(site) for site in found.sites)


def _is_three(site: Site) -> bool:
    return site.kind.startswith("conv") and set(site.layer.weight_shape[2:]) == {3}
