"""The backbone of captioning: where the parts of CLIP and of a LLaMA are, and how they load.

Both parts are known by the backbones that are installed for them (``vision-language`` of
peftcore-vision, ``llama`` of peftcore-llm); this one puts them together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftcore import (
    Backbone,
    ConfigError,
    Context,
    Loaded,
    argument_names,
    backbone_for_plan,
    backbone_for_source,
    backbone_named,
    backbone_of,
    check_options,
    device_of,
    read_call,
    unknown_size,
)
from peftcore_video.captioner import LANGUAGE, PROJECTION, ClipCaptioner

_TOWERS = "vision-language"
_OPTIONS = ("dtype", "attn_implementation", LANGUAGE)
_SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}


@dataclass
class Tokenizers:
    """Those of both parts, None where a source has none.

    Attributes:
        language: of the language model.
        towers: of CLIP's text tower.
    """

    language: Any
    towers: Any


class ClipCaptionerBackbone(Backbone):
    """CLIP's towers, a linear layer, and a decoder, as :class:`ClipCaptioner` runs them.

    There are three stacks, ``vision``, ``text`` and ``language``. What methods may know of a call,
    its mask and its prompt, is of ``language``, visual tokens included; so methods that act on a
    sequence act there, and ``layers`` counts there, unless targets name another stack.
    """

    has = ("tokens", "cache", "own-queries")
    lacks = {
        "bidirectional": "tokens of its language network do not see those after them, and what goes"
        " into blocks goes there",
        "one-pass": "frames have their places in front of the tokens, which further tokens would"
        " move",
    }
    stacks = {
        "vision": ("clip.{vision_model,visual_projection}", "projection"),
        "text": "clip.{text_model,text_projection}",
        "language": "language_model",
    }
    main_stack = "language"
    configs = {
        "clip-bigg-llama-7b": {"source": "clip-vit-bigg-14", LANGUAGE: "llama-7b"},
    }

    # --- places ------------------------------------------------------------------------------

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs, as the backbones of the parts tell them."""
        at = self._place(model)
        found: dict[str, tuple[str, ...]] = {}
        for part in ("clip", LANGUAGE):
            inner = model.get_submodule(f"{at}{part}")
            for role, globs in backbone_of(inner).role_globs(inner).items():
                if role != "model":
                    inside = tuple(f"{at}{part}.{glob}" for glob in globs)
                    found[role] = (*found.get(role, ()), *inside)
        found["projector"] = (*found.get("projector", ()), f"{at}projection")
        return {"model": (at.removesuffix("."),), **found}

    def stack_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return name of a stack to globs of its modules."""
        at = self._place(model)
        given = super().stack_globs(model).items()
        return {stack: tuple(f"{at}{glob}" for glob in globs) for stack, globs in given}

    def _place(self, model: nn.Module) -> str:
        """Return the path of the captioner inside a model, with a dot behind it if it is not it."""
        paths = (path for path, part in model.named_modules() if isinstance(part, ClipCaptioner))
        path = next(paths, "")
        return f"{path}." if path else ""

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the hidden size of the part that a module is in; of the model, the language's."""
        at = self._place(model)
        config: Any = model.get_submodule(at.removesuffix(".")).config
        inside = path.removeprefix(at)
        if inside.startswith("clip.vision_model"):
            return int(config.vision_config.hidden_size)
        if inside.startswith("clip.text_model"):
            return int(config.text_config.hidden_size)
        return int(config.language.hidden_size)

    def entry(self, model: nn.Module) -> str:
        """Return the path of the language model, whose call tells of the tokens."""
        return f"{self._place(model)}{LANGUAGE}"

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say which tokens of a call of the language model are real, and which the prompt's."""
        call = {**dict(zip(argument_names(entry), args, strict=False)), **kwargs}
        return read_call(call, causal=True)

    # --- loading and building ----------------------------------------------------------------

    def recognises(self, source: str) -> bool:
        """Tell whether a folder is one that a captioner was saved in."""
        folder = Path(source).expanduser()
        return (folder / PROJECTION).is_file() and (folder / LANGUAGE).is_dir()

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load the whole of CLIP, a language model, and the layer between them.

        Args:
            source: a checkpoint of the whole of CLIP, or a folder that ``write`` of a captioner
                wrote.
            head: ``none``; the language model has its head.
            options: ``language_model``, a source of a decoder, where the folder holds none;
                ``dtype`` and ``attn_implementation``, of both.

        Raises:
            ConfigError: a part does not exist, is damaged, or is of another family.
        """
        return self._load(source, head, options, on_meta=False)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device; parts may be named sizes."""
        return self._load(source, head, options, on_meta=True)

    def _load(self, source: str, head: str, options: dict[str, Any], *, on_meta: bool) -> Loaded:
        check_options(self._label, head, (), options, _OPTIONS)
        if self.is_size(source):
            named = self.configs[source]
            options = {LANGUAGE: named[LANGUAGE], **options}
            towers = named["source"]
        else:
            towers = source
        language = self._language(towers, options.pop(LANGUAGE, None))
        find = backbone_for_plan if on_meta else backbone_for_source
        knows = backbone_named(_TOWERS), find(language)
        given = (towers, "none"), (language, "causal-lm")
        clip, words = (
            (one.load_on_meta if on_meta else one.load)(place, head=kind, **options)
            for one, (place, kind) in zip(knows, given, strict=True)
        )
        with torch.device("meta") if on_meta else nullcontext():
            model = ClipCaptioner(clip.model, words.model)
        fresh = [f"clip.{name}" for name in clip.fresh]
        fresh += [f"{LANGUAGE}.{name}" for name in words.fresh]
        kept = Path(towers).expanduser() / PROJECTION
        if not kept.is_file():
            fresh += [] if self.is_size(source) else ["projection.weight", "projection.bias"]
        elif not on_meta:
            self._restore(model.projection, kept)
        return Loaded(
            model.eval(), Tokenizers(words.tokenizer, clip.tokenizer), tuple(fresh), source
        )

    def _language(self, source: str, named: str | None) -> str:
        """Return the source of the language model.

        Raises:
            ConfigError: none is named, and none lies in the folder.
        """
        inside = Path(source).expanduser() / LANGUAGE
        if named is None and not inside.is_dir():
            raise ConfigError(
                f"backbone.options: {self._label} needs a {LANGUAGE} besides {source}. Write the"
                f" folder of a LLaMA, such as {LANGUAGE}: path/to/llama-7b."
            )
        return str(inside) if named is None else named

    @staticmethod
    def _restore(projection: nn.Linear, file: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            projection.load_state_dict(load_file(file))
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[-1].strip().rstrip(".")
            raise ConfigError(
                f"{file} cannot be read: {reason}. Save the captioner anew."
            ) from error

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a named size, or what a source in :meth:`load` says, with random weights.

        Raises:
            ConfigError: the family has no such size.
        """
        check_options(self._label, head, (), options, _OPTIONS)
        named = self.configs.get(config, {"source": config})
        if not self.is_size(config) and not Path(config).is_dir():
            raise unknown_size(config, self._label, self.configs)
        language = options.pop(LANGUAGE, None) or named.get(LANGUAGE)
        language = self._language(named["source"], language)
        clip = backbone_named(_TOWERS).build(named["source"], **options)
        words = backbone_for_plan(language).build(language, head="causal-lm", **options)
        return ClipCaptioner(clip, words).eval()

    # --- a small member ------------------------------------------------------------------------

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small CLIP with a random small LLaMA."""
        from transformers import CLIPConfig, CLIPModel, LlamaConfig, LlamaForCausalLM

        check_options(self._label, head, (), {}, ())
        sizes = {**_SIZES, "intermediate_size": 48}
        special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        words = {"vocab_size": 96, "max_position_embeddings": 64, **special}
        config = CLIPConfig(
            text_config={**sizes, **words},
            vision_config={**sizes, "image_size": 16, "patch_size": 8, "projection_dim": 16},
            projection_dim=16,
        )
        language = LlamaConfig(**sizes, **words, num_key_value_heads=2)
        return ClipCaptioner(CLIPModel(config), LlamaForCausalLM(language)).eval()

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return two frames and two texts a row, of unequal lengths."""
        config: Any = model.get_submodule(self._place(model).removesuffix(".")).config
        length, size = 12, config.vision_config.image_size
        lengths = torch.tensor([length - 3 * (row % 3) for row in range(rows)])
        mask = torch.arange(length) < lengths[:, None]
        ids = torch.randint(5, config.language.vocab_size, (rows, length)).masked_fill(~mask, 0)
        texts = torch.randint(5, config.text_config.vocab_size, (rows, 5))
        texts[:, -1] = config.text_config.eos_token_id
        given = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "pixel_values": torch.randn(rows, 2, 3, size, size),
            "text_ids": texts,
        }
        return {name: value.to(device_of(model)) for name, value in given.items()}

    @property
    def _label(self) -> str:
        return self.name or type(self).__name__
