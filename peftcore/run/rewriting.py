"""Putting pieces into modules in place, by class, and taking them out again.

A rewritten module keeps its identity; its class becomes a cached subclass of the same name whose
``forward`` runs the active pieces around the original one. State-dict keys of the base, isinstance
tests and tests of the class name stay as they were.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.method.placed import Placed, come_home
from peftcore.model.walk import CONTAINER, bare_class
from peftcore.run.generating import generating
from peftcore.run.holder import ContextHolder
from peftcore.run.seat import SEAT, Seat, seat_of
from peftcore.run.stacks import begin_stack, begin_whole, end_whole

#: Argument in which a checkpointed block keeps what ran, and its context, for the recomputation in
#: backward.
_CARRIED = "_peftcore_carried"
_classes: dict[ClassKey, type] = {}


class ClassKey(NamedTuple):
    """What an adapted class is made of.

    Attributes:
        bare: class of the module before it was rewritten.
        exposed: parameters that are read through a property, with pieces or casts applied.
        generating: methods that generate, on the entry of a backbone; None elsewhere.
        carries: the module carries the context through gradient checkpointing.
        stack: name of the stack whose context a call of the module makes; empty on the entry of a
            backbone with such stacks, None elsewhere.
    """

    bare: type
    exposed: frozenset[str] = frozenset()
    generating: tuple[str, ...] | None = None
    carries: bool = False
    stack: str | None = None


class Pieces(nn.Module):
    """The one child that a rewritten module gets; it holds the pieces of all adapters.

    Attributes:
        seat: of the module.
    """

    seat: Seat | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_post_hook(_forgive_missing_pieces)

    @property
    def _forward_pre_hooks(self) -> dict[int, Callable[..., Any]]:  # type: ignore[override]
        """Return a hook that does nothing while pieces act on the module's call.

        torch's encoder layer has a fast path that reads the weights of its parts and calls none of
        them. It is not taken where a module inside of it has hooks. A compiled graph never takes it
        beside such pieces.
        """
        own: dict[int, Callable[..., Any]] = self.__dict__["_forward_pre_hooks"]
        seat = self.seat
        if not own or seat is None or torch.compiler.is_compiling() or _acts_on_call(seat):
            return own
        return {}

    @_forward_pre_hooks.setter
    def _forward_pre_hooks(self, hooks: dict[int, Callable[..., Any]]) -> None:
        self.__dict__["_forward_pre_hooks"] = hooks

    @classmethod
    def empty(cls, seat: Seat) -> Pieces:
        """Return a new one; copying an empty one costs a fifth of making one."""
        made = cls.__new__(cls)
        plain, own, hooked = _empty()
        attributes = made.__dict__
        attributes.update(plain)
        attributes["seat"] = seat
        for name, kind in own:
            attributes[name] = kind()
        for name, hooks in hooked:
            attributes[name] = hooks.copy()
        return made


def _nothing(*_: Any) -> None:
    """Do nothing, as a hook."""


def _acts_on_call(seat: Seat) -> bool:
    """Tell whether pieces that run now act on the call of a module and not on its weights."""
    program = seat.program
    if seat.holder.blocks:
        module = next(item.site.module for placed in seat.placed.values() for item in placed)
        program = seat.holder.program(module, program)
    return program is not None and program.acts_on_call


@functools.cache
def _empty() -> tuple[dict[str, Any], list[tuple[str, type]], list[tuple[str, Any]]]:
    """Return the attributes of an empty container: those to share, to make anew, and to copy."""
    whole = Pieces().__dict__
    own = {name: value for name, value in whole.items() if isinstance(value, dict | set)}
    return (
        {name: value for name, value in whole.items() if name not in own},
        [(name, type(value)) for name, value in own.items() if not value],
        [(name, value) for name, value in own.items() if value],
    )


def _forgive_missing_pieces(_: nn.Module, incompatible: Any) -> None:
    """Let a checkpoint of the bare base load strictly while adapters are attached."""
    mark = f"{CONTAINER}."
    missing = [k for k in incompatible.missing_keys if mark not in k]
    incompatible.missing_keys[:] = missing


# --- classes -----------------------------------------------------------------------------------


def adapted_class(key: ClassKey) -> type:
    """Return the cached subclass of a module class that runs pieces."""
    if key not in _classes:
        cls = key.bare
        names: dict[str, Any] = {
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "__doc__": cls.__doc__,
            "__reduce_ex__": _reduce_ex,
            "_peftcore_class": cls,
            "_peftcore_key": key,
            "forward": _forward(key),
            "_apply": _applying(cls),
            "_replicate_for_data_parallel": _refuse_replicas,
        }
        names |= {name: property(_getter(name)) for name in key.exposed}
        stacked = key.stack is not None
        for method in (g for g in key.generating or () if hasattr(cls, g)):
            names[method] = generating(cls, method, stacked=stacked)
        if key.carries:
            names["__call__"] = _carrying(cls)
        if issubclass(cls, nn.Sequential | nn.ModuleList):
            names |= {"__iter__": _iterate, "__len__": _length}
        _classes[key] = type(cls)(cls.__name__, (cls,), names)
    return _classes[key]


def _forward(key: ClassKey) -> Callable[..., Any]:
    base = key.bare.forward  # type: ignore[attr-defined]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        seat = self._peftcore
        holder, program = seat.holder, seat.program
        if holder.blocks:
            program = holder.program(self, program)
        elif program is None and not holder.having and not holder.recorded:
            return base(self, *args, **kwargs)
        compiling = torch.compiler.is_compiling()
        # a reentrant checkpoint runs its forward without gradients
        if not compiling and (self.training or torch.is_grad_enabled()):
            ran = holder.recomputed(program)
            if ran is not None:
                with holder.as_it_was(ran):
                    return forward(self, *args, **kwargs)
            if program is not None:
                holder.begin_training()
        if program is None:
            return base(self, *args, **kwargs)
        if not compiling:
            for there, leaf in program.firsts:
                if there[leaf].is_meta:
                    come_home(program.placed)
        return program.run(self, base, args, kwargs)

    def enter(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._peftcore.holder.begin(self, args, kwargs)
        return forward(self, *args, **kwargs)

    def carry(self: Any, *args: Any, **kwargs: Any) -> Any:
        carried = kwargs.pop(_CARRIED, None)
        if carried is None:
            return forward(self, *args, **kwargs)
        with self._peftcore.holder.as_it_was(carried):
            return forward(self, *args, **kwargs)

    def enter_whole(self: Any, *args: Any, **kwargs: Any) -> Any:
        holder = self._peftcore.holder
        begin_whole(holder, self, args, kwargs)
        try:
            return forward(self, *args, **kwargs)
        finally:
            end_whole(holder)

    def enter_stack(self: Any, *args: Any, **kwargs: Any) -> Any:
        holder, carried = self._peftcore.holder, kwargs.pop(_CARRIED, None)
        with nullcontext() if carried is None else holder.as_it_was(carried):
            begin_stack(holder, key.stack or "", self, args, kwargs)
            return forward(self, *args, **kwargs)

    chosen = enter if key.generating is not None else carry if key.carries else forward
    if key.stack is not None:
        chosen = enter_stack if key.stack else enter_whole
    return functools.wraps(base)(chosen)


def _carrying(cls: type) -> Callable[..., Any]:
    base = cls.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        # a checkpointed layer keeps its arguments, so the recomputation sees the same context
        # even when the backbone has been called again in the meantime
        if self.gradient_checkpointing and self.training:
            kwargs[_CARRIED] = self._peftcore.holder.running()
        return base(self, *args, **kwargs)

    return call


def _applying(cls: type) -> Callable[..., Any]:
    base = cls._apply  # type: ignore[attr-defined]

    def apply(self: Any, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Any:
        # casting or moving a model reaches what its adapters have parked, too
        done = base(self, fn, *args, **kwargs)
        for parked in self._peftcore.parked.values():
            for swap in parked:
                swap.apply(fn)
        return done

    return apply


def _getter(name: str) -> Callable[[Any], Tensor | None]:
    def get(self: Any) -> Tensor | None:
        value: Tensor | None = self._parameters[name]
        if value is None:
            return None
        program = self._peftcore.program
        if self._peftcore.holder.blocks:
            program = self._peftcore.holder.program(self, program)
        if program is not None and program.direct:
            value = program.weight(self, name, value)
        elif program is not None and name in program.held:
            raise _read_for_all(self, name)
        dtype = self._peftcore.casts.get(name)
        return value if dtype is None or value.dtype == dtype else value.to(dtype)

    return get


def _read_for_all(module: Any, name: str) -> AttachError:
    for swap in (swap for parked in module._peftcore.parked.values() for swap in parked):
        if any(place == (module, name) for place in swap.places):
            name = swap.selected.info.name
    return AttachError(
        f"this model reads {name} directly, once for all rows of a batch, so that rows cannot have"
        " adapters with values of their own for it. Run the rows of each adapter by themselves."
    )


def _refuse_replicas(self: Any) -> Any:
    raise AttachError(
        "nn.DataParallel copies modules without their adapters' tensors, so that all copies would"
        " compute with those of the first device: use DistributedDataParallel, as torchrun and"
        " accelerate launch do."
    )


def _iterate(self: Any) -> Iterator[nn.Module]:
    return iter([m for name, m in self._modules.items() if name != CONTAINER])


def _length(self: Any) -> int:
    return len(self._modules) - (CONTAINER in self._modules)


def _reduce_ex(self: Any, protocol: Any) -> Any:
    return _rebuild, tuple(type(self)._peftcore_key), self.__getstate__()


def _rebuild(*key: Any) -> Any:
    adapted: Any = adapted_class(ClassKey(*key))
    return adapted.__new__(adapted)


def rewrite(
    module: nn.Module,
    holder: ContextHolder,
    exposed: Iterable[str] = (),
    *,
    enters: bool = False,
    carries: bool = False,
    stack: str | None = None,
) -> Seat:
    """Make a module able to run pieces; what it could do before it keeps.

    Args:
        module: the module.
        holder: where the context of a call is left.
        exposed: parameters to read through a property.
        enters: the module is the entry of the backbone, whose call makes the context.
        carries: the module carries the context through gradient checkpointing.
        stack: as in :class:`ClassKey`.
    """
    known: ClassKey | None = getattr(type(module), "_peftcore_key", None)
    if known is None:
        module.__dict__[SEAT] = Seat(holder)
    elif not (exposed or enters or carries or stack):
        return seat_of(module)
    old = known or ClassKey(type(module))
    key = ClassKey(
        old.bare,
        old.exposed | frozenset(exposed),
        tuple(holder.backbone.generating) if enters else old.generating,
        old.carries or carries,
        old.stack if stack is None else stack,
    )
    if key != known:
        object.__setattr__(module, "__class__", adapted_class(key))
        _reach_through(module)
    return seat_of(module)


def _reach_through(module: nn.Module) -> None:
    """Let a forward that was replaced on the instance still reach the pieces.

    Accelerate's device hooks keep the class's forward as ``_old_forward`` and call that one.
    """
    if "forward" not in module.__dict__:
        return
    inner = module.__dict__.get("_old_forward")
    if isinstance(inner, MethodType):
        module.__dict__["_old_forward"] = MethodType(type(module).forward, module)
        return
    replaced = module.__dict__["forward"]
    if isinstance(replaced, MethodType) and replaced.__self__ is module:
        module.__dict__["forward"] = MethodType(type(module).forward, module)
        return
    raise AttachError(
        f"the forward of a {bare_class(module).__name__} was replaced on the instance by something"
        " that peftcore cannot reach through. Attach before it is replaced."
    )


def put(module: nn.Module, adapter: str, item: Placed) -> None:
    """Put a piece into a rewritten module; it runs once a program holds it."""
    container = module._modules.get(CONTAINER)
    if container is None:
        container = module._modules[CONTAINER] = Pieces.empty(seat_of(module))
        container.__dict__["training"] = module.training
    child, piece = item.child(adapter), item.piece
    assert child not in container._modules
    container._modules[child] = piece
    if not item.site.direct:
        container.__dict__["_forward_pre_hooks"][0] = _nothing
    if piece.training is not module.training:
        if piece._modules or type(piece).train is not nn.Module.train:
            piece.train(module.training)
        else:  # what train would do, without a walk
            piece.__dict__["training"] = module.training
    item.remember()
    seat_of(module).placed.setdefault(adapter, []).append(item)


def take_out(module: nn.Module, adapter: str) -> None:
    """Take all pieces of an adapter out of a module."""
    seat = seat_of(module)
    seat.parked.pop(adapter, None)
    for item in seat.placed.pop(adapter, ()):
        container = module._modules[CONTAINER]
        assert container is not None
        del container._modules[item.child(adapter)]
        if not container._modules:
            del module._modules[CONTAINER]


def restore(module: nn.Module) -> None:
    """Give a module its own class back."""
    bare = bare_class(module)
    inner = module.__dict__.get("_old_forward")
    if isinstance(inner, MethodType) and inner.__func__ is type(module).forward:
        module.__dict__["_old_forward"] = MethodType(bare.forward, module)  # type: ignore
    replaced = module.__dict__.get("forward")
    if isinstance(replaced, MethodType) and replaced.__func__ is type(module).forward:
        module.__dict__["forward"] = MethodType(bare.forward, module)  # type: ignore
    module.__class__ = bare
    module.__dict__.pop(SEAT, None)
