"""Experts of transformers' models, which keep the weights of all of them in one parameter."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from peftcore import Layer, LayerInfo, Weights

_ROLES = {
    "gate_up_proj": "mlp.experts.gate_up",
    "gate_proj": "mlp.experts.gate",
    "up_proj": "mlp.experts.up",
    "down_proj": "mlp.experts.down",
}


class Experts(Weights):
    """A module that holds each projection of its experts as one parameter of three dimensions."""

    def layers(self, module: nn.Module) -> Mapping[str, Layer]:
        """Return role to the handler of each projection; none of modules with other parameters."""
        held = {name: p for name, p in module._parameters.items() if p is not None}
        if not all(name in held and held[name].dim() == 3 for name in ("down_proj",)):
            return {}
        transposed = _is_transposed(module, held)
        return {
            role: ExpertsLayer(name, transposed=transposed)
            for name, role in _ROLES.items()
            if name in held and held[name].dim() == 3
        }


def _is_transposed(module: nn.Module, held: Mapping[str, Tensor]) -> bool:
    """Tell whether the weights are stored as [experts, in, out], as gpt-oss and Llama 4 do.

    Where transformers does not say so, the sizes do: the width of what goes in comes out again.
    """
    said = getattr(module, "is_transposed", None)
    if isinstance(said, bool):
        return said
    first = next(held[n] for n in ("gate_up_proj", "up_proj", "gate_proj") if n in held)
    width = held["down_proj"].shape
    return first.shape[1] == width[2] and first.shape[2] != width[1]


class ExpertsLayer(Layer):
    """One projection of all experts: a parameter [experts, out, in], or [experts, in, out]."""

    def __init__(self, weight_name: str, *, transposed: bool):
        self.weight_name = weight_name
        self.transposed = transposed

    def info(self, module: nn.Module) -> LayerInfo:
        """Return the sizes of each expert, and as the weight's shape [experts, out, in]."""
        weight = self.weight(module)
        count, out, in_ = weight.shape
        return LayerInfo(
            "experts", in_, out, f"{self.weight_name}_bias" in module._parameters, weight.dtype,
            weight.device, (count, out, in_),
        )  # fmt: skip

    def weight(self, module: nn.Module) -> Tensor:
        """Return the weights as [experts, out, in]."""
        return self.stored(super().weight(module))

    def stored(self, weight: Tensor) -> Tensor:
        """Turn weights [experts, out, in] into the layout of the parameter, and back."""
        return weight.mT if self.transposed else weight
