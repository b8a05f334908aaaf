"""The families of networks on point clouds: where their layers are, sizes, loading."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from peftcore import (
    Backbone,
    ConfigError,
    LayerInfo,
    Loaded,
    base_modules,
    check_options,
    device_of,
    layer_of,
    nearest,
    query_key_value,
    resolve_source,
    unknown_size,
)
from peftcore_pointcloud.checkpoint import (
    encoder_of,
    family_of,
    fill,
    is_checkpoint,
    model_type_of,
    read_tensors,
    sized,
)
from peftcore_pointcloud.config import PointConfig, read_config
from peftcore_pointcloud.masked import MaskedAutoencoder
from peftcore_pointcloud.masked_scales import MaskedScales
from peftcore_pointcloud.networks import PointM2AE, PointNetwork, PointTransformer

_OPTIONS = ("num_labels", "layout", "dtype")
_RECONSTRUCTION = "masked-reconstruction"
_CLASSES = 40  # of ModelNet40
_REBUILDING = (MaskedAutoencoder, MaskedScales)
_BLOCKS = ("**.blocks.blocks.*", "**.MAE_decoder.blocks.*")
_SCALES = "**.{encoder_blocks,h_decoder}.*.blocks.*"


def _in_blocks(path: str) -> tuple[str, ...]:
    return tuple(f"{block}.{path}" for block in _BLOCKS)


class PointBackbone(Backbone):
    """A family of networks that take clouds as ``points``, [B, N, 3]."""

    heads = ("point-classification",)
    generating = ()
    #: Values of ``model_type``; the first is that of named sizes which say none.
    model_types: ClassVar[tuple[str, ...]] = ()
    #: What the settings of a data set change, by its name.
    layouts: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: Configuration of the member that :meth:`tiny` makes.
    small: ClassVar[Mapping[str, Any]] = {}

    # --- places ------------------------------------------------------------------------------

    def entry(self, model: nn.Module) -> str:
        """Return the path of the outermost network on points."""
        found = (p for p, module, _ in base_modules(model) if isinstance(module, PointNetwork))
        return next(found, "")

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the tokens at a module, of whatever scale it is."""
        for _, inner, _ in base_modules(module):
            if isinstance(inner, nn.LayerNorm):
                return int(inner.normalized_shape[0])
        layers = ((layer_of(m), m) for _, m, _ in base_modules(module))
        infos = [layer.info(m) for layer, m in layers if layer is not None]
        return infos[-1].out_features if infos else None

    def slices(self, path: str, role: str, layer: LayerInfo) -> Mapping[str, tuple[int, int]]:
        """Return the three parts of the fused projection."""
        return query_key_value(layer) if role == "attention.qkv" else {}

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random clouds; groups to hide, where the network reconstructs them."""
        config: PointConfig = model.get_submodule(self.entry(model)).config  # type: ignore[assignment]
        groups = config.groups[-1]
        points = torch.randn(rows, 2 * max(config.groups[0], config.group_sizes[0]), 3)
        batch: dict[str, Any] = {"points": points}
        if isinstance(model.get_submodule(self.entry(model)), _REBUILDING):
            batch["hidden"] = (torch.arange(groups) % 2 == 1).expand(rows, -1)
        return {name: value.to(device_of(model)) for name, value in batch.items()}

    # --- loading and building ----------------------------------------------------------------

    def recognises(self, source: str) -> bool:
        """Tell whether a file of a release, or a folder's config.json, is of this family."""
        return is_checkpoint(source) and model_type_of(source) in self.model_types

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load the file of a release (``pretrain.pth``), or a folder of ``save_pretrained``.

        Args:
            source: file or folder.
            head: ``none`` for pooled features, ``point-classification``, or of Point-MAE and
                Point-M2AE ``masked-reconstruction``.
            options: ``num_labels`` (the checkpoint's by default; another number starts a new
                classifier), ``layout`` (``modelnet`` or ``scanobjectnn``: the numbers of groups,
                which no checkpoint of a release tells), ``dtype``.

        Raises:
            ConfigError: the source does not exist, is damaged, or is not of this family.
        """
        return self._load(source, head, options)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device; a named size is taken to be whole."""
        if self.is_size(source):
            return super().load_on_meta(source, head=head, **options)
        return self._load(source, head, options, on_meta=True)

    def _load(
        self, source: str, head: str, options: Mapping[str, Any], *, on_meta: bool = False
    ) -> Loaded:
        self._check(head, options)
        place = str(resolve_source(source, "model") or source)
        tensors = read_tensors(place)
        config = self._configured(self._of(place, tensors), head, options, place)
        if on_meta:
            with torch.device("meta"):
                model = _made(config, head)
            tensors = {name: value.to("meta") for name, value in tensors.items()}
        else:
            model = _made(config, head)
        whole = isinstance(model, _REBUILDING)
        fresh = fill(model, tensors if whole else encoder_of(tensors), source)
        return Loaded(model.to(dtype=_dtype(options)).eval(), None, fresh, source)

    def configuration(self, source: str, *, head: str = "none", **options: Any) -> PointConfig:
        """Return the sizes of a source or of a named size, with the options in them."""
        self._check(head, options)
        if self.is_size(source):
            return self._sized(source, head, options)
        place = str(resolve_source(source, "model") or source)
        return self._configured(self._of(place, read_tensors(place)), head, options, place)

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a named size, or what a source is, with random weights.

        Args:
            config: name of a size, or a source as in :meth:`load`.
            head: as in :meth:`load`.
            options: as in :meth:`load`; ``num_labels`` of a named size is ModelNet40's by default.

        Raises:
            ConfigError: the family has no such size.
        """
        if not self.is_size(config) and not is_checkpoint(
            str(resolve_source(config, "model") or config)
        ):
            raise unknown_size(config, self._label, self.configs)
        made = _made(self.configuration(config, head=head, **options), head)
        return made.to(dtype=_dtype(options)).eval()

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small member of the family."""
        self._check(head, {})
        labels = 5 if head == self.heads[0] else 0
        config = PointConfig(**self.small).with_(num_labels=labels)
        if head == _RECONSTRUCTION and config.model_type == "point-bert":
            config = config.with_(model_type="point-mae")
        return _made(config, head).eval()

    @property
    def _label(self) -> str:
        return self.name or type(self).__name__

    def _sized(self, name: str, head: str, options: Mapping[str, Any]) -> PointConfig:
        labels = _CLASSES if head == self.heads[0] else 0
        config = PointConfig(**self.configs[name]).with_(num_labels=labels)
        return self._configured(config, head, options, name)

    def _of(self, place: str, tensors: Mapping[str, Any]) -> PointConfig:
        """Return the sizes of a checkpoint: of its config.json, or as its tensors tell."""
        folder = Path(place).expanduser()
        config = read_config(folder) if folder.is_dir() else None
        family = family_of(tensors) if config is None else config.model_type
        if family not in self.model_types:
            raise ConfigError(
                f"{place} holds no network that the backbone {self._label} knows. Name the backbone"
                " of its family; `peftcore list` shows those installed."
            )
        return config or sized(PointConfig(**self.configs[self.model_types[0]]), tensors)

    def _configured(
        self, config: PointConfig, head: str, options: Mapping[str, Any], source: str
    ) -> PointConfig:
        config = config.with_(**self.layouts.get(options.get("layout", ""), {}))
        if head != self.heads[0]:
            return config.with_(num_labels=0)
        labels = options.get("num_labels", config.num_labels)
        if not labels:
            raise ConfigError(
                f"{source}: the checkpoint has no classifier. Give num_labels to start with a new"
                " one."
            )
        return config.with_(num_labels=labels)

    def _check(self, head: str, options: Mapping[str, Any]) -> None:
        layout = options.get("layout")
        more = []
        if layout is not None and layout not in self.layouts:
            more = [
                f"layout {layout!r} is unknown.{nearest(str(layout), self.layouts)} Layouts:"
                f" {', '.join(self.layouts)}."
            ]
        check_options(self._label, head, self.heads, options, _OPTIONS, more)


