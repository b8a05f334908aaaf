"""Layer types: what a piece must know of a layer, and how to reach its weight."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.model.walk import CONTAINER, bare_class
from peftcore.registry.installed import installed

_CPU = torch.device("cpu")


class LayerInfo(NamedTuple):
    """Sizes and dtype of the place where a piece goes; never read ``module.weight.shape``.

    Attributes:
        kind: ``linear``, ``embedding``, ``conv1d``, ``conv2d``, ``conv3d``, ``norm``, ``experts``,
            ``module``.
        in_features: width of the input (channels, for a convolution; rows of an embedding table).
        out_features: width of the output. For a block, both are the width of the residual stream.
        bias: whether the layer has a bias.
        dtype: dtype in which the layer computes.
        device: where the layer is.
        weight_shape: shape of the weight as [out, in, ...]; of the slice, at a sliced site. Of
            experts, [experts, out, in].
    """

    kind: str
    in_features: int
    out_features: int
    bias: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU
    weight_shape: tuple[int, ...] = ()

    def on(self, device: torch.device) -> "LayerInfo":
        """Return the same layer on another device."""
        return self._replace(device=device)


class Layer:
    """Handler of one layer type. Plugins register subclasses with ``peftcore_register_layers``."""

    #: Name of the parameter (or buffer) that holds the weight.
    weight_name = "weight"

    def info(self, module: nn.Module) -> LayerInfo:
        """Return sizes and dtype of a layer."""
        raise NotImplementedError

    def weight(self, module: nn.Module) -> Tensor:
        """Return the dense weight as [out, in, ...]; dequantised where it is quantised."""
        weight = module._parameters.get(self.weight_name)
        # a parametrised weight (weight norm) is computed when it is asked for
        return getattr(module, self.weight_name) if weight is None else weight

    def stored(self, weight: Tensor) -> Tensor:
        """Turn a weight as [out, in, ...] into the layout in which the layer stores it."""
        return weight

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        """Run the layer on x with another weight, [out, in, ...]."""
        raise NotImplementedError

    #: Whether a merged weight can be written back without loss.
    writable = True


class _Linear(Layer):
    def info(self, module: nn.Module) -> LayerInfo:
        weight = super().weight(module)
        if not weight.is_floating_point():
            return self._packed(module, weight)
        out, in_ = weight.shape
        return LayerInfo(
            "linear", in_, out, module._parameters.get("bias") is not None, weight.dtype,
            weight.device, (out, in_),
        )  # fmt: skip

    @staticmethod
    def _packed(module: nn.Module, weight: Tensor) -> LayerInfo:
        """Describe a subclass that keeps a quantised weight; its shape says nothing."""
        bias = module._parameters.get("bias")
        dtype = torch.float32 if bias is None else bias.dtype
        out, in_ = int(module.out_features), int(module.in_features)  # type: ignore[arg-type]
        return LayerInfo("linear", in_, out, bias is not None, dtype, weight.device, (out, in_))

    def weight(self, module: nn.Module) -> Tensor:
        weight = super().weight(module)
        if not weight.is_floating_point():
            raise AttachError(
                f"a {type(module).__name__} keeps a quantised weight that only a handler of its"
                " type can read; a plugin can bring one with peftcore_register_layers."
            )
        return weight

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, weight, module._parameters.get("bias"))


class _Embedding(Layer):
    def info(self, module: nn.Module) -> LayerInfo:
        weight = module._parameters["weight"]
        assert weight is not None
        rows, width = weight.shape
        return LayerInfo(
            "embedding", rows, width, False, weight.dtype, weight.device, (rows, width)
        )

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        assert isinstance(module, nn.Embedding)
        return F.embedding(
            x, weight, module.padding_idx, module.max_norm, module.norm_type,
            module.scale_grad_by_freq, module.sparse,
        )  # fmt: skip


class _Conv(Layer):
    def info(self, module: nn.Module) -> LayerInfo:
        weight = self.weight(module)
        return LayerInfo(
            f"conv{weight.dim() - 2}d", module.in_channels, module.out_channels,  # type: ignore
            module._parameters.get("bias") is not None, weight.dtype, weight.device,
            tuple(weight.shape),
        )  # fmt: skip

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        forward: Callable[..., Tensor] = module._conv_forward  # type: ignore[assignment]
        return forward(x, weight, module._parameters.get("bias"))


class _Norm(Layer):
    writable = False

    def info(self, module: nn.Module) -> LayerInfo:
        weight = module._parameters.get("weight")
        if weight is None:
            width = int(getattr(module, "normalized_shape", (0,))[-1])
            return LayerInfo("norm", width, width)
        width = weight.shape[-1]
        bias = module._parameters.get("bias") is not None
        return LayerInfo("norm", width, width, bias, weight.dtype, weight.device, (width,))


class _AffineNorm(_Norm):
    """A norm that ends in ``weight * x + bias``, so that a scale and a shift can be merged."""

    writable = True


class InProjection(Layer):
    """The fused projection of ``nn.MultiheadAttention``, a parameter and not a module."""

    weight_name = "in_proj_weight"

    def info(self, module: nn.Module) -> LayerInfo:
        """Return sizes and dtype of the fused projection."""
        weight = module._parameters["in_proj_weight"]
        assert weight is not None
        out, in_ = weight.shape
        bias = module._parameters.get("in_proj_bias") is not None
        return LayerInfo("linear", in_, out, bias, weight.dtype, weight.device, (out, in_))


class Weights:
    """Handler of a module type that holds several weights itself, as experts do.

    Plugins register subclasses with ``peftcore_register_layers``. Each weight is a site of its own,
    and the pieces there are folded into it, because the module computes with it as it likes.
    """

    def layers(self, module: nn.Module) -> Mapping[str, Layer]:
        """Return role to the handler of the weight there, by its ``weight_name``."""
        raise NotImplementedError


class _FusedAttention(Weights):
    def layers(self, module: nn.Module) -> Mapping[str, Layer]:
        fused = module._parameters.get(InProjection.weight_name) is not None
        return {"attention.qkv": InProjection()} if fused else {}


_BUILTIN: tuple[tuple[type[nn.Module], Layer], ...] = (
    (nn.Linear, _Linear()),
    (nn.Embedding, _Embedding()),
    (nn.Conv1d, _Conv()),
    (nn.Conv2d, _Conv()),
    (nn.Conv3d, _Conv()),
)
_NORM = _Norm()
_AFFINE_NORM = _AffineNorm()
_AFFINE = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
_FUSED = _FusedAttention()


def layer_of(module: nn.Module) -> Layer | None:
    """Return the handler of a module's type, or None for a module that is no single layer."""
    found = handler_of(module)
    return found if isinstance(found, Layer) else None


