from collections.abc import Mapping

import pytest
import timm
import torch
from torch import nn
from transformers import CLIPVisionModel

import peftcore
from peftcore import (
    ParameterInfo,
    PeftcoreError,
    TargetError,
    backbone_named,
    backbone_of,
    survey,
)

PROJECTIONS = {f"attention.{part}": ["blocks.0.attn.qkv"] for part in ("query", "key", "value")}

VIT = {
    "model": [""],
    "embeddings": ["patch_embed"],
    "patch": ["patch_embed.proj"],
    "block": ["blocks.0"],
    "attention": ["blocks.0.attn"],
    "attention.qkv": ["blocks.0.attn.qkv"],
    **PROJECTIONS,
    "attention.output": ["blocks.0.attn.proj"],
    "mlp": ["blocks.0.mlp"],
    "mlp.up": ["blocks.0.mlp.fc1"],
    "mlp.down": ["blocks.0.mlp.fc2"],
    "norm": ["blocks.0.norm1", "blocks.0.norm2", "norm"],
    "head": ["head"],
}
TOKENS = {"embeddings.position": ["pos_embed"], "x-class-token": ["cls_token"]}


def paths(model: nn.Module) -> Mapping[str, list[str]]:
    """Return role to paths, of the first block where a path lies in one."""
    found: dict[str, list[str]] = {}
    for site in survey(model, backbone_of(model)).sites:
        if site.block in (None, 0):
            found.setdefault(site.role, []).append(site.path)
    return found


def test_every_role_of_a_vision_transformer_names_exactly_these_modules() -> None:
    assert paths(backbone_named("timm-vit").tiny(head="image-classification")) == VIT


SMALL = {"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 4}


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("vit_small_patch14_dinov2", []),
        ("deit_tiny_patch16_224", ["head"]),
        ("deit_tiny_distilled_patch16_224", ["head", "head_dist"]),
    ],
)
def test_kin_of_the_vision_transformer_has_the_same_roles(
    architecture: str, heads: list[str]
) -> None:
    found = dict(
        paths(timm.create_model(architecture, **{**SMALL, "img_size": 32 - 4 * (not heads)}))
    )
    assert found.pop("head", []) == heads
    assert found == {role: names for role, names in VIT.items() if role != "head"}


def named(model: nn.Module) -> Mapping[str, list[str]]:
    """Return role to names of the parameters that have a role of their own."""
    found: dict[str, list[str]] = {}
    for place in survey(model, backbone_of(model)).places:
        if isinstance(place, ParameterInfo):
            found.setdefault(place.role, []).append(place.name)
    return found


def test_tables_of_positions_and_class_tokens_can_be_trained_by_their_role() -> None:
    model = backbone_named("timm-vit").tiny()
    assert named(model) == TOKENS
    assert named(Wrapper(model, 32)) == {
        r: [f"network.{n}" for n in ns] for r, ns in TOKENS.items()
    }
    adapter = peftcore.attach(model, "freeze", targets=["embeddings.position"])
    assert [s.selected.name for s in adapter.swaps] == ["freeze.pos_embed"]
    adapter.detach()
    with pytest.raises(PeftcoreError, match=r"matches nothing .*Did you mean embeddings.position"):
        peftcore.attach(model, "freeze", targets=["embedings.position"])
    with pytest.raises(TargetError, match="lora found nothing to do in this model"):
        peftcore.attach(model, "lora", targets=["x-class-token"])


@pytest.mark.parametrize(
    ("architecture", "family", "direct"),
    [
        ("beit_base_patch16_224", "timm-beit", True),
        ("eva02_tiny_patch14_224", "timm-beit", True),
        ("eva02_large_patch14_clip_224", "timm-beit", False),
        ("swinv2_tiny_window8_256", "timm-swin-v2", True),
    ],
)
def test_projections_that_are_read_and_not_called_are_changed_all_the_same(
    architecture: str, family: str, direct: bool
) -> None:
    swin = family == "timm-swin-v2"
    sizes = dict(backbone_named("timm-swin-v2").small) if swin else dict(SMALL)
    sizes.pop("architecture", None)
    model = timm.create_model(architecture, **sizes, num_classes=3).eval()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
    nn.init.normal_(model.get_submodule("head.fc" if swin else "head").weight)
    backbone = backbone_of(model)
    assert backbone.name == family
    sites = survey(model, backbone).sites
    assert any(s.direct for s in sites if s.role.startswith("attention.q")) == direct
    assert [s.path for s in sites if s.role == "head"] == ["head.fc" if swin else "head"]
    x = torch.randn(2, 3, 32 if swin else 28, 32 if swin else 28)
    before = model(x)
    adapter = peftcore.attach(model, "lora", rank=2, targets=["attention.query", "attention.value"])
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    changed = model(x)
    assert (changed - before).abs().max() > 1e-4
    changed.sum().backward()
    adapter.check_alive()
    peftcore.merge(model)
    assert torch.allclose(model(x), changed, atol=1e-5)
    peftcore.unmerge(model)
    adapter.detach()
    assert torch.equal(model(x), before)


