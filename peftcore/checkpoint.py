"""Saving adapters and putting them back.

A checkpoint is a directory of ``adapter.safetensors``, which also holds the description in its
metadata and is self-contained, and ``adapter.json``, the same description for people and tools.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from peftcore.adapter import Adapter
from peftcore.attaching import apply, check_name
from peftcore.errors import CheckpointError, ConfigError
from peftcore.fingerprint import difference, fingerprint
from peftcore.hookspecs import GROUP
from peftcore.methods import Methods
from peftcore.planning import Plan, make_plan
from peftcore.plugins import registry
from peftcore.programs import Placed
from peftcore.switching import base_only

TENSORS, DESCRIPTION = "adapter.safetensors", "adapter.json"
_FORMAT = 1


def save(adapter: Adapter, path: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
    """Write an adapter to a directory.

    A kill or a full disk at any moment leaves the old checkpoint or the new one, whole.

    Args:
        adapter: an attached adapter.
        path: the directory; made where it does not exist.
        extra: what else to describe, JSON-serialisable, under the key ``extra``.

    Raises:
        CheckpointError: a tensor is not finite or on the meta device, or the disk refuses.
    """
    if adapter.model is None:
        raise CheckpointError(f"adapter {adapter.name!r} has been detached; nothing to save.")
    tensors = state_of_adapter(adapter)
    for name, tensor in tensors.items():
        if tensor.is_meta:
            raise CheckpointError(f"{name} is on the meta device and has no values to save.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinite values; {path} is left as it was.")
    description = json.dumps(_describe(adapter, tensors, extra or {}), indent=1)
    data = to_bytes(tensors, metadata={"peftcore": description})
    _write(Path(path), {TENSORS: data, DESCRIPTION: description.encode()})


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    temporary: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            handle, part = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
            temporary.append(Path(part))
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        # the tensors come first: they carry the description that loading reads
        for whole, name in zip(temporary, files, strict=True):
            whole.replace(folder / name)
        _sync(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error.strerror or error}."
            " What was there before is untouched; the adapter is still in memory."
        ) from error
    finally:
        for left in temporary:
            left.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def state_of_adapter(adapter: Adapter) -> dict[str, Tensor]:
    """Return every tensor of an adapter by its name in a checkpoint, on the CPU."""
    out: dict[str, Tensor] = {}
    methods = Methods(adapter.methods)
    for item in adapter.placed:
        for name, tensor in _piece_state(methods, item).items():
            out[f"{item.name}.{name}"] = tensor.detach().to("cpu", copy=True).contiguous()
    for swap in adapter.swaps:
        assert swap.name not in out, f"a piece and the base both have a tensor {swap.name}"
        out[swap.name] = swap.own.detach().to("cpu", copy=True).contiguous()
    return out


def _piece_state(methods: Methods, item: Placed) -> Mapping[str, Tensor]:
    method = next(m for m in methods.methods if m.label == item.label)
    own = methods.caller(method, "peftcore_save_state")(site=item.site, piece=item.piece)
    return own if own is not None else item.piece.state_dict()


def _describe(
    adapter: Adapter, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
) -> dict[str, Any]:
    from peftcore import __version__

    assert adapter.model is not None
    plan = adapter.plan
    return {
        "format": _FORMAT,
        "peftcore": __version__,
        "hooks": GROUP,
        "methods": [
            {
                "method": method.name,
                "config": method.config.model_dump(mode="json"),
                "distribution": (owner := registry().owner("methods", method.name)).distribution,
                "version": owner.version,
            }
            for method in adapter.methods
        ],
        "modules_to_save": list(plan.modules_to_save),
        "save_frozen": list(plan.save_frozen),
        "backbone": {
            "name": plan.backbone.name,
            "class": type(adapter.model).__name__,
            "fingerprint": fingerprint(adapter.model, _brought(plan)),
        },
        "trainable": plan.trainable,
        "digests": {name: _digest(tensor) for name, tensor in tensors.items()},
        "extra": dict(extra),
    }


def _brought(plan: Plan) -> set[str]:
    return {s.info.name for s in plan.selected}


def _digest(tensor: Tensor) -> str:
    raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()[:16]


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
            description = _description(file, opened.metadata())
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
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
    return {**description, "tensors": shapes}


def _file(path: Path) -> Path:
    file = path / TENSORS if path.is_dir() else path
    if path.name == DESCRIPTION:
        file = path.parent / TENSORS
    if not file.exists():
        hint = ""
        if path.is_dir() and (path / "adapter_config.json").exists():
            hint = " It is a Hugging Face PEFT directory."
        elif path.is_dir() and (path / "config.json").exists():
            hint = " It holds a whole model, no adapter."
        elif path.is_dir() and (path / "adapter" / TENSORS).exists():
            hint = f" Did you mean {path / 'adapter'}?"
        raise CheckpointError(f"{file} does not exist.{hint}")
    return file


def _description(file: Path, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get("peftcore")
    if text is None:
        raise CheckpointError(f"{file} is a safetensors file, but no peftcore adapter.")
    try:
        found: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"the description inside {file} is damaged: {error}.") from error
    if found.get("format") != _FORMAT:
        raise CheckpointError(
            f"{file} has format {found.get('format')!r}, this peftcore reads {_FORMAT}."
            " Install the peftcore that wrote it, or a newer one."
        )
    return found


def _check_content(
    file: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    digests = description["digests"]
    for name in digests:
        if name not in tensors:
            raise CheckpointError(f"{file}: tensor {name} is missing.")
    for name, tensor in tensors.items():
        if name not in digests:
            raise CheckpointError(f"{file}: tensor {name} does not belong to this adapter.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{file}: tensor {name} holds NaN or infinite values.")
        if _digest(tensor) != digests[name]:
            raise CheckpointError(
                f"{file}: tensor {name} was changed after it was saved. Use another copy."
            )


def load(
    model: nn.Module,
    path: str | Path,
    *,
    name: str = "default",
    allow_other_base: bool = False,
    allow_other_version: bool = False,
) -> Adapter:
    """Put a saved adapter on a model and make it the active one.

    Everything is checked before the model is touched.

    Args:
        model: a model of the base that the adapter was trained on.
        path: the directory, or the ``.safetensors`` file alone.
        name: name of the adapter on this model.
        allow_other_base: accept a base with other weights, as long as all tensors fit.
        allow_other_version: accept another version of a method's plugin.

    Raises:
        CheckpointError: the file is damaged, belongs to another base or another version of a
            method, or its tensors do not fit; the sentence names the tensor.
        UnknownName: a method's plugin is not installed.
    """
    description, tensors = read(path)
    check_name(model, name)
    _check_versions(description, path, allow_other_version)
    choices = [{"method": m["method"], **m["config"]} for m in description["methods"]]
    random_state = torch.get_rng_state()
    try:
        with base_only(model):
            plan = make_plan(
                model, choices, {}, None, description["modules_to_save"],
                description["save_frozen"], state=tensors,
            )  # fmt: skip
    except ConfigError as error:
        if error.exit_code == 3:
            raise
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    finally:
        # the random start of the pieces is overwritten below
        torch.set_rng_state(random_state)
    _check_base(model, plan, description, path, allow_other_base)
    _check_fit(model, plan, tensors, path)
    adapter = apply(model, plan, name)
    try:
        _fill(adapter, tensors)
    except BaseException:
        adapter.detach()
        raise
    return adapter


def _check_versions(description: Mapping[str, Any], path: str | Path, allowed: bool) -> None:
    if description["hooks"] != GROUP:
        raise CheckpointError(
            f"{path} was written with the hooks {description['hooks']}, this peftcore has {GROUP}."
        )
    for method in description["methods"]:
        registry().find("methods", method["method"])
        have = registry().owner("methods", method["method"])
        if allowed or _series(have.version) == _series(method["version"]):
            continue
        wanted = f"{method['distribution']}=={_series(method['version'])}.*"
        raise CheckpointError(
            f"{path} was written by {method['distribution']} {method['version']}, installed is"
            f" {have.version}, which may compute otherwise: pip install '{wanted}', or"
            " allow the other version."
        )


def _series(version: str) -> str:
    """Return the part of a version that stays while nothing breaks: 0.1 of 0.1.7, 2 of 2.3.1."""
    parts = version.split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]


def _check_base(
    model: nn.Module, plan: Plan, description: Mapping[str, Any], path: str | Path, allowed: bool
) -> None:
    if allowed:
        return
    saved = description["backbone"]["fingerprint"]
    other = difference(saved, fingerprint(model, _brought(plan)))
    if other:
        raise CheckpointError(
            f"{path} was trained on another base ({description['backbone']['class']}): {other}."
            " Load that base, or allow another one (allow_other_base, --allow-other-base)."
        )


def _check_fit(
    model: nn.Module, plan: Plan, tensors: Mapping[str, Tensor], path: str | Path
) -> None:
    methods = Methods(plan.methods)
    expected: dict[str, tuple[int, ...]] = {}
    for item in plan.placed:
        state = _piece_state(methods, item)
        expected.update({f"{item.name}.{k}": tuple(v.shape) for k, v in state.items()})
    expected.update({s.name: tuple(s.info.parameter.shape) for s in plan.selected})
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{path}: tensor {name} is missing, this model needs it.")
        if tuple(tensors[name].shape) != shape:
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tuple(tensors[name].shape)},"
                f" this model needs {shape}."
            )
    for name in tensors:
        if name not in expected:
            raise CheckpointError(f"{path}: tensor {name} has no place in this model.")


@torch.no_grad()
def _fill(adapter: Adapter, tensors: Mapping[str, Tensor]) -> None:
    methods = Methods(adapter.methods)
    by_prefix: dict[str, dict[str, Tensor]] = {}
    for item in adapter.placed:
        by_prefix[item.name] = {}
    of_base = {swap.name for swap in adapter.swaps}
    for name, tensor in tensors.items():
        prefix = _prefix(name, by_prefix)
        # a method can train a module's own parameter and have a piece there
        if prefix is not None and name not in of_base:
            by_prefix[prefix][name[len(prefix) + 1 :]] = tensor
    for item in adapter.placed:
        state = by_prefix[item.name]
        method = next(m for m in adapter.methods if m.label == item.label)
        call = methods.caller(method, "peftcore_load_state")
        if not call(site=item.site, piece=item.piece, state=state):
            item.piece.load_state_dict(state)
    for swap in adapter.swaps:
        swap.own.copy_(tensors[swap.name])


def _prefix(name: str, known: Mapping[str, Any]) -> str | None:
    """Return the longest known prefix of a dotted name."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in known:
            return name
    return None
