"""Reading scBERT: folders of ours, and the checkpoints that its authors released."""

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from peftcore import ConfigError
from peftcore_singlecell.genes import GENES, Genes, read_genes
from peftcore_singlecell.model import CONFIG, WEIGHTS, ScBertConfig
from peftcore_transformers.tensors import tensors_of

#: Keys under which the authors' scripts keep the weights.
_STATE = "model_state_dict"
_QUERY = "performer.net.layers.0.0.fn.to_q.weight"
_PROJECTION = "performer.net.layers.0.0.fn.fast_attention.projection_matrix"
_RELEASED = (".pth", ".pt")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose sizes are known.

    Attributes:
        config: the sizes.
        tensors: names to weights, on the meta device where they were not wanted.
        genes: the genes of its places, where it says which.
    """

    config: ScBertConfig
    tensors: Mapping[str, Tensor]
    genes: Genes | None

    @property
    def types(self) -> int:
        """How many types its classifier tells apart; 0 where it has none."""
        found = self.tensors.get("to_out.fc3.weight")
        return 0 if found is None else len(found)


def is_scbert(source: str) -> bool:
    """Tell whether a folder's config.json says scbert, or a file is a released checkpoint."""
    place = Path(source).expanduser()
    if place.is_file():
        return place.suffix in _RELEASED and _names_of(place) >= {_QUERY}
    try:
        found = json.loads((place / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("model_type") == "scbert"


def read_checkpoint(source: str, genes: str | None = None, *, on_meta: bool = False) -> Checkpoint:
    """Read a folder with config.json, model.safetensors and genes.txt, or a released .pth.

    Args:
        source: the folder or file.
        genes: file of the genes in order, a text or an .h5ad, in place of genes.txt.
        on_meta: read names and shapes of weights alone.

    Raises:
        ConfigError: it does not exist, is damaged, or its genes are not as many as its places.
    """
    place = Path(source).expanduser()
    if place.is_dir():
        config, tensors = _read_folder(place, on_meta=on_meta)
    elif place.is_file():
        tensors = _read_released(place, on_meta=on_meta)
        config = _sizes_of(tensors, source)
    else:
        raise ConfigError(f"{source} does not exist.")
    return Checkpoint(config, tensors, _genes_of(place, genes, config))


def _read_folder(place: Path, *, on_meta: bool) -> tuple[ScBertConfig, dict[str, Tensor]]:
    try:
        config = ScBertConfig.read(json.loads((place / CONFIG).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{place}: its {CONFIG} cannot be read: {_reason(error)}.") from error
    try:
        read = tensors_of if on_meta else load_file
        return config, dict(read(place / WEIGHTS))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{place}: its {WEIGHTS} cannot be read: {_reason(error)}.") from error


def _read_released(place: Path, *, on_meta: bool) -> dict[str, Tensor]:
    """Return the weights of a file that torch.save wrote; nothing but tensors is unpickled."""
    try:
        held = torch.load(place, map_location="cpu", mmap=on_meta, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise ConfigError(
            f"{place} cannot be read: {_reason(error)}. Only files of torch.save are read, in its"
            " format of version 1.6 or later, and only where they hold tensors and plain values."
        ) from error
    state = held.get(_STATE, held) if isinstance(held, Mapping) else {}
    tensors = {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    if _QUERY not in tensors:
        raise ConfigError(f"{place} is no checkpoint of scBERT: it has no {_QUERY}.")
    return {n: t.to("meta") for n, t in tensors.items()} if on_meta else tensors


def _names_of(place: Path) -> set[str]:
    """Return the names of weights in a file of torch.save, without reading any."""
    if not zipfile.is_zipfile(place):
        return set()
    try:
        return set(_read_released(place, on_meta=True))
    except ConfigError:
        return set()


def _sizes_of(tensors: Mapping[str, Tensor], source: str) -> ScBertConfig:
    """Return the sizes that the shapes of weights tell."""
    layers = {int(m[1]) for n in tensors if (m := re.match(r"performer\.net\.layers\.(\d+)\.", n))}
    try:
        tokens, dim = tensors["token_emb.weight"].shape
        features, head_width = tensors[_PROJECTION].shape
        config = ScBertConfig(
            genes=len(tensors["pos_emb.emb.weight"]) - 1,
            dim=dim,
            depth=len(layers),
            heads=len(tensors[_QUERY]) // head_width,
            head_width=head_width,
            mlp_width=len(tensors["performer.net.layers.0.1.fn.fn.w1.bias"]),
            bins=tokens - 2,
            features=features,
        )
    except KeyError as error:
        raise ConfigError(f"{source} is no checkpoint of scBERT: it has no {error.args[0]}.") from (
            error
        )
    if "to_out.fc1.bias" in tensors and "to_out.fc2.bias" in tensors:
        hidden = (len(tensors["to_out.fc1.bias"]), len(tensors["to_out.fc2.bias"]))
        return replace(config, head_hidden=hidden)
    return config


def _genes_of(place: Path, named: str | None, config: ScBertConfig) -> Genes | None:
    if named is not None:
        genes = read_genes(Path(named).expanduser(), "backbone.options.genes")
    elif place.is_dir() and (place / GENES).is_file():
        genes = read_genes(place / GENES, str(place))
    else:
        return None
    if len(genes) != config.genes:
        raise ConfigError(
            f"{genes.source} names {len(genes):,} genes, but the backbone has places for"
            f" {config.genes:,}. Give the genes that it was trained with, in their order."
        )
    return genes


def _reason(error: Any) -> str:
    lines = str(error).strip().splitlines()
    # what torch advises beyond its first sentence cannot be done here
    return (lines[0].split(". ")[0] if lines else type(error).__name__).rstrip(".")
