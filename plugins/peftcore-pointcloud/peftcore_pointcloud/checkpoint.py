"""Checkpoints: the authors' ``.pth`` files, read without running code, and folders of our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import ConfigError, path_matches
from peftcore_pointcloud.config import PointConfig, read_config

SUFFIXES = (".pth", ".pt", ".bin")
#: Under what names the releases keep an encoder: in a file of pre-training, of Point-MAE and of
#: Point-BERT, and in one that was trained on several devices.
_PREFIXES = ("MAE_encoder.", "transformer_q.", "base_model.")
#: What Point-BERT's pre-training has beside the encoder, under the same prefix.
_PRETRAINING = ("transformer_q.cls_head.", "transformer_q.lm_head.", "transformer_q.mask_token")
_HEAD = "cls_head_finetune"
_TOKENS = ("cls_token", "cls_pos")
#: Seed of the class token where pre-training had none: it is the same wherever it is loaded.
_DRAW = 0


def is_checkpoint(source: str) -> bool:
    """Tell whether a source is a file of a release, or a folder that has a config.json."""
    path = Path(source).expanduser()
    if path.is_file():
        return path.suffix in SUFFIXES
    return (path / "config.json").is_file()


def model_type_of(source: str) -> str:
    """Return the ``model_type`` that a source seems to be of, or an empty string."""
    try:
        if Path(source).expanduser().is_dir():
            return read_config(Path(source).expanduser()).model_type
        return family_of(read_tensors(source))
    except ConfigError:  # whatever is wrong with a source, load says it in full
        return ""


def read_tensors(source: str) -> dict[str, Tensor]:
    """Return the tensors of a source under the names of the release, prefixes left out.

    Raises:
        ConfigError: it is missing or damaged, or holds anything but tensors and plain values.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _safetensors(path / "model.safetensors")
    if path.suffix not in SUFFIXES or not path.is_file():
        raise ConfigError(
            f"{source}: no such checkpoint. Name a file of a release ({', '.join(SUFFIXES)}), or a"
            " folder with config.json and model.safetensors."
        )
    found = _pickled(path)
    state = found.get("base_model", found) if isinstance(found, Mapping) else {}
    tensors = {n: v for n, v in state.items() if isinstance(n, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ConfigError(f"{source} holds no state dict, neither on its top nor as base_model.")
    return {name.replace("module.", ""): value for name, value in tensors.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}. Save it anew.") from error


def _pickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except UnpicklingError as error:
        raise ConfigError(
            f"{path} holds code or classes beside its tensors, and none of it was run:"
            f" {_reason(error)}. Write its state dict alone with torch.save where you trust it."
        ) from error
    except Exception as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}. Fetch it anew.") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def encoder_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that a classifier takes over, by its own names."""
    prefix = next((p for p in _PREFIXES if any(n.startswith(p) for n in tensors)), "")
    out = {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix) and not name.startswith(_PRETRAINING)
    }
    return {name: value for name, value in out.items() if ".encoder_norms." not in name}


def family_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the ``model_type`` that tensors of a release are of, or an empty string."""
    names = encoder_of(tensors)
    if any(name.startswith("h_encoder.token_embed.") for name in names):
        return "point-m2ae"
    if "reduce_dim.weight" in names:
        return "point-bert"
    return "point-mae" if "encoder.first_conv.0.weight" in names else ""


def sized(config: PointConfig, tensors: Mapping[str, Tensor]) -> PointConfig:
    """Return a configuration with the widths and depths that tensors of a release have."""
    names = encoder_of(tensors)
    classes = names.get(f"{_HEAD}.8.bias", names.get(f"{_HEAD}.3.bias"))
    labels = 0 if classes is None else len(classes)
    if family_of(tensors) == "point-m2ae":
        scales = range(1 + max(_number(n, "h_encoder.token_embed.") for n in names))
        widths = [len(names[f"h_encoder.token_embed.{i}.second_conv.3.bias"]) for i in scales]
        depths = [1 + max(_number(n, f"h_encoder.encoder_blocks.{i}.blocks.") for n in names)
                  for i in scales]  # fmt: skip
        head = names.get(f"{_HEAD}.0.weight")
        wide = config.wide_head if head is None else head.shape[1] == 2 * widths[-1]
        return config.with_(
            widths=tuple(widths), depths=tuple(depths), wide_head=wide, num_labels=labels
        )
    depth = 1 + max(_number(name, "blocks.blocks.") for name in names)
    return config.with_(
        model_type=family_of(tensors),
        widths=(len(names["norm.weight"]),),
        depths=(depth,),
        encoder_dims=len(names["encoder.second_conv.3.bias"]),
        num_labels=labels,
    )


def _number(name: str, prefix: str) -> int:
    return int(name[len(prefix) :].partition(".")[0]) if name.startswith(prefix) else -1


def fill(model: nn.Module, held: dict[str, Tensor], source: str) -> tuple[str, ...]:
    """Put tensors into a model; return the parameters of a head that stay random.

    A class token that the checkpoint lacks, as those of Point-MAE's pre-training do, starts from
    one and the same draw.

    Raises:
        ConfigError: a tensor of the network is missing or misshapen.
    """
    wanted = model.state_dict()
    for name in sorted(held.keys() & wanted.keys()):
        if held[name].shape == wanted[name].shape:
            continue
        if not name.startswith(_HEAD):
            raise ConfigError(
                f"{source}: {name} has the shape {tuple(held[name].shape)} in the checkpoint and"
                f" {tuple(wanted[name].shape)} in this network. Name the backbone, layout and sizes"
                " that the checkpoint was trained with."
            )
        del held[name]
    missing = {n for n in wanted.keys() - held.keys() if not n.endswith("num_batches_tracked")}
    for name in sorted(missing & set(_TOKENS)):
        _draw(model.get_parameter(name), _TOKENS.index(name))
    # Point-M2AE's pre-training has no last norm
    globs = (f"{_HEAD}.**", *(("norm",) if hasattr(model, "h_encoder") else ()))
    fresh = {n for n in missing - set(_TOKENS) if path_matches(n.rpartition(".")[0], globs)}
    if absent := sorted(missing - fresh - set(_TOKENS)):
        raise ConfigError(
            f"{source}: the checkpoint lacks {len(absent)} tensors of the network, such as"
            f" {absent[0]}; they would be random. Name the backbone that it belongs to."
        )
    if not any(value.is_meta for value in wanted.values()):
        model.load_state_dict({n: v for n, v in held.items() if n in wanted}, strict=False)
    return tuple(name for name, _ in model.named_parameters() if name in fresh)


@torch.no_grad()
def _draw(parameter: nn.Parameter, number: int) -> None:
    if not parameter.is_meta:
        chance = torch.Generator().manual_seed(_DRAW + number)
        parameter.copy_(0.02 * torch.randn(parameter.shape, generator=chance))


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # what torch advises beyond its first sentence cannot be done here
    return (lines[0].split(". ")[0] if lines else type(error).__name__).rstrip(".")
