"""A checkpoint on disk.

A directory of ``adapter.safetensors``, which also holds the description in its metadata and is
self-contained, and ``adapter.json``, the same description for people and tools.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from peftcore.errors import CheckpointError
from peftcore.store.description import Description, digest, parsed

TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"


def read(path: str | Path) -> tuple[Description, dict[str, Tensor]]:
    """Read a checkpoint and check that it is whole.

    Args:
        path: the directory, or the ``.safetensors`` file alone.

    Returns:
        The description and the tensors by name.

    Raises:
        CheckpointError: it does not exist, is truncated, was changed, or is no adapter.
    """
    file = _file(Path(path))
    try:
        with safe_open(file, framework="pt") as opened:
            text = (opened.metadata() or {}).get("peftcore")
            if text is None:
                raise CheckpointError(f"{file} is a safetensors file, but no peftcore adapter.")
            description = parsed(text, file)
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except CheckpointError:
        raise
    except Exception as error:  # whatever a damaged file makes of its reader
        raise CheckpointError(
            f"{file} is damaged or was not written whole ({error}). Use another copy."
        ) from error
    _check_content(file, description, tensors)
    return description, tensors


def inspect(path: str | Path) -> dict[str, Any]:
    """Return the description of a checkpoint, with the shapes of its tensors.

    Raises:
        CheckpointError: as :func:`read`.
    """
    description, tensors = read(path)
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    return {**description.model_dump(mode="json"), "tensors": shapes}


def _file(path: Path) -> Path:
    file = path / TENSORS if path.is_dir() else path
    if path.name == DESCRIPTION:
        file = path.parent / TENSORS
    if not file.exists():
        hint = ""
        if path.is_dir() and (path / "adapter_config.json").exists():
            hint = " It is a directory of Hugging Face PEFT, which peft loads; peftcore does not."
        elif path.is_dir() and (path / "config.json").exists():
            hint = " It holds a whole model, no adapter: give it as the base."
        elif path.is_dir() and (path / "adapter" / TENSORS).exists():
            hint = f" Did you mean {path / 'adapter'}?"
        raise CheckpointError(f"{file} does not exist.{hint}")
    return file


def _check_content(file: Path, description: Description, tensors: Mapping[str, Tensor]) -> None:
    digests = description.digests
    for name in digests:
        if name not in tensors:
            raise CheckpointError(f"{file}: tensor {name} is missing.")
    for name, tensor in tensors.items():
        if name not in digests:
            raise CheckpointError(f"{file}: tensor {name} does not belong to this adapter.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}: tensor {name} holds NaN or infinite values.")
        if digest(tensor) != digests[name]:
            raise CheckpointError(
                f"{file}: tensor {name} was changed after it was saved. Use another copy."
            )
