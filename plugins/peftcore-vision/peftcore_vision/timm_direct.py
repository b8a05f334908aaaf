"""Families of timm whose attention reads the weight of its projection and never calls the layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from peftcore import base_modules, layer_of, path_matches
from peftcore_vision.networks import images
from peftcore_vision.timm_models import TimmVit

_BLOCK = "**.blocks.*"
_OF_EVA = {
    "attention.query": f"{_BLOCK}.attn.q_proj",
    "attention.key": f"{_BLOCK}.attn.k_proj",
    "attention.value": f"{_BLOCK}.attn.v_proj",
    "mlp.gate": f"{_BLOCK}.mlp.fc1_g",
    "mlp.up": f"{_BLOCK}.mlp.{{fc1,fc1_x}}",
}


class TimmBeit(TimmVit):
    """BEiT, Bao et al. 2022; EVA, Fang et al. 2023, and EVA-02, whose positions are rotated.

    Biases of queries and values are parameters of the attention itself, so the fused projection is
    computed from its weight. EVA-02 has three projections where the checkpoint has.
    """

    modules = ("timm.models.beit", "timm.models.eva")
    classifiers = ("head",)
    direct_weights = (f"{_BLOCK}.attn.qkv",)
    lacks = {
        "further-tokens": "its attention has a place for each of its patches and none for further"
        " tokens",
    }
    parameter_roles = {
        **TimmVit.parameter_roles,
        "x-relative-position": "**.relative_position_bias_table",
    }
    small = {**TimmVit.small, "architecture": "beit_base_patch16_224"}
    configs = {
        "beit-b16": {"architecture": "beit_base_patch16_224"},
        "eva02-b14": {"architecture": "eva02_base_patch14_224"},
    }

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; those of three projections and of gates where there are any."""
        paths = [path for path, _, _ in base_modules(model)]
        own = {
            role: glob
            for role, glob in _OF_EVA.items()
            if any(path_matches(p, (glob,)) for p in paths)
        }
        return {**super().role_globs(model), **{role: (glob,) for role, glob in own.items()}}


class TimmSwinV2(TimmVit):
    """Swin transformer v2, Liu et al. 2022: stages of growing width, attention within windows.

    Features have their grid before their channels, [B, H, W, C]; inside of attention the rows are
    windows.
    """

    modules = ("timm.models.swin_transformer_v2",)
    classifiers = ("head.fc",)
    direct_weights = ("**.layers.*.blocks.*.attn.qkv",)
    has = ("one-pass", "own-queries")
    roles = {
        "embeddings": "**.patch_embed",
        "patch": "**.patch_embed.proj",
        "block": "**.layers.*.blocks.*",
        "attention": "**.layers.*.blocks.*.attn",
        "attention.qkv": "**.layers.*.blocks.*.attn.qkv",
        "attention.output": "**.layers.*.blocks.*.attn.proj",
        "mlp": "**.layers.*.blocks.*.mlp",
        "mlp.up": "**.layers.*.blocks.*.mlp.fc1",
        "mlp.down": "**.layers.*.blocks.*.mlp.fc2",
        "x-merging": "**.layers.*.downsample.reduction",
        "x-relative-position": "**.layers.*.blocks.*.attn.cpb_mlp.*",
    }
    parameter_roles = {}
    small = {
        "architecture": "swinv2_tiny_window8_256", "img_size": 32, "patch_size": 4,
        "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 4), "window_size": 4,
    }  # fmt: skip
    configs = {"swin-v2-t": {"architecture": "swinv2_tiny_window8_256"}}

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the stage that a module is in; of the model, the last one's."""
        if hasattr(module, "num_features"):
            return int(self._network(model).num_features)
        layers = ((layer_of(m), m) for _, m, _ in base_modules(module))
        infos = [layer.info(m) for layer, m in layers if layer is not None]
        return next((i.out_features for i in reversed(infos) if i.kind == "norm"), None)

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small member, whose branches count: timm starts them at 0."""
        model = super().tiny(head=head)
        for _, module, _ in base_modules(model):
            if isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
        return model

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random images of the size that the model is made for."""
        network = self._network(model)
        return {"x": images(model, rows, 3, *network.patch_embed.img_size)}
