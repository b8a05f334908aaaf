"""The method: which convolutions are adapted, and what cannot be done."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from peftcore import Method, Site, Survey, TargetError, bare_class, hookimpl
from peftcore_tsa.config import TsaConfig
from peftcore_tsa.pieces import BeforeHead, Beside, padding_of

_CONVOLUTIONS: dict[str, Any] = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}


class Tsa(Method):
    """Task-specific residual adapters, Li, Liu & Bilen 2022: y = f(x) + alpha(x)."""

    config: TsaConfig

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Check that there is something to adapt.

        Raises:
            TargetError: no targeted convolution has kernel 3, or there is no head to put beta at.
        """
        targets = self.config.targets
        if targets is not None and not any(s.matches(targets) and _is_three(s) for s in sites):
            raise TargetError(
                f"{self.label}.targets: none of the targeted layers is a convolution of kernel 3,"
                " beside which TSA puts its adapters. Name some, or use a method for linear layers."
            )
        if self.config.pre_classifier and not any(s.role == "head" for s in sites):
            raise TargetError(
                f"{self.label}.pre_classifier: this model has no head. Load it with one, or write"
                " pre_classifier: false."
            )

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Beside | BeforeHead | None:
        """Return the adapter beside a convolution of kernel 3, or the transform before the head.

        Raises:
            TargetError: a target is no convolution or does more than a plain one, or the head is
                no linear layer.
        """
        config, layer = self.config, site.layer
        if config.pre_classifier and site.role == "head":
            if layer.kind == "linear":
                return BeforeHead(layer)
            raise TargetError(
                f"{self.label}.pre_classifier: the head {site.name} is of kind {layer.kind}; what"
                " it reads can be transformed where it is a linear layer. Write pre_classifier:"
                " false."
            )
        if config.targets is None or not site.matches(config.targets):
            return None
        self._check(site)
        if not _is_three(site):
            return None
        vector = config.form == "vector" and layer.in_features == layer.out_features
        return Beside(layer, site.module, vector=vector, zero=config.init == "identity")

    def _check(self, site: Site) -> None:
        where = f"{self.label}.targets: {site.here}"
        if site.layer.kind not in _CONVOLUTIONS:
            raise TargetError(
                f"{where} is of kind {site.layer.kind}; TSA adapts convolutions. Name those inside"
                " it, or leave it out with exclude."
            )
        if not _is_three(site):
            return
        module: Any = site.module
        plain, cls = _CONVOLUTIONS[site.layer.kind], bare_class(module)
        if getattr(cls, "forward", None) is not plain.forward:
            raise TargetError(
                f"{where} is a {cls.__name__}, which does more than a plain"
                f" {plain.__name__}. Leave it out with exclude."
            )
        wide = any(p > d for p, d in zip(padding_of(module), module.dilation, strict=True))
        if wide and module.padding_mode != "zeros":
            raise TargetError(
                f"{where} pads by {module.padding_mode} beyond the middle of its kernel, so that"
                " no adapter of kernel 1 stands beside it. Leave it out with exclude."
            )


def has_kernel_3(found: Survey) -> bool:
    """Tell whether a model has convolutions of kernel 3."""
    return any(_is_three(site) for site in found.sites)


def _is_three(site: Site) -> bool:
    return site.layer.kind in _CONVOLUTIONS and set(site.layer.weight_shape[2:]) == {3}
