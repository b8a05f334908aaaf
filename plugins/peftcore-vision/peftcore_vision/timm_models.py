"""Image models of timm: where their layers are, named sizes, a small member each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
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
    layer_of,
    query_key_value,
    resolve_source,
    unknown_size,
)
from peftcore_vision.networks import dtype_of, images, outside
from peftcore_vision.timm_checkpoint import (
    Checkpoint,
    architecture_of,
    fill,
    import_timm,
    read_checkpoint,
)

_OPTIONS = ("num_labels", "dtype", "img_size")
_CLASSES = 1000  # of ImageNet


class TimmBackbone(Backbone):
    """A family of timm's models; their ``forward`` takes the images as ``x``."""

    heads: ClassVar[tuple[str, ...]] = ("image-classification",)
    generating = ()
    #: Modules of timm whose architectures belong to the family.
    modules: ClassVar[tuple[str, ...]] = ()
    #: Globs of what ``num_classes`` adds to a network.
    classifiers: ClassVar[tuple[str, ...]] = ()
    parameter_roles = {
        "embeddings.position": "**.pos_embed",
        "x-class-token": "**.{cls_token,dist_token,reg_token}",
    }
    #: Arguments of the member that :meth:`tiny` makes.
    small: ClassVar[Mapping[str, Any]] = {}

    # --- places ------------------------------------------------------------------------------

    def entry(self, model: nn.Module) -> str:
        """Return the path of the outermost model of timm."""
        return next((p for p, module, _ in base_modules(model) if _is_network(module)), "")

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; classifiers and every layer outside of the network are heads."""
        network = self.entry(model)
        modules = dict(model.get_submodule(network).named_modules())
        own = [
            f"{network}.{name}" if network else name
            for name in self.classifiers
            if layer_of(modules.get(name, nn.Identity())) is not None
        ]
        head = (*own, *outside(model, network))
        return {
            "model": (network,),
            **super().role_globs(model),
            **({"head": head} if head else {}),
        }

    def _network(self, model: nn.Module) -> Any:
        return model.get_submodule(self.entry(model))

    # --- loading and building ----------------------------------------------------------------

    def recognises(self, source: str) -> bool:
        """Tell whether a folder's config.json, or a name ``timm/...``, is of this family."""
        architecture = architecture_of(source)
        return bool(architecture) and self._knows(architecture)

    def _knows(self, architecture: str) -> bool:
        models = import_timm().models
        known: bool = models.is_model(architecture)
        return known and models.model_entrypoint(architecture).__module__ in self.modules

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load a folder that timm's ``save_for_hf`` wrote, or a hub's name ``timm/...``.

        The tokenizer of what is returned is timm's transform for evaluation, from a PIL image to
        [channels, height, width].

        Args:
            source: folder or name; a folder is read without any network.
            head: ``none`` for pooled features, or ``image-classification``.
            options: ``num_labels`` (the checkpoint's by default; another number starts a new
                classifier), ``dtype`` (float32 by default), ``img_size`` in pixels (positions are
                interpolated).

        Raises:
            ConfigError: the source does not exist, is damaged, or is not of this family.
        """
        return self._load(source, head, options, on_meta=False)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device; a named size is taken to be whole."""
        if self.is_size(source):
            return super().load_on_meta(source, head=head, **options)
        with torch.device("meta"):
            return self._load(source, head, options, on_meta=True)

    def _load(self, source: str, head: str, options: dict[str, Any], *, on_meta: bool) -> Loaded:
        check_options(self._label, head, self.heads, options, _OPTIONS)
        dtype = dtype_of(options.get("dtype"))
        place = str(resolve_source(source, "model") or source)
        checkpoint = self._read(place)
        classes = self._classes(checkpoint, head, options)
        model = self._make(checkpoint.architecture, classes, **self._arguments(checkpoint))
        new_head = head != "none" and (classes != checkpoint.classes)
        held = checkpoint.tensors(on_meta=on_meta)
        fresh = fill(model, held, checkpoint.source, self.classifiers, new_head=new_head)
        size = options.get("img_size")
        if size is not None:
            self._resize(model, size)
        return Loaded(model.to(dtype=dtype), _transform(model, size), fresh, source)

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a named size, or what a folder's config.json says, with random weights.

        Args:
            config: name of a size, or a source as in :meth:`load`.
            head: as in :meth:`load`.
            options: as in :meth:`load`; ``num_labels`` of a named size is ImageNet's by default.

        Raises:
            ConfigError: the family has no such size.
        """
        check_options(self._label, head, self.heads, options, _OPTIONS)
        dtype = dtype_of(options.get("dtype"))
        if self.is_size(config):
            classes = 0 if head == "none" else options.get("num_labels", _CLASSES)
            model = self._make(classes=classes, **self.configs[config])
        elif Path(config).is_dir() or "/" in config:
            checkpoint = self._read(str(resolve_source(config, "model") or config))
            classes = self._classes(checkpoint, head, options)
            model = self._make(checkpoint.architecture, classes, **self._arguments(checkpoint))
        else:
            raise unknown_size(config, self._label, self.configs)
        if "img_size" in options:
            self._resize(model, options["img_size"])
        return model.to(dtype=dtype)

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small member of the family."""
        check_options(self._label, head, self.heads, {}, ())
        return self._make(classes=0 if head == "none" else 5, **self.small)

    @property
    def _label(self) -> str:
        return self.name or type(self).__name__

    def _read(self, source: str) -> Checkpoint:
        checkpoint = read_checkpoint(source)
        if not self._knows(checkpoint.architecture):
            raise ConfigError(
                f"{source} holds the architecture {checkpoint.architecture!r}, which the backbone"
                f" {self._label} does not know. Name the backbone of its family; `peftcore list`"
                " shows those installed."
            )
        return checkpoint

    def _classes(self, checkpoint: Checkpoint, head: str, options: Mapping[str, Any]) -> int:
        if head == "none":
            return 0
        classes: int = options.get("num_labels", checkpoint.classes)
        if not classes:
            raise ConfigError(
                f"{checkpoint.source}: the checkpoint has no classifier. Give num_labels to start"
                " with a new one."
            )
        return classes

    def _arguments(self, checkpoint: Checkpoint) -> dict[str, Any]:
        known = {field.name for field in fields(import_timm().models.PretrainedCfg)}
        settings = {key: value for key, value in checkpoint.settings.items() if key in known}
        return {**checkpoint.arguments, "pretrained_cfg": settings}

    def _make(self, architecture: str, classes: int, **arguments: Any) -> nn.Module:
        create = import_timm().create_model
        try:
            made: nn.Module = create(architecture, **{**arguments, "num_classes": classes})
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"timm cannot build {architecture}: {error}.") from error
        return made.eval()

    def _resize(self, model: nn.Module, size: int) -> None:
        """Make a model ready for square images of another size; a CNN takes any."""
        if not isinstance(size, int) or size < 1:
            raise ConfigError(f"img_size {size!r} is no number of pixels.")


