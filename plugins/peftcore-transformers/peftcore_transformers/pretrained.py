"""Reading transformers' checkpoints, with one sentence for whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from peftcore import ConfigError
from peftcore_transformers.tensors import held_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

#: transformers makes an empty tokenizer for a folder that has none of these.
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spm.model", "spiece.model",
    "sentencepiece.bpe.model",
)  # fmt: skip

#: Options of reading that say where from.
_PLACE = ("local_files_only", "trust_remote_code")


def model_type(source: str) -> str | None:
    """Return what a source's ``config.json`` says its model is; None where it cannot be read."""
    try:
        local = is_local(source)
    except ConfigError:  # whatever is wrong with a source, load says it in full
        return None
    return _read_type(source, True) if local else _type_of_name(source)


def _read_type(source: str, local: bool) -> str | None:
    from transformers import PreTrainedConfig

    try:
        found, _ = PreTrainedConfig.get_config_dict(source, local_files_only=local)
    except Exception:  # as above
        return None
    kind: str | None = found.get("model_type")
    return kind


@lru_cache(maxsize=8)
def _type_of_name(source: str) -> str | None:
    """Ask the hub once, not once for each backbone."""
    return _read_type(source, False)


def is_local(source: str) -> bool:
    """Tell a folder from a hub's name; raise ConfigError for what is neither."""
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ConfigError(
                f"{source} has no config.json. Name a folder that save_pretrained wrote."
            )
        return True
    if path.is_file():
        raise ConfigError(
            f"{source} is a file. Name the folder that holds config.json and weights."
        )
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ConfigError(f"the folder {source} does not exist. Check the path of the checkpoint.")
    return False


def read_model(
    source: str, auto: str, config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return the model and what transformers reports about its loading."""
    import transformers

    try:
        model, info = getattr(transformers, auto).from_pretrained(
            source, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except Exception as error:
        plain = _damage(source, config) if options["local_files_only"] else None
        raise ConfigError(unreadable(source, "weights", plain or error, options)) from error
    return model, info


def _damage(source: str, config: PreTrainedConfig) -> Exception | None:
    """Return what is wrong with the files of weights, if that is plain to see."""
    try:
        held_tensors(source, getattr(config, "transformers_weights", None))
    except (OSError, ValueError) as error:
        return error
    return None


def read_model_on_meta(
    source: str, kind: type[PreTrainedModel], config: PreTrainedConfig, options: Mapping[str, Any]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return what :func:`read_model` would, on the meta device; no weights are read.

    transformers itself finds what is missing, from the names and shapes of the checkpoint's
    tensors, so that it says the same as when it loads them.

    Args:
        source: folder or name.
        kind: class of the model.
        config: its configuration.
        options: as for ``from_pretrained``.

    Raises:
        ConfigError: the weights are not there, or damaged.
    """
    arguments = {name: value for name, value in options.items() if name not in _PLACE}
    try:
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=held_tensors(source, getattr(config, "transformers_weights", None)),
            device_map="meta",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **arguments,
        )
    except Exception as error:
        raise ConfigError(unreadable(source, "weights", error, options)) from error
    # some families make a parameter on the CPU whatever they are told
    return model.to("meta"), info


def check_head(head: str, auto: str, config: PreTrainedConfig) -> None:
    """Raise ConfigError where transformers has no class for a head on models of such a type."""
    import transformers

    if type(config) not in getattr(transformers, auto)._model_mapping:
        raise ConfigError(
            f"transformers has no head {head!r} for models of type {config.model_type!r}."
            " Take another backbone, or another task."
        )


def class_of(auto: str, config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return the class that one of transformers' auto classes makes of a configuration."""
    import transformers

    with torch.device("meta"):
        return type(getattr(transformers, auto).from_config(config))


def read_tokenizer(source: str, place: Mapping[str, Any]) -> Any:
    """Return the tokenizer, or None for a folder without one."""
    from transformers import AutoTokenizer

    folder = Path(source).expanduser()
    if place["local_files_only"] and not any((folder / f).is_file() for f in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, **place)
    except Exception as error:
        raise ConfigError(unreadable(source, "tokenizer", error, place)) from error


def give_pad_token(tokenizer: Any, model: Any) -> None:
    """Pad with the unknown token, as LLaMA's tuners do, or with the end of the text."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    # a configuration of two networks, as CLIP's, has none of its own
    if getattr(model.config, "pad_token_id", 0) is None:
        model.config.pad_token_id = tokenizer.pad_token_id


def unreadable(source: str, what: str, error: Exception, place: Mapping[str, Any]) -> str:
    """Return the sentence for what cannot be read."""
    lines = str(error).strip().splitlines()
    reason = (lines[0] if lines else type(error).__name__).rstrip(".")
    if place["local_files_only"]:
        return f"{source}: the {what} cannot be read: {reason}. Fetch or save the checkpoint anew."
    return (
        f"{source} is no folder here, and its {what} cannot be fetched: {reason}."
        " Check the name, or give the path of a folder."
    )


def remedy(head: bool) -> str:
    """Return what to do about weights that do not fit."""
    if head:
        return "Give num_labels to start with a new head."
    return "config.json and weights do not belong together: fetch or save the checkpoint anew."
