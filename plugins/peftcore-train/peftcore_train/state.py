"""The state from which a run goes on after a kill: tensors in safetensors, the rest in JSON.

A state is a directory ``state-STEP-EPOCH`` that appears whole or not at all. No pickle is read
or written.
"""

import json
import os
import random
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import peftcore
from peftcore import Adapter, CheckpointError
from peftcore_train.rundir import ADAPTER, unwritable
from peftcore_train.schedules import Plateau

_TENSORS, _REST = "tensors.safetensors", "state.json"


@dataclass
class Best:
    """The epoch with the best validation score so far."""

    epoch: int
    step: int
    scores: dict[str, float]


@dataclass
class Position:
    """How far a run has come.

    Attributes:
        epoch: finished epochs.
        batch: finished batches of the epoch that is running.
        step: finished optimiser steps.
        loss_sum: sum of the losses of the epoch's finished batches.
        waited: epochs since the best one.
        best: the best epoch.
        plateau: what the schedule of that name has seen.
        metrics_size: bytes of metrics.jsonl that belong to this state.
        seconds: time spent in training.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    waited: int = 0
    best: Best | None = None
    plateau: Plateau = field(default_factory=Plateau)
    metrics_size: int = 0
    seconds: float = 0.0


def save_state(
    folder: Path,
    position: Position,
    model: nn.Module,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    keep: int = 1,
    extra: Mapping[str, Any],
) -> None:
    """Write the state of a run, and drop those before it that are too many.

    Args:
        folder: the run directory.
        position: how far the run is.
        model: the model.
        adapter: what is trained.
        optimizer: the optimiser.
        accelerator: where everything runs.
        keep: states to keep; where there are several, each holds the adapter as one can load it.
        extra: what to describe with that adapter.
    """
    tensors = {name: t.detach().cpu() for name, t in _tensors(model, adapter)}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            tensors[f"optimizer/{index}/{key}"] = torch.as_tensor(value).cpu()
    tensors.update(_random_tensors())
    scaler = None if accelerator.scaler is None else accelerator.scaler.state_dict()
    rest = {
        "position": asdict(position),
        "python_random": random.getstate(),
        "numpy_random": _numpy_rest(),
        "scaler": scaler,
    }
    name = f"state-{position.step:09d}-{position.epoch:06d}"
    with _whole(folder, name, keep) as part:
        (part / _REST).write_text(json.dumps(rest), encoding="utf-8")
        save_file({n: t.contiguous() for n, t in tensors.items()}, part / _TENSORS)
        # safetensors keeps its file to the owner; the other one has the umask's mode
        shutil.copymode(part / _REST, part / _TENSORS)
        if keep > 1:
            peftcore.save(adapter, part / ADAPTER, extra=extra)


def find_state(folder: Path) -> Path | None:
    """Return the newest state of a run, or None."""
    states = [p for p in folder.glob("state-*") if re.fullmatch(r"state-\d+-\d+", p.name)]
    return max(states, default=None)


def read_position(state: Path) -> Position:
    """Return how far a state is.

    Raises:
        CheckpointError: it is damaged.
    """
    data = _read_rest(state)["position"]
    best, plateau = data.pop("best"), Plateau(**data.pop("plateau"))
    return Position(**data, best=None if best is None else Best(**best), plateau=plateau)


def restore_state(
    state: Path,
    model: nn.Module,
    adapter: Adapter,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> None:
    """Put a state back, to the bit.

    Raises:
        CheckpointError: it is damaged, or belongs to another recipe.
    """
    rest = _read_rest(state)
    try:
        tensors = load_file(state / _TENSORS)
    except (OSError, SafetensorError) as error:
        raise _unreadable(state / _TENSORS, error) from error
    _copy(state, tensors, model, adapter)
    _restore_optimizer(tensors, optimizer)
    if accelerator.scaler is not None and rest["scaler"] is not None:
        accelerator.scaler.load_state_dict(rest["scaler"])
    _restore_random(tensors, rest)


def _tensors(model: nn.Module, adapter: Adapter) -> Iterator[tuple[str, Tensor]]:
    """Yield what training changes: the adapter's tensors, and the buffers of the model."""
    seen: set[int] = set()
    for item in adapter.placed:
        for name, tensor in (*item.piece.named_parameters(), *item.piece.named_buffers()):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield f"adapter/{item.name}.{name}", tensor
    for swap in adapter.swaps:
        yield f"adapter/{swap.name}", swap.own
    for name, tensor in model.named_buffers():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            yield f"buffer/{name}", tensor


def _copy(state: Path, tensors: dict[str, Tensor], model: nn.Module, adapter: Adapter) -> None:
    here = dict(_tensors(model, adapter))
    there = {name for name in tensors if name.startswith(("adapter/", "buffer/"))}
    odd = sorted(set(here) ^ there)
    odd += [n for n in sorted(there & set(here)) if tensors[n].shape != here[n].shape]
    if odd:
        raise CheckpointError(
            f"{state} does not fit this recipe: {odd[0].partition('/')[2]} differs. Resume with the"
            " config.yaml and the plugin versions that the run began with."
        )
    with torch.no_grad():
        for name, tensor in here.items():
            tensor.copy_(tensors[name])


def _restore_optimizer(tensors: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    entries: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/")
            entries.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _random_tensors() -> dict[str, Tensor]:
    tensors = {"random/torch": torch.get_rng_state()}
    for i in range(torch.cuda.device_count()):
        tensors[f"random/cuda/{i}"] = torch.cuda.get_rng_state(i)
    tensors["random/numpy"] = torch.from_numpy(_numpy_state()["state"]["key"].astype(np.int64))
    return tensors


def _numpy_state() -> dict[str, Any]:
    state = np.random.get_state(legacy=False)
    assert isinstance(state, dict)
    return state


def _numpy_rest() -> dict[str, Any]:
    state = _numpy_state()
    return {
        "pos": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def _restore_random(tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random/torch"])
    for i in range(torch.cuda.device_count()):
        if f"random/cuda/{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random/cuda/{i}"], i)
    numpy = rest["numpy_random"]
    key = tensors["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, numpy["pos"], numpy["has_gauss"], numpy["gauss"]))
    major, key_list, gauss = rest["python_random"]
    random.setstate((major, tuple(key_list), gauss))


def _unreadable(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{file} cannot be read: {error}. Take {file.parent} away, and the run goes on from the"
        " state before it, or from its beginning."
    )


def _read_rest(state: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((state / _REST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(state / _REST, error) from error
    return data


@contextmanager
def _whole(folder: Path, name: str, keep: int) -> Iterator[Path]:
    """Give a directory to write a state into, which then appears whole or not at all."""
    for left in folder.glob(".state-*"):
        shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
    part = folder / f".state-{secrets.token_hex(4)}"
    try:
        part.mkdir()
        yield part
        for file in (_TENSORS, _REST):
            _sync(part / file)
        if (folder / name).exists():
            # the same place in the run, so the same state
            shutil.rmtree(folder / name)
        part.rename(folder / name)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in sorted(folder.glob("state-*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