def weights_of(module: nn.Module) -> Mapping[str, Layer]:
    """Return role to the handler of each weight that a module holds besides being a layer."""
    found = handler_of(module)
    return found.layers(module) if isinstance(found, Weights) else {}


def layer_at(module: nn.Module, weight_name: str) -> Layer | None:
    """Return the handler of one weight of a module."""
    several = weights_of(module).values()
    return next((layer for layer in several if layer.weight_name == weight_name), layer_of(module))


def handler_of(module: nn.Module) -> Layer | Weights | None:
    """Return what handles a module's type: as one layer, as several weights, or None."""
    # all that a handler is chosen by: one class may have instances with a weight and without
    key = type(module), "weight" in module._parameters
    known = installed().derived
    if key not in known:
        known[key] = _find(bare_class(module), key[1])
    found: Layer | Weights | None = known[key]
    return found


def has_forward_of_its_own(module: nn.Module) -> bool:
    """Tell whether a subclass of a known layer computes something that its handler does not.

    What it makes of its weight is then not known, so that nothing may take another weight for it;
    where the model calls it. A handler of its type, brought by a plugin, knows.
    """
    cls, handler = bare_class(module), layer_of(module)
    return any(
        issubclass(cls, known) and cls.forward is not known.forward
        for known, layer in _BUILTIN
        if layer is handler
    )


def _registered(cls: type[nn.Module]) -> str:
    """Return the type or glob under which a class is handled; a plain type goes before globs."""
    types = sorted(installed().layers, key=lambda kind: "*" in kind)
    for base in cls.__mro__:
        name = f"{base.__module__}:{base.__qualname__}"
        found = next((t for t in types if t == name or ("*" in t and fnmatchcase(name, t))), "")
        if found:
            return found
    return ""


def _find(cls: type[nn.Module], weighted: bool) -> Layer | Weights | None:
    if kind := _registered(cls):
        handler: type[Layer | Weights] = installed().resolve("layers", kind, "layer")
        return handler()
    if issubclass(cls, nn.MultiheadAttention):
        return _FUSED
    for known, layer in _BUILTIN:
        if issubclass(cls, known):
            return layer
    if any(issubclass(cls, known) and cls.forward is known.forward for known in _AFFINE):
        return _AFFINE_NORM
    is_norm = issubclass(cls, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm)
    # blocks and encoders are called so too, after where their norms are
    named = cls.__name__.endswith("Norm") and weighted
    return _NORM if is_norm or named else None


def first_parameter(module: nn.Module) -> nn.Parameter | None:
    """Return the first floating parameter inside a module; torch's own walk is slow."""
    for parameter in module._parameters.values():
        if parameter is not None and parameter.is_floating_point():
            return parameter
    found = (
        first_parameter(m) for n, m in module._modules.items() if m is not None and n != CONTAINER
    )
    return next((p for p in found if p is not None), None)


def info_of(module: nn.Module, width: int | None = None) -> LayerInfo:
    """Describe a module; ``width`` is the residual stream's, for modules that are no layer."""
    layer = layer_of(module)
    if layer is not None:
        return layer.info(module)
    parameter = first_parameter(module)
    if parameter is None:
        return LayerInfo("module", width or 0, width or 0)
    return LayerInfo("module", width or 0, width or 0, False, parameter.dtype, parameter.device)
