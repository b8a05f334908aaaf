"""What tensors a checkpoint holds: names, shapes and dtypes, without their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

#: Where weights lie, in the order in which transformers looks for them.
_WEIGHTS = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip


def held_tensors(source: str, file: str | None = None) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint, by name, on the meta device.

    Of safetensors the headers are read, of pickled weights the structure. What a hub's name stands
    for is looked up in the cache, else asked for over the network, a header at a time.

    Args:
        source: folder or hub's name.
        file: name of the file of weights, where it is none of the usual.

    Raises:
        OSError, ValueError: there are no weights, or they are damaged.
    """
    names = (file,) if file else _WEIGHTS
    folder = Path(source).expanduser()
    if folder.is_dir():
        found: dict[str, Tensor] = {}
        for path in _files(folder, names):
            found.update(tensors_of(path))
        return found
    cached = _cached(source, names)
    return _of_the_hub(source) if cached is None else held_tensors(str(cached), file)


def tensors_of(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file of weights, by name, on the meta device."""
    from transformers.modeling_utils import load_state_dict

    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is missing")
    found: dict[str, Tensor] = load_state_dict(file, map_location="meta")
    return found


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files that hold the weights of a folder."""
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        raise FileNotFoundError(f"it has no {' and no '.join(names)}")
    if first.suffix != ".json":
        return [first]
    index = json.loads(first.read_text("utf-8"))
    return [folder / name for name in sorted(set(index["weight_map"].values()))]


def _cached(source: str, names: Sequence[str]) -> Path | None:
    """Return the folder of the hub's cache that holds the weights of a name, whole."""
    from huggingface_hub import try_to_load_from_cache

    for name in names:
        path = try_to_load_from_cache(source, name)
        if isinstance(path, str):
            folder = Path(path).parent
            return folder if all(p.is_file() for p in _files(folder, names)) else None
    return None


def _of_the_hub(source: str) -> dict[str, Tensor]:
    """Read the headers of a hub's safetensors, a few kilobytes of each file."""
    from huggingface_hub import HfApi
    from transformers.modeling_utils import str_to_torch_dtype

    found = HfApi().get_safetensors_metadata(source)
    return {
        name: torch.empty(info.shape, dtype=str_to_torch_dtype[info.dtype], device="meta")
        for file in found.files_metadata.values()
        for name, info in file.tensors.items()
    }
