"""Image models: timm's, CLIP's image tower, and models of images and language."""

from peftcore import BackboneSpec, CommandSpec, FormatSpec, LayerSpec, TaskSpec, hookimpl

_VISION_LANGUAGE = (
    "llava", "llava_next", "llava_onevision", "vipllava", "paligemma", "gemma3", "qwen2_vl",
    "qwen2_5_vl", "qwen3_vl",
)  # fmt: skip


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
            name="timm-beit",
            summary="BEiT (Bao et al. 2022), EVA and EVA-02 of timm (Fang et al. 2023).",
            backbone="peftcore_vision.timm_direct:TimmBeit",
            matches=("timm.models.beit:Beit", "timm.models.eva:Eva"),
            configs=("beit-b16", "eva02-b14"),
        ),
        BackboneSpec(
            name="timm-swin-v2",
            summary="Swin transformer v2 of timm (Liu et al. 2022): attention in windows.",
            backbone="peftcore_vision.timm_direct:TimmSwinV2",
            matches=("timm.models.swin_transformer_v2:SwinTransformerV2",),
            configs=("swin-v2-t",),
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
                "transformers.models.clip.modeling_clip:CLIPForImageClassification",
            ),
            configs=("clip-vit-b32", "clip-vit-b16", "clip-vit-l14", "clip-vit-bigg14"),
        ),
        BackboneSpec(
            name="vision-language",
            summary="Of images and text: LLaVA (Liu et al. 2023) and its kin, whole CLIP, SigLIP.",
            backbone="peftcore_vision.language:VisionLanguage",
            matches=(
                "transformers.models.clip.modeling_clip:CLIPModel",
                "transformers.models.siglip.modeling_siglip:SiglipModel",
                *(
                    f"transformers.models.{name}.modeling_{name}:*{kind}"
                    for name in _VISION_LANGUAGE
                    for kind in ("Model", "ForConditionalGeneration")
                ),
            ),
            configs=("llava-1.5-7b", "clip-vit-bigg-14"),
        ),
    ]


@hookimpl
def peftcore_register_tasks() -> list[TaskSpec]:
    """Return the tasks on images."""
    return [
        TaskSpec(
            name="image-classification",
            summary="One or several labels for an image, from folders or a table of paths.",
            config="peftcore_vision.classification:ImageClassificationConfig",
            task="peftcore_vision.classification:ImageClassification",
        ),
        TaskSpec(
            name="elevater",
            summary="Few-shot classification on the 20 data sets of ELEVATER (Li et al. 2022).",
            config="peftcore_vision.elevater.task:ElevaterConfig",
            task="peftcore_vision.elevater.task:Elevater",
        ),
    ]


@hookimpl
def peftcore_register_commands() -> CommandSpec:
    """Return the command that runs the benchmark."""
    return CommandSpec(
        name="elevater",
        summary="Sweep, train and score a recipe on the data sets of ELEVATER.",
        command="peftcore_vision.elevater.cli:elevater",
        section=True,
        reads=(".yaml", ".yml"),
    )


@hookimpl
def peftcore_register_layers() -> LayerSpec:
    """Return the handler of timm's convolution with the padding of TensorFlow."""
    return LayerSpec("timm.layers.conv2d_same:Conv2dSame", "peftcore_vision.layers:SamePadded")


@hookimpl
def peftcore_register_formats() -> list[FormatSpec]:
    """Return the files that are images, each a row of a folder."""
    images = [
        FormatSpec(ending, "An image.", column="image")
        for ending in (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
    ]
    return [*images, FormatSpec(".dcm", "A DICOM image, through pydicom.", column="image")]