class TimmVit(TimmBackbone):
    """Vision transformers, Dosovitskiy et al. 2021; DeiT; DINOv2, whose branches have a scale.

    One fused layer projects to queries, keys and values. The table of positions and the class
    token are parameters of the model itself, with roles of their own.
    """

    modules = ("timm.models.vision_transformer", "timm.models.deit")
    classifiers = ("head", "head_dist")
    roles = {
        "embeddings": "**.patch_embed",
        "patch": "**.patch_embed.proj",
        "block": "**.blocks.*",
        "attention": "**.blocks.*.attn",
        "attention.qkv": "**.blocks.*.attn.qkv",
        "attention.output": "**.blocks.*.attn.proj",
        "mlp": "**.blocks.*.mlp",
        "mlp.up": "**.blocks.*.mlp.fc1",
        "mlp.down": "**.blocks.*.mlp.fc2",
    }
    small = {
        "architecture": "vit_tiny_patch16_224", "img_size": 16, "patch_size": 4, "embed_dim": 32,
        "depth": 2, "num_heads": 4,
    }  # fmt: skip
    configs = {
        "vit-b16-224": {"architecture": "vit_base_patch16_224"},
        "vit-l16": {"architecture": "vit_large_patch16_224"},
        "vit-h14": {"architecture": "vit_huge_patch14_224"},
        "vit-s14": {"architecture": "vit_small_patch14_dinov2"},
        "vit-b14": {"architecture": "vit_base_patch14_dinov2"},
    }

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the tokens."""
        return int(self._network(model).embed_dim)

    def slices(self, path: str, role: str, layer: LayerInfo) -> Mapping[str, tuple[int, int]]:
        """Return the three parts of the fused projection."""
        return query_key_value(layer) if role == "attention.qkv" else {}

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random images of the size that the model is made for."""
        network = self._network(model)
        return {"x": images(model, rows, network.in_chans, *network.patch_embed.img_size)}

    def _resize(self, model: nn.Module, size: int) -> None:
        super()._resize(model, size)
        network: Any = model
        patch = network.patch_embed.patch_size[0]
        if size % patch:
            raise ConfigError(f"img_size {size} is no multiple of {patch}, the size of a patch.")
        network.set_input_size(img_size=(size, size))


