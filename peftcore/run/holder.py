"""Where the entry of a backbone leaves the context of a call, and which block the call is in."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.model.backbones import Backbone
from peftcore.model.calls import batch_of, tokens_in
from peftcore.model.context import Context
from peftcore.run.needs import check_needs
from peftcore.run.prompts import prompt_for, within
from peftcore.run.recomputing import in_backward, keep, kept, parts


class Setting(Protocol):
    """What runs at each module, for as long as a block is open."""

    #: A piece that runs uses the context.
    wanted: bool
    #: What the pieces need of a call, to the name of a method.
    needs: Mapping[str, str]
    #: The same of each stack, where stacks have contexts of their own.
    stack_needs: Mapping[str, Mapping[str, str]]
    #: Rows have adapters of their own, so that their number must be known.
    by_row: bool

    def program(self, module: nn.Module) -> Any:
        """Return what runs at a rewritten module; None for the bare base."""

    def holds(self, having: frozenset[str]) -> frozenset[str]:
        """Return which of some adapters must have their values in the modules for it."""


class Nothing:
    """The setting of a model that has no active adapter."""

    wanted = False
    needs: Mapping[str, str] = MappingProxyType({})
    stack_needs: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    by_row = False

    def program(self, module: nn.Module) -> None:
        """Return nothing: the bare base runs."""

    def holds(self, having: frozenset[str]) -> frozenset[str]:
        """Return none."""
        return frozenset()


def owner() -> object:
    """Return what blocks that are opened here belong to: the asyncio task, or the thread."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()


class Ran(NamedTuple):
    """What ran in the forward of a checkpointed part.

    Attributes:
        context: of the call.
        setting: what ran at each module.
        generation: of the model's holder.
    """

    context: Context
    setting: Setting
    generation: int


class Block:
    """One ``with`` of a model: ``route`` or ``disabled``, with what it was opened in.

    Attributes:
        holder: of the model.
        setting: what runs inside; ``activate`` changes it.
        outer: the block, of any model, that was open in this thread or task before.
        open: whether it has not been closed; blocks may be closed in any order.
        owner: the thread or asyncio task that opened it.
    """

    def __init__(self, holder: ContextHolder, setting: Setting):
        self.holder = holder
        self.setting = setting
        self.outer = _innermost.get()
        self.open = True
        self.owner = owner()


#: The block that was opened last in this thread or task.
_innermost: ContextVar[Block | None] = ContextVar("peftcore_block", default=None)
_NONE: Mapping[int, Tensor] = {}
#: By id of a holder, the prompt lengths that were said in this thread or task.
_lengths: ContextVar[Mapping[int, Tensor]] = ContextVar("peftcore_lengths", default=_NONE)


