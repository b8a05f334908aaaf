"""What tensors a checkpoint holds: names, shapes and dtypes, without their values."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError

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
    """Return the tensors of one file of weights, by name, on the meta device.

    Raises:
        OSError, ValueError: it is not there, is damaged, or holds more than tensors.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file.name} is missing")
    if file.suffix == ".safetensors":
        return _of_header(file)
    try:
        found: dict[str, Tensor] = torch.load(file, map_location="meta", weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError) as error:
        # torch's own sentence says how to run what a stranger's file holds
        raise ValueError(f"{file.name} is damaged, or holds more than tensors") from error
    return found


def _of_header(file: Path) -> dict[str, Tensor]:
    """Read the header of safetensors: its length in 8 bytes, then names, dtypes and shapes."""
    whole = file.stat().st_size
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        text = opened.read(size) if size <= whole else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        found = {k: _empty(entry["shape"], entry["dtype"]) for k, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"the header of {file.name} is damaged") from error
    if whole != 8 + size + end:
        raise ValueError(f"{file.name} has {whole:,} bytes instead of {8 + size + end:,}")
    return found


def _empty(shape: Sequence[int], dtype: str) -> Tensor:
    """Return a tensor without memory, of a dtype that safetensors calls ``F32``."""
    from transformers.modeling_utils import str_to_torch_dtype

    return torch.empty(tuple(shape), dtype=str_to_torch_dtype[dtype], device="meta")


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the files that hold the weights of a folder."""
    first = next((folder / name for name in names if (folder / name).is_file()), None)
    if first is None:
        raise FileNotFoundError(f"there is no {' and no '.join(names)}")
    if first.suffix != ".json":
        return [first]
    try:
        files = sorted(set(json.loads(first.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{first.name} is damaged") from error
    return [folder / name for name in files]


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
    """Read the headers of a hub's safetensors, some kilobytes of each file."""
    from huggingface_hub import HfApi

    found = HfApi().get_safetensors_metadata(source)
    return {
        name: _empty(entry.shape, entry.dtype)
        for file in found.files_metadata.values()
        for name, entry in file.tensors.items()
    }
