"""The image tower of CLIP: where its layers are, named sizes, a small member."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftcore import (
    ConfigError,
    Context,
    Loaded,
    base_modules,
    check_options,
    resolve_source,
    unknown_size,
)
from peftcore_transformers.backbone import TransformersBackbone
from peftcore_transformers.pretrained import read_model_on_meta
from peftcore_vision.clip_head import ClipClassifier
from peftcore_vision.networks import dtype_of, images, outside

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig

_OPTIONS = ("dtype", "attn_implementation")
_OF_HEAD = ("num_labels", "feature_norm")
_HEAD = "image-classification"
_CLASSES = 1000  # of ImageNet
_BLOCK = "encoder.layers.*"


def _sizes(
    width: int, layers: int, patch: int, projection: int, heads: int = 0, **more: Any
) -> Mapping[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads or width // 64,
        "patch_size": patch,
        "projection_dim": projection,
        **more,
    }


class ClipVision(TransformersBackbone):
    """The image tower of CLIP, Radford et al. 2021, with its projection."""

    model_types = ("clip", "clip_vision_model")
    heads = (_HEAD,)
    generating = ()
    roles = {
        "patch": "embeddings.patch_embedding",
        "embeddings": "embeddings",
        "embeddings.position": "embeddings.position_embedding",
        "block": _BLOCK,
        "attention": f"{_BLOCK}.self_attn",
        "attention.query": f"{_BLOCK}.self_attn.q_proj",
        "attention.key": f"{_BLOCK}.self_attn.k_proj",
        "attention.value": f"{_BLOCK}.self_attn.v_proj",
        "attention.output": f"{_BLOCK}.self_attn.out_proj",
        "mlp": f"{_BLOCK}.mlp",
        "mlp.up": f"{_BLOCK}.mlp.fc1",
        "mlp.down": f"{_BLOCK}.mlp.fc2",
        "norm": ("pre_layrnorm", "post_layernorm", f"{_BLOCK}.layer_norm*"),
    }
    small = _sizes(32, 2, 4, 16, heads=4, image_size=16)
    configs = {
        "clip-vit-b32": _sizes(768, 12, 32, 512),
        "clip-vit-b16": _sizes(768, 12, 16, 512),
        "clip-vit-l14": _sizes(1024, 24, 14, 768),
        "clip-vit-bigg14": _sizes(
            1664, 48, 14, 1280, heads=16, intermediate_size=8192, hidden_act="gelu"
        ),
    }

    # --- places ------------------------------------------------------------------------------

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; what lies outside of the tower and its projection is a head."""
        tower = self._network(model)
        globs = {
            role: tuple(f"{tower}.{g}" if tower else g for g in _listed(given))
            for role, given in self.roles.items()
        }
        besides = [path for path in outside(model, tower) if path != self.entry(model)]
        projection = [path for path in besides if path.endswith("visual_projection")]
        head = [path for path in besides if path not in projection]
        found = {"pooler": projection, "head": head}
        return {"model": (tower,), **globs, **{role: tuple(p) for role, p in found.items() if p}}

    def _network(self, model: nn.Module) -> str:
        """Return the path of the image tower without its projection."""
        from transformers import CLIPVisionModel

        towers = (p for p, m, _ in base_modules(model) if isinstance(m, CLIPVisionModel))
        return next(towers, "")

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the tower's tokens."""
        tower: Any = model.get_submodule(self._network(model))
        return int(tower.config.hidden_size)

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say nothing: every patch is real."""
        return Context()

    # --- loading and building ----------------------------------------------------------------

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load the image tower of a folder that ``save_pretrained`` wrote, or of a hub's name.

        The tokenizer of what is returned is CLIP's image processor, where the source has one.

        Args:
            source: a checkpoint of the whole of CLIP or of its image tower.
            head: ``none``, or ``image-classification``: a new linear layer on ``image_embeds``.
            options: ``dtype`` (the checkpoint's by default), ``attn_implementation``; with a head
                ``num_labels``, and ``feature_norm`` (``l2`` divides embeddings by their length).

        Raises:
            ConfigError: the source does not exist, is damaged, or is not CLIP.
        """
        return self._load(source, head, options, on_meta=False)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device; a named size is taken to be whole."""
        if self.is_size(source):
            return super().load_on_meta(source, head=head, **options)
        return self._load(source, head, options, on_meta=True)

    def _load(self, source: str, head: str, options: dict[str, Any], *, on_meta: bool) -> Loaded:
        from transformers import CLIPVisionModelWithProjection as Tower

        of_head = self._of_head(head, options)
        place = self._place(source)
        chosen = {
            key: value
            for key, value in options.items()
            if value is not None and key not in _OF_HEAD
        }
        if "dtype" in chosen:
            chosen["dtype"] = dtype_of(chosen["dtype"])
        local = {"local_files_only": Path(place).expanduser().is_dir()}
        if on_meta:
            model, info = read_model_on_meta(place, Tower, _config(place), {**local, **chosen})
        else:
            read: Any = Tower.from_pretrained
            try:
                model, info = read(place, output_loading_info=True, **local, **chosen)
            except Exception as error:
                raise ConfigError(
                    f"{source}: the image tower cannot be read: {_first(error)}"
                ) from error
        # a tower that was saved without its projection gets a random one
        missing = sorted(k for k in info["missing_keys"] if not k.startswith("visual_projection"))
        if missing:
            raise ConfigError(
                f"{source}: the checkpoint lacks {len(missing)} tensors of the image tower, such as"
                f" {missing[0]}; they would be random. Fetch or save the checkpoint anew."
            )
        fresh = tuple(n for n, _ in model.named_parameters() if n in info["missing_keys"])
        if of_head:
            with torch.device("meta" if on_meta else "cpu"):
                model = ClipClassifier(model, **of_head).to(dtype=model.dtype)
            fresh = (*(f"tower.{name}" for name in fresh), "classifier.weight", "classifier.bias")
        return Loaded(model.eval(), _processor(place), fresh, source)

    def _of_head(self, head: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the classifier, nothing where there is none.

        Raises:
            ConfigError: an option or the head is unknown, or it is not said how many labels.
        """
        with_head = head == _HEAD
        known = (*_OPTIONS, *_OF_HEAD) if with_head else _OPTIONS
        check_options(self._label, head, self.heads, options, known)
        if not with_head:
            return {}
        norm = options.get("feature_norm") or "none"
        if norm not in ("none", "l2"):
            raise ConfigError(f"feature_norm {norm!r} is neither none nor l2.")
        if not options.get("num_labels"):
            raise ConfigError(f"{self._label} has no classifier of its own. Give num_labels.")
        return {"labels": int(options["num_labels"]), "norm": norm}

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a named size, or what a folder's config.json says, with random weights.

        Args:
            config: name of a size, or a source as in :meth:`load`.
            head: as in :meth:`load`.
            options: as in :meth:`load`.

        Raises:
            ConfigError: the family has no such size.
        """
        given = {"num_labels": _CLASSES, **options} if head == _HEAD else options
        of_head = self._of_head(head, given)
        if self.is_size(config):
            made = self._tower(self.configs[config])
        elif Path(config).is_dir() or "/" in config:
            made = self._tower(_config(self._place(config)).to_dict())
        else:
            raise unknown_size(config, self._label, self.configs)
        made = ClipClassifier(made, **of_head) if of_head else made
        return made.eval().to(dtype=dtype_of(options.get("dtype")))

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small tower with its projection."""
        check_options(self._label, head, self.heads, {}, ())
        tower = self._tower(self.small)
        return tower if head == "none" else ClipClassifier(tower, 5, "none").eval()

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random images of the tower's size."""
        tower: Any = model.get_submodule(self._network(model))
        size = tower.config.image_size
        return {"pixel_values": images(model, rows, tower.config.num_channels, size, size)}

    def _place(self, source: str) -> str:
        """Return the folder or the hub's name of a source of this family."""
        place = str(resolve_source(source, "model") or source)
        if self.recognises(place):
            return place
        if Path(place).expanduser().is_dir():
            raise ConfigError(
                f"{source}: its config.json is missing, damaged, or of another family than"
                f" {self._label}. Name a folder that save_pretrained of CLIP wrote, or the backbone"
                " that fits."
            )
        raise ConfigError(
            f"{source} is no folder here and cannot be fetched. Check the name or the path."
        )

    @staticmethod
    def _tower(sizes: Mapping[str, Any]) -> nn.Module:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        made: nn.Module = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes))
        return made.eval()

    @property
    def _label(self) -> str:
        return self.name or type(self).__name__


def _listed(globs: str | Sequence[str]) -> Sequence[str]:
    return (globs,) if isinstance(globs, str) else globs


def _config(place: str) -> CLIPVisionConfig:
    from transformers import CLIPVisionConfig

    local = Path(place).expanduser().is_dir()
    try:
        return CLIPVisionConfig.from_pretrained(place, local_files_only=local)
    except Exception as error:
        raise ConfigError(f"{place}: config.json cannot be read: {_first(error)}") from error


def _processor(place: str) -> Any:
    folder = Path(place).expanduser()
    if folder.is_dir() and not (folder / "preprocessor_config.json").is_file():
        return None
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(place, local_files_only=folder.is_dir())
    except Exception as error:
        raise ConfigError(
            f"{place}: preprocessor_config.json cannot be read: {_first(error)}"
        ) from error


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{(lines[0] if lines else type(error).__name__).rstrip('.')}."
