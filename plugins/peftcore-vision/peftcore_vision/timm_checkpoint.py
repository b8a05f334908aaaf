"""Reading what timm's ``save_for_hf`` writes: a folder of config.json and model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from peftcore import ConfigError, path_matches
from peftcore_transformers.tensors import tensors_of

_ANEW = "config.json and weights do not belong together: fetch or save the checkpoint anew."


def import_timm() -> ModuleType:
    """Return timm.

    Raises:
        ConfigError: it cannot be imported, mostly because of torchvision.
    """
    try:
        import timm
    except (ImportError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"timm cannot be imported: {_reason(error)}. Install torch and torchvision for the same"
            " device, CPU or CUDA."
        ) from error
    return timm


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose config.json has been read.

    Attributes:
        source: as the user named it.
        architecture: timm's name of the model.
        classes: number of classes of its classifier; 0 where it has none.
        arguments: further arguments of the model.
        settings: timm's ``pretrained_cfg``: input size, mean, standard deviation.
    """

    source: str
    architecture: str
    classes: int
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]

    def tensors(self, *, on_meta: bool = False) -> dict[str, Tensor]:
        """Read the weights; on the meta device their names, shapes and dtypes.

        Raises:
            ConfigError: they are missing or damaged.
        """
        from safetensors.torch import load_file

        path = _file(self.source, "model.safetensors")
        try:
            return tensors_of(path) if on_meta else load_file(path)
        except Exception as error:
            raise ConfigError(
                f"{self.source}: the weights cannot be read: {_reason(error)}. Fetch or save the"
                " checkpoint anew."
            ) from error


def read_checkpoint(source: str) -> Checkpoint:
    """Read the config.json of a folder, or of a hub's name such as ``timm/resnet50.a1_in1k``.

    Raises:
        ConfigError: the source does not exist, is damaged, or is not timm's.
    """
    path = _file(source, "config.json")
    try:
        config = json.loads(path.read_text("utf-8"))
        # older files hold the settings on the top level
        settings = dict(config.get("pretrained_cfg", config))
        classes = int(config.get("num_classes", settings.get("num_classes", 1000)))
        arguments = dict(config.get("model_args") or {})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{source}: config.json cannot be read: {_reason(error)}. Fetch or save the checkpoint"
            " anew."
        ) from error
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise ConfigError(
            f"{source}: config.json names no architecture of timm. Name a folder that timm's"
            " save_for_hf wrote, or the backbone that the checkpoint belongs to."
        )
    return Checkpoint(source, architecture, classes, arguments, settings)


def architecture_of(source: str) -> str:
    """Return the architecture that a source seems to hold, or an empty string; fetch nothing."""
    if not Path(source).expanduser().is_dir():
        owner, _, name = source.partition("/")
        return name.partition(".")[0] if owner == "timm" else ""
    try:
        return read_checkpoint(source).architecture
    except ConfigError:  # whatever is wrong with a source, load says it in full
        return ""


def fill(
    model: nn.Module,
    held: dict[str, Tensor],
    source: str,
    classifiers: tuple[str, ...],
    *,
    new_head: bool,
) -> tuple[str, ...]:
    """Put the weights of a checkpoint into a model and return the parameters that stay random.

    Args:
        model: built from the checkpoint's configuration, perhaps with another classifier.
        held: the weights, which are emptied of those that do not fit.
        source: where they come from, for messages.
        classifiers: globs of the modules of classifiers.
        new_head: a classifier that does not fit starts anew.

    Raises:
        ConfigError: a tensor is missing, misshapen or one too many, classifiers aside.
    """
    wanted = model.state_dict()

    def classifier(name: str) -> bool:
        return path_matches(name.rpartition(".")[0], classifiers)

    for name in sorted(held.keys() & wanted.keys()):
        if held[name].shape == wanted[name].shape:
            continue
        if not (new_head and classifier(name)):
            raise ConfigError(
                f"{source}: {name} has the shape {tuple(held[name].shape)} in the checkpoint and"
                f" {tuple(wanted[name].shape)} in the model of its config.json. {_ANEW}"
            )
        del held[name]
    surplus = sorted(n for n in held.keys() - wanted.keys() if not classifier(n))
    if surplus:
        raise ConfigError(
            f"{source}: the checkpoint holds {surplus[0]}, which the model of its config.json does"
            f" not have. {_ANEW}"
        )
    missing = {n for n in wanted.keys() - held.keys() if not n.endswith("num_batches_tracked")}
    absent = sorted(n for n in missing if not (new_head and classifier(n)))
    if absent:
        raise ConfigError(
            f"{source}: the checkpoint lacks {len(absent)} tensors of the network, such as"
            f" {absent[0]}; they would be random. {_ANEW}"
        )
    model.load_state_dict(held, strict=False)
    return tuple(name for name, _ in model.named_parameters() if name in missing)


def _file(source: str, name: str) -> Path:
    """Return the path of a file of a checkpoint, fetched from the hub where it is not local."""
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise ConfigError(
                f"{source} has no {name}. Name a folder that timm's save_for_hf wrote."
            )
        return folder / name
    if folder.exists():
        raise ConfigError(
            f"{source} is a file. Name the folder that holds config.json and weights."
        )
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise ConfigError(f"the folder {source} does not exist. Check the path of the checkpoint.")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name))
    except Exception as error:
        raise ConfigError(
            f"{source} is no folder here, and its {name} cannot be fetched: {_reason(error)}."
            " Check the name, or give the path of a folder."
        ) from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
