"""BitFit: which biases are trained, and the bias that a layer without one can get."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from peftcore import (
    Delta,
    Method,
    MethodConfig,
    ParameterInfo,
    Site,
    TargetError,
    Targets,
    hookimpl,
)
from peftcore_bitfit.config import BitFitConfig


class AddedBias(Delta):
    """A bias beside the layer's own, or in place of a missing one; it starts at zero."""

    casts_itself = True

    def __init__(self, width: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the bias, [..., out], for activations [..., in]."""
        return self.bias.to(x.dtype).expand(*x.shape[:-1], -1)

    def bias_delta(self) -> Tensor:
        """Return the bias, [out]."""
        return self.bias

    @classmethod
    def batched(cls, pieces: Sequence["AddedBias"], index: Tensor) -> Callable[[Tensor], Tensor]:
        """Return a function that gives each row the bias of its own piece."""
        # index -1 finds the last of the bank, a bias of zero
        bank = torch.stack([*(p.bias for p in pieces), torch.zeros_like(pieces[0].bias)])

        def serve(x: Tensor) -> Tensor:
            rows = bank[index].to(x.dtype)
            return rows.view(len(x), *(1,) * (x.dim() - 2), -1).expand(*x.shape[:-1], -1)

        return serve


class BitFit(Method):
    """Bias-term fine-tuning, Ben Zaken et al. 2022; the head trains through modules_to_save."""

    config: BitFitConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._whole: set[str] = set()

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the names of the chosen biases.

        Raises:
            TargetError: a target has no bias that could be trained.
        """
        targets = self.config.targets
        for pattern in targets.roles:
            one = targets.model_copy(update={"roles": (pattern,)})
            here = [info for info in parameters if _matches(info, one)]
            if here and not any(self._serves(info) for info in here):
                raise TargetError(self._nothing(pattern))
        return [p.name for p in parameters if _is_bias(p) and _matches(p, targets)]

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> AddedBias | None:
        """Return a bias for a linear layer that has none, or for a slice of a fused layer.

        Raises:
            TargetError: the bias cannot be reached, or is missing from a targeted slice.
        """
        if site.kind != "linear" or site.role == "head" or site.path in self._whole:
            return None
        if not site.matches(self.config.targets):
            return None
        add = self.config.add_missing and not site.layer.bias
        if not add and (site.features is None or _is_fused_attention(site)):
            # a whole layer comes before its slices, which its own bias covers
            self._whole.add(site.path)
            return None
        if not (add or site.layer.bias):
            raise TargetError(self._nothing(site.role))
        if site.direct and site.layer.bias:
            raise TargetError(
                f"{self.label}.targets: {site.role} at {site.path} is a slice of one bias that the"
                " model reads itself, so that it cannot be trained apart from the rest of it."
                " Write attention.qkv."
            )
        return AddedBias(site.layer.out_features)

    def _serves(self, info: ParameterInfo) -> bool:
        return _is_bias(info) or (self.config.add_missing and info.kind == "linear")

    def _nothing(self, pattern: str) -> str:
        text = f"{self.label}.targets: {pattern!r} chooses no bias in this model."
        if self.config.add_missing:
            return f"{text} Only linear layers get a bias that they do not have."
        return (
            f"{text} Write add_missing: true to give linear layers a bias that starts at zero,"
            " as models without biases (LLaMA, T5) need."
        )


def _is_bias(info: ParameterInfo) -> bool:
    return info.leaf == "bias" or info.leaf.endswith("_bias")


def _is_fused_attention(site: Site) -> bool:
    return site.direct and site.role == "attention.qkv"


def _matches(info: ParameterInfo, targets: Targets) -> bool:
    """Tell whether targets choose the module of a parameter; the head is left to others."""
    return info.role != "head" and info.matches(targets)
