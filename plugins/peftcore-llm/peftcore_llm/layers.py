"""Layer types of decoder-only language models that the core does not know."""

import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Layer, LayerInfo


class TransposedLinear(Layer):
    """GPT-2's ``Conv1D``: a linear layer whose weight is stored as [in, out]."""

    def info(self, module: nn.Module) -> LayerInfo:
        """Return sizes and dtype."""
        weight = module._parameters["weight"]
        assert weight is not None
        in_, out = weight.shape
        return LayerInfo("linear", in_, out, True, weight.dtype, weight.device, (out, in_))

    def weight(self, module: nn.Module) -> Tensor:
        """Return the weight as [out, in]."""
        return super().weight(module).T

    def stored(self, weight: Tensor) -> Tensor:
        """Return a weight [out, in] as [in, out]."""
        return weight.T

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        """Run with another weight, [out, in]."""
        return F.linear(x, weight, module._parameters["bias"])


class ScaledEmbedding(Layer):
    """Gemma's embedding, whose rows are multiplied by the square root of the width."""

    # what a piece adds to the output is not scaled, what it would add to the weight is
    writable = False

    def info(self, module: nn.Module) -> LayerInfo:
        """Return sizes and dtype."""
        weight = module._parameters["weight"]
        assert weight is not None
        rows, width = weight.shape
        return LayerInfo(
            "embedding", rows, width, False, weight.dtype, weight.device, (rows, width)
        )

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        """Run with another weight, [vocabulary, width]."""
        scale = module.get_buffer("embed_scale")
        padding = getattr(module, "padding_idx", None)
        return F.embedding(x, weight, padding) * scale.to(weight.dtype)