class TimmCnn(TimmBackbone):
    """ResNet, He et al. 2016, and the inverted residuals of EfficientNet and MobileNetV3.

    Features are channels first, [B, C, H, W], and the width of the stream grows from stage to
    stage. Convolutions and norms have their roles from their types.
    """

    modules = ("timm.models.resnet", "timm.models.efficientnet", "timm.models.mobilenetv3")
    classifiers = ("fc", "classifier")
    has = ("one-pass",)
    # what methods change of attention by default is changed of the convolutions here
    stands_in = {
        "all-linear": "conv",
        "attention.query": "conv",
        "attention.key": "conv",
        "attention.value": "conv",
        "attention.output": "conv",
        "mlp.up": "conv",
        "mlp.down": "conv",
    }
    roles = {"block": ("**.layer{1,2,3,4}.*", "**.blocks.*.*")}
    small = {
        "architecture": "resnet18", "layers": (1, 1, 1, 1), "channels": (16, 16, 24, 32),
        "stem_width": 16, "zero_init_last": False,
    }  # fmt: skip
    configs = {
        "resnet18": {"architecture": "resnet18"},
        "resnet50": {"architecture": "resnet50"},
        "resnet101": {"architecture": "resnet101"},
        "efficientnet-lite0": {"architecture": "tf_efficientnet_lite0"},
        "efficientnet-b0": {"architecture": "efficientnet_b0"},
    }

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the channels of the network's features, or of the last norm inside a module."""
        if _is_network(module):
            return int(self._network(model).num_features)
        layers = ((layer_of(m), m) for _, m, _ in base_modules(module))
        infos = [layer.info(m) for layer, m in layers if layer is not None]
        return next((i.out_features for i in reversed(infos) if i.kind == "norm"), None)

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random images of 32 x 32 pixels."""
        stem = next(m for m in self._network(model).modules() if isinstance(m, nn.Conv2d))
        return {"x": images(model, rows, stem.in_channels, 32, 32)}


def _is_network(module: nn.Module) -> bool:
    classes = type(module).__mro__
    ours = any(cls.__module__.startswith("timm.models.") for cls in classes)
    return ours and hasattr(module, "forward_features")


def _transform(model: nn.Module, size: int | None) -> Any:
    """Return timm's transform for evaluation: PIL image to tensor."""
    data = import_timm().data
    given = {} if size is None else {"img_size": size}
    return data.create_transform(**data.resolve_data_config(given, model=model))