class ContextHolder:
    """Of one model: the context of the running call, and the blocks that are open.

    Attributes:
        backbone: what makes the context.
        setting: what runs outside of all blocks.
        blocks: the open blocks of all threads and tasks, in the order of opening.
        sequence: number of the sequence that is being computed; a call that goes on with a cache of
            keys and values belongs to the sequence of the call before.
        first_run: what to do when a piece runs in training, until it says that it is done.
        having: names of the adapters that have values in the base's place.
        present: those of them whose values are in the modules now.
        generation: goes up when an adapter is merged, unmerged or taken off.
        recorded: a checkpointed part has kept what ran in it.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.setting: Setting = Nothing()
        self.blocks: list[Block] = []
        self.sequence = 0
        self.first_run: Callable[[], bool] | None = None
        self.having: frozenset[str] = frozenset()
        self.present: frozenset[str] = frozenset()
        self.generation = 0
        self.recorded = False
        self._of_thread = _OfThread()
        # what a compiled graph reads: it knows one thread
        self._current = Context()
        self._lengths: Tensor | None = None

    @property
    def current(self) -> Context:
        """Context of the call that is running in this thread, or that ran last."""
        return self._current if torch.compiler.is_compiling() else self._of_thread.current

    @current.setter
    def current(self, context: Context) -> None:
        if torch.compiler.is_compiling():
            self._current = context
        else:
            self._of_thread.current = context

    @property
    def columns(self) -> int | None:
        """Within ``generate``, how many leading columns of the input are the prompt.

        0 where that is not known before what writes is called first.
        """
        return self._of_thread.columns

    @columns.setter
    def columns(self, count: int | None) -> None:
        self._of_thread.columns = count

    @property
    def lengths(self) -> Tensor | None:
        """What the caller said of prompts: [B] leading real tokens, or [B, L] which tokens."""
        if torch.compiler.is_compiling():
            return self._lengths
        return _lengths.get().get(id(self))

    @lengths.setter
    def lengths(self, lengths: Tensor | None) -> None:
        self._lengths = lengths
        others = {key: value for key, value in _lengths.get().items() if key != id(self)}
        _lengths.set(others if lengths is None else {**others, id(self): lengths})

    def forget_batch(self) -> None:
        """Forget how many rows the last call in this thread or task had."""
        self.current = replace(self.current, batch=None, memory=None)

    def block(self) -> Block | None:
        """Return the innermost open block of this model in this thread or task."""
        if torch.compiler.is_compiling():
            return self.blocks[-1] if self.blocks else None
        found = _innermost.get()
        while found is not None and not (found.open and found.holder is self):
            found = found.outer
        return found

    def effective(self) -> Setting:
        """Return what runs in this thread or task."""
        block = self.block() if self.blocks else None
        return self.setting if block is None else block.setting

    def program(self, module: nn.Module, otherwise: Any) -> Any:
        """Return what runs at a module: by the innermost block, outside of blocks ``otherwise``.

        Raises:
            AttachError: another thread or task has put other values in the base's place.
        """
        block = self.block()
        setting = self.setting if block is None else block.setting
        if self.having and not self._fits(setting):
            raise AttachError(
                "a call runs beside route(...) or disabled(...) of another thread or task, and an"
                f" adapter ({', '.join(sorted(self.having))}) holds values in the place of base"
                " parameters, of which the model has one set. Serve such adapters from one thread."
            )
        return otherwise if block is None else setting.program(module)

    def _fits(self, setting: Setting) -> bool:
        """Tell whether the values in the modules are those that a setting needs."""
        return setting.holds(self.having) == self.present

    def begin_training(self) -> None:
        """Do what is to be done when a piece runs next in training."""
        if self.first_run is not None and not in_backward() and self.first_run():
            self.first_run = None

    def running(self) -> Ran:
        """Return what runs in this thread or task, for a recomputation."""
        return Ran(self.current, self.effective(), self.generation)

    def recomputed(self, program: Any) -> Ran | None:
        """Return what ran in the forward of a checkpointed part that is computed again here.

        In its forward, what runs is kept. None outside of recomputation.

        Args:
            program: what would run now.

        Raises:
            AttachError: nothing is known of the forward.
        """
        around = [] if self.carried else parts()
        if not around:
            return None
        known = next((ran for part in around if (ran := kept(part, self)) is not None), None)
        if in_backward():
            if known is None and (program is not None or self.having):
                raise AttachError(
                    "a checkpointed part of the model is computed again in backward, but its"
                    " forward ran before the adapter was attached or switched on, or in evaluation"
                    " mode: attach, activate and call model.train() before the forward."
                )
            ran = known
        else:
            ran = known or self.running()
        if ran is not None:
            self.recorded = True
            for part in around:
                keep(part, self, ran)
        return ran if in_backward() else None

    def enter(self, setting: Setting) -> Block:
        """Open a block in this thread or task."""
        block = Block(self, setting)
        self.blocks.append(block)
        _innermost.set(block)
        return block

    def leave(self, block: Block) -> None:
        """Close a block; those inside it that are still open go on."""
        block.open = False
        self.blocks.remove(block)
        found = _innermost.get()
        while found is not None and not found.open:
            found = found.outer
        _innermost.set(found)

    @contextmanager
    def as_it_was(self, ran: Ran) -> Iterator[None]:
        """Run a checkpointed part with what ran in its forward pass, then and in recomputation.

        Raises:
            AttachError: values of base parameters were switched, merged or taken off since, which
                all parts share.
        """
        if ran.generation != self.generation or not self._fits(ran.setting):
            raise AttachError(
                "a checkpointed part of the model is computed again in backward after an adapter"
                " was merged, unmerged or taken off, or after one that holds values of base"
                " parameters was switched: call backward first, or inside of the same block."
            )
        self.current = ran.context
        block = None if self.effective() is ran.setting else self.enter(ran.setting)
        before, self._of_thread.carried = self._of_thread.carried, True
        try:
            yield
        finally:
            self._of_thread.carried = before
            if block is not None:
                self.leave(block)

    @property
    def read(self) -> dict[Any, Tensor] | None:
        """Weights that were made in the running call of a module which reads them itself."""
        return self._of_thread.read

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep such weights until the call of the module is over."""
        before, self._of_thread.read = self._of_thread.read, {}
        try:
            yield
        finally:
            self._of_thread.read = before

    @property
    def carried(self) -> bool:
        """Whether this thread is in a checkpointed part that knows what ran in its forward."""
        return self._of_thread.carried

    def begin(self, entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the context of a call that is about to run, where a piece uses it."""
        if not any(holds_tokens(value) for value in (*args, *kwargs.values())):
            self.sequence += 1
        setting = self.effective()
        batch = batch_of(entry, args, kwargs) if setting.by_row else None
        if not setting.wanted:
            if setting.by_row:
                self.current = Context(batch=batch)
            return
        context = self.backbone.context(entry, args, kwargs)
        context.batch = batch
        check_needs(context, setting.needs)
        if self.columns is not None and context.offset >= self.columns:
            context.generated = True
        if self.lengths is not None and not context.generated:
            context.prompt = prompt_for(context, self.lengths)
        elif self.columns is not None and context.mask is not None and not context.generated:
            context.prompt = within(context, self.columns)
        self.current = context

    def __getstate__(self) -> dict[str, Any]:
        if not self._fits(self.setting):
            raise AttachError(
                "the model cannot be copied inside of route(...) or disabled(...) while an adapter"
                f" ({', '.join(sorted(self.having))}) holds values in the place of base parameters:"
                " leave the block first."
            )
        kept = ("backbone", "setting", "having", "present")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["backbone"])  # type: ignore[misc]
        self.__dict__.update(state)


def holds_tokens(value: Any) -> bool:
    """Tell whether a value is a cache that is not empty."""
    count = tokens_in(value)
    # to look into the length of a static cache, a tensor, would wait for the device
    return not isinstance(count, int) or count > 0


class _OfThread(threading.local):
    """What belongs to the calls of one thread."""

    def __init__(self) -> None:
        self.current = Context()
        self.columns: int | None = None
        self.carried = False
        self.read: dict[Any, Tensor] | None = None