def test_the_slices_of_the_fused_projection_are_query_key_and_value() -> None:
    model = backbone_named("timm-vit").tiny()
    rows = {s.role: s.features for s in survey(model, backbone_of(model)).sites if s.features}
    assert rows == {
        "attention.query": (0, 32), "attention.key": (32, 64), "attention.value": (64, 96),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "head", "widths"),
    [
        ("resnet18", "fc", [64, 64, 128, 128, 256, 256, 512, 512]),
        ("resnet26", "fc", [256, 256, 512, 512, 1024, 1024, 2048, 2048]),
        ("seresnet18", "fc", [64, 64, 128, 128, 256, 256, 512, 512]),
        ("test_efficientnet", "classifier", [16, 24, 32, 48, 64]),
        ("mobilenetv3_small_050", "classifier", None),
    ],
)
def test_a_cnn_has_blocks_convolutions_norms_and_a_head(
    architecture: str, head: str, widths: list[int] | None
) -> None:
    with torch.device("meta"):
        model = timm.create_model(architecture)
    backbone = backbone_of(model)
    assert backbone.name == "timm-cnn"
    sites = survey(model, backbone).sites
    assert {s.role for s in sites} == {"model", "block", "conv", "norm", "head"}
    assert [s.path for s in sites if s.role == "head"] == [head]
    made = [s.layer.out_features for s in sites if s.role == "block"]
    assert all(made) and (widths is None or made == widths)


class Wrapper(nn.Module):
    """A task's own head around a network."""

    def __init__(self, network: nn.Module, width: int):
        super().__init__()
        self.network = network
        self.classifier = nn.Sequential(nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.mark.parametrize(
    ("family", "width"), [("timm-vit", 32), ("timm-cnn", 32), ("clip-vision", 16)]
)
def test_in_a_wrapper_every_layer_outside_of_the_network_is_a_head(family: str, width: int) -> None:
    network = backbone_named(family).tiny()
    model = Wrapper(network, width)
    assert backbone_of(model).name == family and backbone_of(model).entry(model) == "network"
    found = {(s.path, s.role) for s in survey(model, backbone_of(model)).sites}
    inner = {(s.path, s.role) for s in survey(network, backbone_of(network)).sites}
    heads = {("classifier.0", "head"), ("classifier.2", "head")}
    assert found == {(f"network.{p}" if p else "network", r) for p, r in inner} | heads


def test_a_tower_without_its_projection_is_known() -> None:
    tower = CLIPVisionModel(backbone_named("clip-vision").tiny().config)
    found = paths(tower)
    assert found["model"] == [""] and "pooler" not in found
    assert found["attention.query"] == ["encoder.layers.0.self_attn.q_proj"]


def test_a_convolution_with_the_padding_of_tensorflow_takes_another_weight() -> None:
    from timm.layers.conv2d_same import Conv2dSame

    from peftcore import layer_of

    conv = Conv2dSame(4, 6, 3, stride=2, groups=2)
    handler = layer_of(conv)
    assert handler is not None
    assert handler.info(conv).weight_shape == (6, 2, 3, 3) and handler.info(conv).kind == "conv2d"
    x = torch.randn(2, 4, 9, 8)
    assert torch.equal(handler.call(conv, conv.weight, x), conv(x))
    other = Conv2dSame(4, 6, 3, stride=2, groups=2)
    other.bias = conv.bias
    assert torch.equal(handler.call(conv, other.weight, x), other(x))
