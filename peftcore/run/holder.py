"""Where the entry of a backbone leaves the context of a call, and which block the call is in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from peftcore.errors import AttachError
from peftcore.model.backbones import Backbone
from peftcore.model.context import Context


class Setting(Protocol):
    """What runs at each module, for as long as a block is open."""

    #: A piece that runs uses the context.
    wanted: bool
    #: Values of base parameters sit in the modules for it.
    swaps: bool

    def program(self, module: nn.Module) -> Any:
        """Return what runs at a rewritten module; None for the bare base."""


class Nothing:
    """The setting of a model that has no active adapter."""

    wanted = False
    swaps = False

    def program(self, module: nn.Module) -> None:
        """Return nothing: the bare base runs."""


class Block:
    """One ``with`` of a model: ``route`` or ``disabled``, with what it was opened in.

    Attributes:
        holder: of the model.
        setting: what runs inside; ``activate`` changes it.
        outer: the block, of any model, that was open in this thread or task before.
        open: whether it has not been closed; blocks may be closed in any order.
        owner: the thread that opened it.
    """

    def __init__(self, holder: ContextHolder, setting: Setting):
        self.holder = holder
        self.setting = setting
        self.outer = _innermost.get()
        self.open = True
        self.owner = threading.get_ident()


#: The block that was opened last in this thread or task.
_innermost: ContextVar[Block | None] = ContextVar("peftcore_block", default=None)


class ContextHolder:
    """Of one model: the context of the running call, and the blocks that are open.

    Attributes:
        backbone: what makes the context.
        setting: what runs outside of all blocks.
        blocks: the open blocks of all threads and tasks, in the order of opening.
        sequence: number of the sequence that is being computed; a call that goes on with a cache of
            keys and values belongs to the sequence of the call before.
        first_run: what to do when a piece first runs with gradients.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone
        self.setting: Setting = Nothing()
        self.blocks: list[Block] = []
        self.sequence = 0
        self.first_run: Callable[[], None] | None = None
        self._of_thread = _OfThread()
        # what a compiled graph reads: it knows one thread
        self._current = Context()

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
        """Within ``generate``, how many leading columns of the input are the prompt."""
        return self._of_thread.columns

    @columns.setter
    def columns(self, count: int | None) -> None:
        self._of_thread.columns = count

    @property
    def lengths(self) -> Tensor | None:
        """[B] number of leading real tokens that are the prompt, said by the caller."""
        return self._of_thread.lengths

    @lengths.setter
    def lengths(self, lengths: Tensor | None) -> None:
        self._of_thread.lengths = lengths

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
        """Return what runs at a module: by the innermost block, outside of blocks ``otherwise``."""
        block = self.block()
        return otherwise if block is None else block.setting.program(module)

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
    def as_it_was(self, context: Context, setting: Setting) -> Iterator[None]:
        """Run a checkpointed part with what ran in its forward pass, then and in recomputation.

        Raises:
            AttachError: values of base parameters were switched since, which all parts share.
        """
        self.current = context
        now = self.effective()
        if now is not setting and (setting.swaps or now.swaps):
            raise AttachError(
                "a checkpointed part of the model is computed again in backward after its adapter,"
                " which holds values of base parameters, was switched: call backward before you"
                " switch, or inside of the same block."
            )
        block = None if now is setting else self.enter(setting)
        before, self._of_thread.carried = self._of_thread.carried, True
        try:
            yield
        finally:
            self._of_thread.carried = before
            if block is not None:
                self.leave(block)

    @property
    def carried(self) -> bool:
        """Whether this thread is in a checkpointed part that knows what ran in its forward."""
        return self._of_thread.carried

    def begin(self, entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Make the context of a call that is about to run, where a piece uses it."""
        if not any(_holds_tokens(value) for value in (*args, *kwargs.values())):
            self.sequence += 1
        if not self.effective().wanted:
            return
        context = self.backbone.context(entry, args, kwargs)
        if self.columns is not None and context.offset >= self.columns:
            context.generated = True
        if context.mask is not None and not context.generated:
            if self.lengths is not None:
                lengths = self._lengths_for(context.mask)
                context.prompt = context.mask & (context.mask.cumsum(1) <= lengths[:, None])
            elif self.columns is not None:
                column = torch.arange(context.mask.shape[1], device=context.mask.device)
                context.prompt = context.mask & (column + context.offset < self.columns)
        self.current = context

    def _lengths_for(self, mask: Tensor) -> Tensor:
        assert self.lengths is not None
        times, rest = divmod(mask.shape[0], self.lengths.shape[0])
        if rest or not times:
            raise AttachError(
                f"{self.lengths.shape[0]} prompt lengths for a batch of {mask.shape[0]} rows."
            )
        return self.lengths.to(mask.device).repeat_interleave(times)

    def __getstate__(self) -> dict[str, Any]:
        return {"backbone": self.backbone, "setting": self.setting}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["backbone"])  # type: ignore[misc]
        self.setting = state["setting"]


def _holds_tokens(value: Any) -> bool:
    """Tell whether a value is a cache of keys and values that is not empty."""
    length = getattr(value, "get_seq_length", None)
    if length is None:
        return False
    count = length()
    # to look into the length of a static cache, a tensor, would wait for the device
    return not isinstance(count, int) or count > 0


class _OfThread(threading.local):
    """What belongs to the calls of one thread."""

    def __init__(self) -> None:
        self.current = Context()
        self.columns: int | None = None
        self.lengths: Tensor | None = None
        self.carried = False