class PointTransformers(PointBackbone):
    """Point-MAE, Pang et al. 2022, and Point-BERT, Yu et al. 2022: one encoder, two embeddings.

    The class token and its position are parameters of the network itself, so no role names them.
    """

    model_types = ("point-mae", "point-bert")
    heads = ("point-classification", _RECONSTRUCTION)
    roles = {
        "x-groups": "**.group_divider",
        "embeddings": "**.encoder",
        "projector": "**.reduce_dim",
        "embeddings.position": ("**.pos_embed.{0,2}", "**.decoder_pos_embed.{0,2}"),
        "block": _BLOCKS,
        "attention": _in_blocks("attn"),
        "attention.qkv": _in_blocks("attn.qkv"),
        "attention.output": _in_blocks("attn.proj"),
        "mlp": _in_blocks("mlp"),
        "mlp.up": _in_blocks("mlp.fc1"),
        "mlp.down": _in_blocks("mlp.fc2"),
        "head": ("**.cls_head_finetune.*", "**.increase_dim.0"),
    }
    layouts = {
        "modelnet": {"groups": (64,), "group_sizes": (32,)},
        "scanobjectnn": {"groups": (128,), "group_sizes": (32,)},
    }
    small = {
        "model_type": "point-bert", "widths": (32,), "depths": (2,), "heads": 4, "groups": (8,),
        "group_sizes": (4,), "encoder_dims": 24, "drop_path_rate": 0.0, "decoder_depth": 1,
    }  # fmt: skip
    configs = {
        "point-mae": {},
        "point-bert": {"model_type": "point-bert", "encoder_dims": 256},
    }


