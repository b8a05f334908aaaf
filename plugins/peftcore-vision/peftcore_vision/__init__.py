"""Image models: timm's vision transformers and CNNs, and CLIP's image tower."""

from peftcore import BackboneSpec, LayerSpec, hookimpl


@hookimpl
def peftcore_register_backbones() -> list[BackboneSpec]:
    """Return the families of image models."""
    return [
        BackboneSpec(
            name="timm-vit",
            summary="Vision transformers of timm: ViT (Dosovitskiy et al. 2021), DeiT, DINOv2.",
            backbone="peftcore_vision.timm_models:TimmVit",
            matches=("timm.models.vision_transformer:VisionTransformer",),
            configs=("vit-b16-224", "vit-l16", "vit-h14", "vit-s14", "vit-b14"),
        ),
        BackboneSpec(
            name="timm-cnn",
            summary="CNNs of timm: ResNet (He et al. 2016), EfficientNet, MobileNetV3.",
            backbone="peftcore_vision.timm_models:TimmCnn",
            matches=(
                "timm.models.resnet:ResNet",
                "timm.models.efficientnet:EfficientNet",
                "timm.models.mobilenetv3:MobileNetV3",
            ),
            configs=("resnet18", "resnet50", "resnet101", "efficientnet-lite0", "efficientnet-b0"),
        ),
        BackboneSpec(
            name="clip-vision",
            summary="The image tower of CLIP (Radford et al. 2021), with its projection.",
            backbone="peftcore_vision.clip:ClipVision",
            matches=(
                "transformers.models.clip.modeling_clip:CLIPVision*",
                "transformers.models.clip.modeling_clip:CLIPModel",
                "transformers.models.clip.modeling_clip:CLIPForImageClassification",
            ),
            configs=("clip-vit-b32", "clip-vit-b16", "clip-vit-l14", "clip-vit-bigg14"),
        ),
    ]


@hookimpl
def peftcore_register_layers() -> LayerSpec:
    """Return the handler of timm's convolution with the padding of TensorFlow."""
    return LayerSpec("timm.layers.conv2d_same:Conv2dSame", "peftcore_vision.layers:SamePadded")
