"""Saving adapters, and putting them back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from peftcore.adapter.attach import apply, check_free, remove
from peftcore.adapter.plan import Plan, make_plan
from peftcore.adapter.state import STATE, Attached, ModelState, state_of
from peftcore.adapter.statistics import Statistics
from peftcore.adapter.switch import base_only, note_values
from peftcore.adapter.verify import verify
from peftcore.adapter.watch import Watch
from peftcore.errors import CheckpointError, ConfigError
from peftcore.model.offloading import Values, keepers
from peftcore.model.walk import base_modules, running_of
from peftcore.registry.hookspecs import GROUP
from peftcore.registry.installed import installed
from peftcore.store.checkpoint import DESCRIPTION, TENSORS, read
from peftcore.store.description import FORMAT, BackboneRecord, Description, MethodRecord, digest
from peftcore.store.files import write
from peftcore.store.fingerprint import difference, fingerprint
from peftcore.version import __version__

A = TypeVar("A", bound=Attached)


def save(adapter: Attached, path: str | Path, *, extra: Mapping[str, Any] | None = None) -> None:
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
    verify([adapter])
    watch = state_of(adapter.model).holder.first_run
    if isinstance(watch, Watch):
        watch.report()
    tensors = state_of_adapter(adapter)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds NaN or infinite values; {path} is left as it was.")
    description = _describe(adapter, tensors, extra or {}).signed()
    data = to_bytes(tensors, metadata={"peftcore": description})
    write(Path(path), {TENSORS: data, DESCRIPTION: description.encode()})


def state_of_adapter(adapter: Attached) -> dict[str, Tensor]:
    """Return every tensor of an adapter by its name in a checkpoint, on the CPU.

    Raises:
        CheckpointError: one is on the meta device.
    """
    found = piece_tensors(adapter.plan)
    assert not set(found) & {s.name for s in adapter.swaps}, "a piece's tensor and the base's"
    found |= {swap.name: swap.own for swap in adapter.swaps}
    state = state_of(adapter.carrier())
    found |= state.statistics.moved() if adapter.is_in else adapter.statistics
    for name, tensor in found.items():
        if tensor.is_meta:
            raise CheckpointError(
                f"{name} is on the meta device and has no values to save: load the"
                " model with its weights; of one without them there is only a plan."
            )
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in found.items()}


def piece_tensors(plan: Plan) -> dict[str, Tensor]:
    """Return the tensors of all pieces by name; what several share stands once, at the first."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for item in plan.placed:
        own = plan.methods.of(item.label, "peftcore_save_state")
        tensors = own(site=item.site, piece=item.piece) if own else None
        if tensors is None:
            tensors = item.piece.state_dict(keep_vars=True)
        for name, tensor in tensors.items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{item.name}.{name}"] = tensor
    return found


def _describe(
    adapter: Attached, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
) -> Description:
    plan, model = adapter.plan, adapter.carrier()
    owners = {m.name: installed().owner("methods", m.name) for m in plan.methods}
    return Description(
        format=FORMAT,
        peftcore=__version__,
        hooks=GROUP,
        methods=[
            MethodRecord(
                method=method.name,
                config=method.config.model_dump(mode="json"),
                distribution=owners[method.name].distribution,
                version=owners[method.name].version,
            )
            for method in plan.methods
        ],
        modules_to_save=list(plan.modules_to_save),
        save_frozen=list(plan.save_frozen),
        backbone=BackboneRecord(
            name=plan.backbone.name,
            model=type(model).__name__,
            fingerprint=fingerprint(base_tensors(model, plan)),
        ),
        trainable=plan.trainable,
        digests={name: digest(tensor) for name, tensor in tensors.items()},
        extra=dict(extra),
    )


def base_tensors(model: nn.Module, plan: Plan) -> Values:
    """Return the base's parameters and statistics by name, without what the adapter brings."""
    brought = {s.info.name for s in plan.selected}
    parked = _parked(model)
    found = Values(model)
    for path, module, _ in base_modules(model):
        for leaf, tensor in (*module._parameters.items(), *running_of(module)):
            name = f"{path}.{leaf}" if path else leaf
            value = parked.get((id(module), leaf), tensor)
            if value is not None and name not in brought:
                found.add(path, leaf, value)
    return found


def _parked(model: nn.Module) -> dict[tuple[int, str], Tensor | None]:
    """Return the base's values where an adapter's are in the model, by merging or by its own."""
    state: ModelState | None = model.__dict__.get(STATE)
    if state is None:
        return {}
    found: dict[tuple[int, str], Tensor | None] = {
        (id(module), leaf): swap.base
        for adapter in state.adapters.values()
        for swap in adapter.swaps
        for module, leaf in swap.places
    }
    found |= {(id(m), leaf): base for m, leaf, base in state.statistics.base.values()}
    for _, undo in reversed(state.merged):
        # of a parameter that was merged into twice, the value before the first merge
        found |= {entry.place: entry.before for entry in reversed(undo)}
    return found