class PointM2AEs(PointBackbone):
    """Point-M2AE, Zhang et al. 2022: three scales of growing width, each with blocks of its own."""

    model_types = ("point-m2ae",)
    heads = ("point-classification", _RECONSTRUCTION)
    roles = {
        "x-groups": "**.group_dividers.*",
        "embeddings": "**.token_embed.*",
        "embeddings.position": "**.{encoder_pos_embeds,decoder_pos_embeds}.*.{0,2}",
        "block": _SCALES,
        "attention": f"{_SCALES}.attn",
        "attention.qkv": f"{_SCALES}.attn.qkv",
        "attention.output": f"{_SCALES}.attn.proj",
        "mlp": f"{_SCALES}.mlp",
        "mlp.up": f"{_SCALES}.mlp.fc1",
        "mlp.down": f"{_SCALES}.mlp.fc2",
        "head": ("**.cls_head_finetune.*", "**.rec_head"),
    }
    layouts = {
        "modelnet": {"group_sizes": (16, 8, 8), "wide_head": False},
        "scanobjectnn": {"group_sizes": (32, 16, 16), "wide_head": True},
    }
    small = {
        "model_type": "point-m2ae", "widths": (24, 32, 48), "depths": (1, 1, 1), "heads": 4,
        "groups": (16, 12, 8), "group_sizes": (8, 4, 4), "radii": (0.8, 1.6, 0.0),
        "drop_path_rate": 0.0, "decoder_depth": 1,
    }  # fmt: skip
    configs = {
        "point-m2ae": {
            "model_type": "point-m2ae", "widths": (96, 192, 384), "depths": (5, 5, 5),
            "groups": (512, 256, 64), "group_sizes": (16, 8, 8), "radii": (0.32, 0.64, 1.28),
            "decoder_depth": 1,
        },
    }  # fmt: skip


def _made(config: PointConfig, head: str) -> PointNetwork:
    if head == _RECONSTRUCTION:
        if config.model_type == "point-bert":
            raise ConfigError(
                f"{head}: Point-BERT is pre-trained to predict the tokens of a discrete variational"
                " autoencoder (dVAE), which is trained before it and is not here. Tune its released"
                " weights, or pre-train point-mae or point-m2ae, which reconstruct points."
            )
        return (
            MaskedScales(config) if config.model_type == "point-m2ae" else MaskedAutoencoder(config)
        )
    return PointM2AE(config) if config.model_type == "point-m2ae" else PointTransformer(config)


def _dtype(options: Mapping[str, Any]) -> torch.dtype | None:
    value = options.get("dtype")
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if value is None or (isinstance(found, torch.dtype) and found.is_floating_point):
        return found
    raise ConfigError(f"dtype {value!r} is none of float32, bfloat16, float16.")
