"""Backbones whose models are transformers' own classes. The plugin depends on transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from peftcore import (
    Backbone,
    ConfigError,
    Context,
    Loaded,
    base_modules,
    check_options,
    device_of,
    layer_of,
    padding_id,
    path_matches,
    read_call,
    resolve_source,
    unknown_size,
)
from peftcore_transformers.pretrained import (
    check_head,
    class_of,
    give_pad_token,
    is_local,
    model_type,
    read_model,
    read_model_on_meta,
    read_tokenizer,
    remedy,
    unreadable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_AUTO = {
    "none": "AutoModel",
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "masked-lm": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "ctc": "AutoModelForCTC",
    "audio-classification": "AutoModelForAudioClassification",
    "speech-seq2seq": "AutoModelForSpeechSeq2Seq",
    "image-text-to-text": "AutoModelForImageTextToText",
}
_OPTIONS = ("num_labels", "dtype", "attn_implementation")


class TransformersBackbone(Backbone):
    """A family of transformers' models; a plugin gives globs, sizes and a small member as data.

    The globs of ``roles`` begin with ``**.`` so that they hold for the bare network, under a head,
    and inside a wrapper that a task puts around the network.
    """

    #: Values of ``model_type`` in the family's ``config.json``; the first is the default of sizes.
    model_types: ClassVar[tuple[str, ...]] = ()
    #: Heads that the family has, besides ``none``.
    heads: ClassVar[tuple[str, ...]] = (
        "sequence-classification", "token-classification", "question-answering", "masked-lm",
    )  # fmt: skip
    #: Leading parameters of every ``forward`` of the family, as far as the context needs them.
    positional: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    #: The family predicts the next token, so that a row may be a prompt and an answer.
    causal: ClassVar[bool] = False
    #: Configuration of the member that :meth:`tiny` makes.
    small: ClassVar[Mapping[str, Any]] = {}

    # --- places ------------------------------------------------------------------------------

    def entry(self, model: nn.Module) -> str:
        """Return the path of the outermost transformers' model."""
        from transformers import PreTrainedModel

        paths = (p for p, module, _ in base_modules(model) if isinstance(module, PreTrainedModel))
        return next(paths, "")

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; every layer outside of the network, poolers aside, is a head."""
        network = self._network(model)
        globs = {"model": (network,), **super().role_globs(model)}
        if not network:
            return globs
        pooler = globs.get("pooler", ())
        head = tuple(
            path
            for path, module, _ in base_modules(model)
            if not f"{path}.".startswith(f"{network}.")
            and (layer_of(module) is not None or _has_own_parameter(module))
            and not path_matches(path, pooler)
        )
        return {"head": head, **globs} if head else globs

    def _network(self, model: nn.Module) -> str:
        """Return the path of the network without heads; empty where the model is one."""
        entry = self.entry(model)
        module = model.get_submodule(entry)
        prefix = getattr(module, "base_model_prefix", "")
        inner = prefix if prefix and hasattr(module, prefix) else ""
        return ".".join(part for part in (entry, inner) if part)

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the hidden size of the network's configuration."""
        configs: Iterator[Any] = (getattr(m, "config", None) for _, m, _ in base_modules(model))
        return next(int(config.hidden_size) for config in configs if hasattr(config, "hidden_size"))

    # --- context -----------------------------------------------------------------------------

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say which tokens of a call are real, as :func:`peftcore.read_call` does."""
        call = {**dict(zip(self.positional, args, strict=False)), **kwargs}
        return read_call(call, causal=self.causal, padding=padding_id(entry), window=_window(entry))

    # --- loading and building ----------------------------------------------------------------

    def recognises(self, source: str) -> bool:
        """Tell whether the source's ``config.json`` names one of ``model_types``."""
        return model_type(source) in self.model_types

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load a folder that ``save_pretrained`` wrote, or a name that ``from_pretrained`` takes.

        Args:
            source: folder or name; a folder is read without any network.
            head: ``none``, or one of ``heads``.
            options: ``num_labels``, ``dtype`` (``bfloat16``; the checkpoint's by default),
                ``attn_implementation``.

        Raises:
            ConfigError: the source does not exist, is damaged, or is not of this family.
        """
        return self._load(source, head, options, on_meta=False)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device; a named size is taken to be whole."""
        if self.is_size(source):
            return super().load_on_meta(source, head=head, **options)
        return self._load(source, head, options, on_meta=True)

    def configuration(self, source: str, *, head: str = "none", **options: Any) -> Any:
        """Return the configuration of a source or of a named size, with the options in it."""
        self._check(head, options)
        if self.is_size(source):
            config = self._sized(self.configs[source])
        else:
            place = str(resolve_source(source, "model") or source)
            options = {"local_files_only": is_local(place), "trust_remote_code": False}
            config = self._read_config(place, options)
        check_head(head, _AUTO[head], config)
        return config

    def outline(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return the tokenizer of a source and its configuration, without a model's modules."""
        ours = type(self).load is TransformersBackbone.load
        if not ours or type(self)._load is not TransformersBackbone._load:
            return super().outline(source, head=head, **options)  # it has a tokenizer of its own
        config = self.configuration(source, head=head, **options)
        place = str(resolve_source(source, "model") or source)
        where = {"local_files_only": is_local(place), "trust_remote_code": False}
        model, tokenizer = _Outline(config), read_tokenizer(place, where)
        if tokenizer is not None:
            give_pad_token(tokenizer, model)
        return Loaded(model, tokenizer, (), source)

    def _load(self, named: str, head: str, options: dict[str, Any], *, on_meta: bool) -> Loaded:
        self._check(head, options)
        source = str(resolve_source(named, "model") or named)
        place: dict[str, Any] = {"local_files_only": is_local(source), "trust_remote_code": False}
        config = self._read_config(source, place)
        check_head(head, _AUTO[head], config)
        labels = options.pop("num_labels", None)
        if labels is not None:
            config.num_labels = labels
        given = {**place, **_parsed(options)}
        if on_meta:
            kind = class_of(_AUTO[head], config)
            model, info = read_model_on_meta(source, kind, config, given)
        else:
            model, info = read_model(source, _AUTO[head], config, given)
        fresh = self._fresh(source, model, info, new_head=labels is not None)
        tokenizer = read_tokenizer(source, place)
        if tokenizer is not None:
            give_pad_token(tokenizer, model)
        return Loaded(model.eval(), tokenizer, fresh, named)

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build a named size, or what a folder's config.json says, with random weights.

        Args:
            config: name of a size, or a source as in :meth:`load`.
            head: as in :meth:`load`.
            options: as in :meth:`load`.

        Raises:
            ConfigError: the family has no such size.
        """
        if self.is_size(config):
            return self._make(self.configs[config], head, options)
        if not (Path(config).exists() or "/" in config):
            raise unknown_size(config, self._label, self.configs)
        source = str(resolve_source(config, "model") or config)
        found = self._read_config(source, {"local_files_only": is_local(source)})
        return self._make(found.to_dict(), head, options)

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small member of the family."""
        return self._make(self.small, head, {})

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random rows of unequal lengths, padded right; labels where the head has a loss."""
        config: Any = model.get_submodule(self.entry(model)).config
        length = 12
        lengths = torch.tensor([length - 3 * (row % 3) for row in range(rows)])
        mask = torch.arange(length) < lengths[:, None]
        pad = config.pad_token_id or 0
        # the first ids of a vocabulary are special tokens
        ids = torch.randint(5, config.vocab_size, (rows, length)).masked_fill(~mask, pad)
        batch = {"input_ids": ids, "attention_mask": mask.long()}
        batch.update(self._labels(type(model).__name__, config, ids, mask))
        return {name: value.to(device_of(model)) for name, value in batch.items()}

    @staticmethod
    def _labels(name: str, config: Any, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        rows, place = ids.shape[0], torch.arange(ids.shape[1])
        if name.endswith("ForSequenceClassification"):
            return {"labels": torch.randint(0, config.num_labels, (rows,))}
        if name.endswith("ForTokenClassification"):
            labels = torch.randint(0, config.num_labels, ids.shape)
            return {"labels": labels.masked_fill(~mask, -100)}
        if name.endswith("ForQuestionAnswering"):
            return {f"{end}_positions": torch.randint(1, 6, (rows,)) for end in ("start", "end")}
        if name.endswith("ForMaskedLM"):
            return {"labels": ids.masked_fill(~mask | (place % 3 > 0), -100)}
        if name.endswith(("ForCausalLM", "LMHeadModel")):
            return {"labels": ids.masked_fill(~mask | (place < 4), -100)}
        return {}

    def _make(self, sizes: Mapping[str, Any], head: str, options: Mapping[str, Any]) -> nn.Module:
        import transformers

        self._check(head, options)
        config = self._sized(sizes)
        check_head(head, _AUTO[head], config)
        given = _parsed(options)
        if "num_labels" in given:
            config.num_labels = given.pop("num_labels")
        model: nn.Module = getattr(transformers, _AUTO[head]).from_config(config, **given)
        return model.eval()

    def _sized(self, sizes: Mapping[str, Any]) -> PreTrainedConfig:
        from transformers import AutoConfig

        return AutoConfig.for_model(**{"model_type": self.model_types[0], **sizes})

    def _check(self, head: str, options: Mapping[str, Any]) -> None:
        check_options(self._label, head, self.heads, options, _OPTIONS)

    @property
    def _label(self) -> str:
        return self.name or type(self).__name__

    def _read_config(self, source: str, place: Mapping[str, Any]) -> PreTrainedConfig:
        from transformers import AutoConfig

        try:
            config: PreTrainedConfig = AutoConfig.from_pretrained(source, **place)
        except Exception as error:
            raise ConfigError(unreadable(source, "config.json", error, place)) from error
        if config.model_type not in self.model_types:
            raise ConfigError(
                f"{source} holds a model of type {config.model_type!r}; the backbone"
                f" {self._label} knows {', '.join(self.model_types)}."
                " Name the backbone of that family; `peftcore list` shows those installed."
            )
        return config

    def _fresh(
        self, source: str, model: PreTrainedModel, info: Mapping[str, Any], *, new_head: bool
    ) -> tuple[str, ...]:
        """Return the parameters that the checkpoint did not hold, where that is as it should be."""
        inside = f"{network}." if (network := self._network(model)) else ""
        globs = super().role_globs(model)
        spare = (*globs.get("pooler", ()), *globs.get("unused", ()))

        def added(name: str) -> bool:
            return not name.startswith(inside) or path_matches(name.rpartition(".")[0], spare)

        mismatched = {item[0]: item[1:] for item in info["mismatched_keys"]}
        for name, shapes in sorted(mismatched.items()):
            if not (new_head and added(name)):
                there, here = (tuple(shape) for shape in shapes)
                raise ConfigError(
                    f"{source}: {name} has the shape {there} in the checkpoint and {here} in the"
                    f" model of its config.json. {remedy(added(name))}"
                )
        missing = set(info["missing_keys"]) | set(mismatched)
        absent = sorted(name for name in missing if not added(name))
        if absent:
            raise ConfigError(
                f"{source}: the checkpoint lacks {len(absent)} tensors of the network, such as"
                f" {absent[0]}; they would be random. {remedy(False)}"
            )
        if surplus := self._surplus_block(model, info["unexpected_keys"]):
            raise ConfigError(
                f"{source}: the checkpoint holds {surplus}, a block that the model of its"
                f" config.json does not have. {remedy(False)}"
            )
        return tuple(name for name, _ in model.named_parameters() if name in missing)

    def _surplus_block(self, model: nn.Module, unexpected: Sequence[str]) -> str:
        globs = tuple(self.role_globs(model)["block"])
        blocks = sum(path_matches(path, globs) for path, _ in model.named_modules())
        for name in sorted(unexpected):
            parts = name.split(".")
            for end, part in enumerate(parts, 1):
                if part.isdigit() and int(part) >= blocks:
                    path = ".".join(parts[:end])
                    if path_matches(path, globs):
                        return path
        return ""


class _Outline(nn.Module):
    """A model of which nothing is known but its configuration."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config


def _has_own_parameter(module: nn.Module) -> bool:
    """Tell whether a module holds a parameter that none of the modules inside it holds too."""
    own = {id(p) for p in module._parameters.values() if p is not None}
    if not own:
        return False
    inside = (part for path, part, _ in base_modules(module) if path)
    return bool(own - {id(p) for part in inside for p in part._parameters.values()})


def _window(entry: nn.Module | None) -> int | None:
    """Return how many tokens a token sees where attention slides in every layer, else None."""
    config: Any = getattr(entry, "config", None)
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not isinstance(window, int) or (kinds and set(kinds) != {"sliding_attention"}):
        return None
    return window


def _parsed(options: Mapping[str, Any]) -> dict[str, Any]:
    dtype = options.get("dtype")
    if not isinstance(dtype, str):
        return dict(options)
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype {dtype!r} is none of float32, bfloat16, float16.")
    return {**options, "dtype": found}
