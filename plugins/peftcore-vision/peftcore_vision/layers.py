"""Layer types of image models that the core does not know."""

from torch import Tensor, nn

from peftcore import Layer, LayerInfo


class SamePadded(Layer):
    """timm's ``Conv2dSame``, which pads by the size of its input, as TensorFlow does."""

    def info(self, module: nn.Module) -> LayerInfo:
        """Return sizes and dtype."""
        weight = self.weight(module)
        assert isinstance(module, nn.Conv2d)
        return LayerInfo(
            "conv2d", module.in_channels, module.out_channels, module.bias is not None,
            weight.dtype, weight.device, tuple(weight.shape),
        )  # fmt: skip

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        """Run with another weight, [out, in / groups, height, width]."""
        from timm.layers.conv2d_same import conv2d_same

        conv = module
        assert isinstance(conv, nn.Conv2d)
        bias = conv._parameters["bias"]
        return conv2d_same(x, weight, bias, conv.stride, (0, 0), conv.dilation, conv.groups)  # type: ignore[no-any-return, arg-type]