def load_as(
    kind: type[A],
    model: nn.Module,
    path: str | Path,
    name: str,
    *,
    allow_other_base: bool,
    allow_other_version: bool,
) -> A:
    """Put a saved adapter on a model as an object of a kind; see :func:`peftcore.load`."""
    description, tensors = read(path)
    check_free(model, name, "load")
    check_versions(description, path, allow_other_version)
    choices = [{"method": m.method, **m.config} for m in description.methods]
    try:
        # the random start of the pieces is overwritten below
        with _generators_kept(model), base_only(model):
            plan = make_plan(
                model, choices, {}, None, description.modules_to_save,
                description.save_frozen, tensors=tensors,
            )  # fmt: skip
    except ConfigError as error:
        if error.exit_code == 3:
            raise
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    _check_base(model, plan, description, path, allow_other_base)
    _check_fit(plan, tensors, path)
    adapter = apply(model, kind(name, model, plan))
    try:
        fill(adapter, tensors)
    except BaseException:
        remove(model, state_of(model), adapter)
        raise
    return adapter


@contextmanager
def _generators_kept(model: nn.Module) -> Iterator[None]:
    """Leave the generators of random numbers as they were: the CPU's, and those of the model."""
    devices = {p.device for p in model.parameters()} | {k.device for k in keepers(model).values()}
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng([]))
        # mps has one generator, which is not asked for by device
        for kind in {device.type for device in devices} - {"cpu", "meta", "mps"}:
            there = [device for device in devices if device.type == kind]
            stack.enter_context(torch.random.fork_rng(there, device_type=kind))
        yield


def check_versions(description: Description, path: str | Path, allowed: bool) -> None:
    """Raise CheckpointError where another version or distribution of a method is installed."""
    if description.hooks != GROUP:
        raise CheckpointError(
            f"{path} was written with the hooks {description.hooks}, this peftcore has {GROUP}."
            " Install the peftcore that wrote it."
        )
    for method in description.methods:
        installed().find("methods", method.method)
        have = installed().owner("methods", method.method)
        if have.distribution != method.distribution:
            raise CheckpointError(
                f"{path} was written by {method.distribution}, whose method {method.method!r} is"
                f" provided by {have.distribution} here. Install {method.distribution}, or take"
                f" {have.distribution} out."
            )
        if allowed or _series(have.version) == _series(method.version):
            continue
        wanted = f"{method.distribution}=={_series(method.version)}.*"
        raise CheckpointError(
            f"{path} was written by {method.distribution} {method.version}, installed is"
            f" {have.version}, which may compute otherwise: pip install '{wanted}', or"
            " allow another version (allow_other_version of peftcore.load)."
        )


def _series(version: str) -> str:
    """Return the part of a version that stays while nothing breaks: 0.1 of 0.1.7, 2 of 2.3.1."""
    parts = version.split(".")
    return ".".join(parts[:2]) if parts[0] == "0" else parts[0]


def _check_base(
    model: nn.Module, plan: Plan, description: Description, path: str | Path, allowed: bool
) -> None:
    if allowed:
        return
    tensors = base_tensors(model, plan)
    other = difference(description.backbone.fingerprint, fingerprint(tensors), tensors)
    if other:
        raise CheckpointError(
            f"{path} was trained on another base ({description.backbone.model}): {other}."
            " Load that base, or allow another one (allow_other_base of peftcore.load,"
            " peftcore merge --allow-other-base)."
        )


def _check_fit(plan: Plan, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in piece_tensors(plan).items()}
    expected |= {s.name: tuple(s.info.parameter.shape) for s in plan.selected}
    statistics = Statistics(plan.survey.modules).base
    expected |= {n: tuple(b.shape) for n, (_, _, b) in statistics.items() if n in tensors}
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
def fill(adapter: Attached, tensors: Mapping[str, Tensor]) -> None:
    """Put tensors, named as in a checkpoint, into an adapter; all of them have been checked."""
    by_prefix: dict[str, dict[str, Tensor]] = {item.name: {} for item in adapter.placed}
    of_base = {swap.name for swap in adapter.swaps}
    for name, tensor in tensors.items():
        prefix = _prefix(name, by_prefix)
        # a method can train a module's own parameter and have a piece there
        if prefix is not None and name not in of_base:
            by_prefix[prefix][name[len(prefix) + 1 :]] = tensor
    for item in adapter.placed:
        own = by_prefix[item.name]
        put_back = adapter.methods.of(item.label, "peftcore_load_state")
        if not (put_back and put_back(site=item.site, piece=item.piece, tensors=own)):
            # what is missing here is shared and stands at another piece; all names were checked
            item.piece.load_state_dict(own, strict=False)
    for swap in adapter.swaps:
        swap.own.copy_(tensors[swap.name])
    state = state_of(adapter.carrier())
    adapter.statistics = {n: t for n, t in tensors.items() if n in state.statistics.base}
    state.statistics.put_in(adapter.statistics)
    note_values(state)


def _prefix(name: str, known: Mapping[str, Any]) -> str | None:
    """Return the longest known prefix of a dotted name."""
    while "." in name:
        name = name.rpartition(".")[0]
        if name in known:
            return name
    return None
