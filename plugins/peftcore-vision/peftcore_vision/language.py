"""Models of an image network and a language network: LLaVA and its kin, CLIP, SigLIP."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from peftcore import Context, LayerInfo, bare_class, base_modules, device_of, query_key_value
from peftcore_transformers.backbone import TransformersBackbone

#: Blocks of an image network: of CLIP and SigLIP, and of Qwen-VL.
_IMAGE = ("**.{vision_tower,vision_model}.encoder.layers.*", "**.visual.blocks.*")
#: Blocks of a language network: decoders laid out as LLaMA, and the text towers of CLIP and SigLIP.
_WORDS = ("**.language_model.layers.*", "**.text_model.encoder.layers.*")
_BLOCK = (*_IMAGE, *_WORDS)
#: The head of SigLIP's image tower, which pools by attention.
_POOLING = "**.vision_model.head"


def _in_blocks(*names: str) -> tuple[str, ...]:
    return tuple(f"{block}.{name}" for name in names for block in _BLOCK)


class VisionLanguage(TransformersBackbone):
    """LLaVA (Liu et al. 2023) and its kin, and whole CLIP and SigLIP: two stacks of blocks.

    The stacks are ``vision``, which takes in what projects its output to the language network, and
    ``language``. What methods may know of a call, its mask and its prompt, is of ``language``; so
    methods that act on a sequence act there, and ``layers`` counts there, unless targets name the
    other stack. In that one every token is real.

    Image blocks whose output the model leaves out (LLaVA reads the last but one) are ``unused``.
    """

    model_types = (
        "llava", "llava_next", "llava_onevision", "vipllava", "paligemma", "gemma3", "qwen2_vl",
        "qwen2_5_vl", "qwen3_vl", "siglip", "clip",
    )  # fmt: skip
    heads = ("image-text-to-text",)
    default_head = "image-text-to-text"
    causal = True
    positional = ()
    has = ("tokens", "cache", "own-queries")
    lacks = {
        "bidirectional": "tokens of its language network do not see those after them, and what goes"
        " into blocks goes there; attach to the image network by itself",
        "one-pass": "images have their places among the tokens, which further tokens would move",
    }
    stacks = {
        "vision": (
            "**.{vision_tower,vision_model,visual}",
            "**.{multi_modal_projector,visual_projection}",
        ),
        "language": "**.{language_model,text_model,text_projection}",
    }
    main_stack = "language"
    roles = {
        "patch": ("**.embeddings.patch_embedding", "**.visual.patch_embed.proj"),
        "x-class-token": "**.{vision_tower,vision_model}.embeddings",
        "embeddings": ("**.embed_tokens", "**.token_embedding"),
        "embeddings.position": ("**.embeddings.position_embedding", "**.visual.pos_embed"),
        "block": _BLOCK,
        "attention": _in_blocks("self_attn", "attn"),
        "attention.query": _in_blocks("self_attn.q_proj"),
        "attention.key": _in_blocks("self_attn.k_proj"),
        "attention.value": _in_blocks("self_attn.v_proj"),
        "attention.output": (
            *_in_blocks("self_attn.{o_proj,out_proj}", "attn.proj"),
            f"{_POOLING}.attention.out_proj",
        ),
        "mlp": (*_in_blocks("mlp"), f"{_POOLING}.mlp"),
        "mlp.gate": _in_blocks("mlp.gate_proj"),
        "mlp.up": (*_in_blocks("mlp.{fc1,up_proj,linear_fc1}"), f"{_POOLING}.mlp.fc1"),
        "mlp.down": (*_in_blocks("mlp.{fc2,down_proj,linear_fc2}"), f"{_POOLING}.mlp.fc2"),
        "norm": (
            *_in_blocks("*norm", "*norm1", "*norm2", "self_attn.{q,k}_norm"),
            "**.{pre_layrnorm,post_layernorm,final_layer_norm}",
            "**.language_model.norm",
            f"{_POOLING}.layernorm",
        ),
        "projector": (
            "**.multi_modal_projector.linear*",
            "**.visual.merger.mlp.{0,2}",
            "**.visual.merger.linear_fc*",
            "**.visual.deepstack_merger_list.*.linear_fc*",
        ),
    }
    small = {
        "image_token_index": 95,
        "vision_feature_layer": -2,
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
        },
        "text_config": {
            "model_type": "llama",
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    }
    configs = {
        "llava-1.5-7b": {
            "vision_config": {
                "model_type": "clip_vision_model",
                "image_size": 336,
                "patch_size": 14,
                "hidden_size": 1024,
                "intermediate_size": 4096,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "projection_dim": 768,
            },
            "text_config": {"model_type": "llama", "vocab_size": 32064},
        },
        # both towers; the size clip-vit-bigg14 is the image tower alone
        "clip-vit-bigg-14": {
            "model_type": "clip",
            "projection_dim": 1280,
            "vision_config": {
                "hidden_size": 1664,
                "intermediate_size": 8192,
                "num_hidden_layers": 48,
                "num_attention_heads": 16,
                "patch_size": 14,
                "hidden_act": "gelu",
            },
            "text_config": {
                "hidden_size": 1280,
                "intermediate_size": 5120,
                "num_hidden_layers": 32,
                "num_attention_heads": 20,
                "hidden_act": "gelu",
            },
        },
    }

    # --- places ------------------------------------------------------------------------------

    def entry(self, model: nn.Module) -> str:
        """Return the path of the model; of CLIP and SigLIP, whose towers run apart, of the text's.

        So ``get_text_features`` is a call of which methods are told, as a call of the whole is.
        """
        whole = super().entry(model)
        towers = hasattr(model.get_submodule(whole), "text_model")
        return ".".join(part for part in (whole, "text_model" if towers else "") if part)

    def _network(self, model: nn.Module) -> str:
        """Return the path of the networks without a language-model head."""
        whole = super().entry(model)
        return super()._network(model) if whole == self.entry(model) else whole

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; what the model makes of its images decides which blocks run."""
        globs = {
            **super().role_globs(model),
            "attention.qkv": ("**.visual.blocks.*.attn.qkv",),
            "pooler": ("**.{visual_projection,text_projection}", "**.text_model.head", _POOLING),
        }
        paths = [path for path, module, _ in base_modules(model) if _projects(path, module)]
        globs["projector"] = (*globs["projector"], *paths)
        count = self._image_blocks(model)
        if count is None:
            return globs
        every = _IMAGE[0].removesuffix("*")
        used, rest = (f"{every}{{{','.join(map(str, part))}}}" for part in count)
        found = {
            role: tuple(g.replace(f"{every}*", used) for g in gs) for role, gs in globs.items()
        }
        norms = tuple(g for g in found["norm"] if "post_layernorm" not in g)
        seen = "**.{pre_layrnorm,final_layer_norm}"
        unused = (rest, f"{rest}.**", "**.vision_tower.post_layernorm")
        return {**found, "norm": (*norms, seen), "unused": unused}

    def _image_blocks(self, model: nn.Module) -> tuple[range, range] | None:
        """Return the image blocks that a model reads and the rest, if it reads inside the tower."""
        whole: Any = model.get_submodule(super().entry(model))
        config = getattr(whole, "config", None)
        layers = getattr(config, "vision_feature_layer", None)
        layers = getattr(config, "vision_feature_layers", layers)
        if layers is None:
            return None
        count = int(config.vision_config.num_hidden_layers)  # type: ignore[union-attr]
        chosen = [layers] if isinstance(layers, int) else layers
        last = max(i if i >= 0 else count + 1 + i for i in chosen)
        return range(last), range(last, count)

    def slices(self, path: str, role: str, layer: LayerInfo) -> Mapping[str, tuple[int, int]]:
        """Return the three parts of Qwen-VL's fused projection of images."""
        return query_key_value(layer) if role == "attention.qkv" else {}

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the hidden size of the network that a module is in; of the model, its words'."""
        while True:
            config = getattr(model.get_submodule(path), "config", None)
            config = getattr(config, "text_config", config)
            # Qwen-VL's images have a hidden size that is the width of what they are projected to
            width = getattr(config, "embed_dim", None) or getattr(config, "hidden_size", None)
            if width is not None:
                return int(width)
            if not path:
                return None
            path = path.rpartition(".")[0]

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say what is known of the tokens of the language network; see the base class."""
        names = list(inspect.signature(bare_class(entry).forward).parameters)[1:]  # type: ignore
        return super().context(entry, (), {**dict(zip(names, args, strict=False)), **kwargs})

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a named size or what a config.json says; whole CLIP writes nothing: no head."""
        towers = self.is_size(config) and self.configs[config].get("model_type") == "clip"
        bare = towers and head == self.default_head
        return super().build(config, head="none" if bare else head, **options)

    # --- a small member ------------------------------------------------------------------------

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return an image and a text a row, of unequal lengths; labels where there is a loss."""
        whole: Any = model.get_submodule(super().entry(model))
        config, length = whole.config, 12
        words, image = config.text_config, config.vision_config
        lengths = torch.tensor([length - 3 * (row % 3) for row in range(rows)])
        mask = torch.arange(length) < lengths[:, None]
        ids = torch.randint(5, words.vocab_size - 1, (rows, length)).masked_fill(~mask, 0)
        token = getattr(config, "image_token_id", None)
        if token is not None:
            ids[:, 1 : 1 + (image.image_size // image.patch_size) ** 2] = token
        size = (rows, image.num_channels, image.image_size, image.image_size)
        batch = {"input_ids": ids, "attention_mask": mask.long(), "pixel_values": torch.randn(size)}
        if type(model).__name__.endswith("ForConditionalGeneration"):
            answer = mask & (torch.arange(length) > 5)
            batch["labels"] = ids.masked_fill(~answer, -100)
        return {name: value.to(device_of(model)) for name, value in batch.items()}


def _projects(path: str, module: nn.Module) -> bool:
    """Tell whether a module is a projector that holds weights itself, as Gemma 3's does."""
    return path.endswith("multi_modal_projector") and bool(module._parameters)
