"""The calls of models whose stacks have a context each, such as an encoder with a decoder."""

from __future__ import annotations

from typing import Any

from torch import nn

from peftcore.model.calls import arguments, batch_of, read_labels
from peftcore.model.context import Context
from peftcore.run.holder import ContextHolder, holds_tokens
from peftcore.run.needs import check_needs
from peftcore.run.prompts import prompt_for, within


def begin_whole(
    holder: ContextHolder, entry: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Note what a call of the entry, about to run, tells of those of the stacks inside of it."""
    if not any(holds_tokens(value) for value in (*args, *kwargs.values())):
        holder.sequence += 1
    setting = holder.effective()
    if not (setting.wanted or setting.by_row):
        return
    context = read_labels(arguments(entry, args, kwargs).get("labels"))
    context.batch = batch_of(entry, args, kwargs) if setting.by_row else None
    context.call = context
    holder.current = context


def end_whole(holder: ContextHolder) -> None:
    """Note that a call of the entry is over; the context of its last stack stays."""
    current = holder.current
    if current.call is not None:
        current.call.call = None
        current.call = None


def begin_stack(
    holder: ContextHolder, stack: str, module: nn.Module, args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:  # fmt: skip
    """Make the context of a stack whose module is about to run, in a call of the entry or alone.

    Raises:
        AttachError: the call lacks what a piece in the stack needs.
    """
    call = holder.current.call
    if call is None and not any(holds_tokens(value) for value in (*args, *kwargs.values())):
        holder.sequence += 1
    setting = holder.effective()
    if not (setting.wanted or setting.by_row):
        return
    context = Context()
    if setting.wanted:
        told = context if call is None else call
        context = holder.backbone.stack_context(stack, module, args, kwargs, told)
        _find_prompt(holder, context, writes=stack == holder.backbone.writing_stack)
        check_needs(context, setting.stack_needs.get(stack, {}))
    context.batch = batch_of(module, args, kwargs) if setting.by_row else None
    context.group = None if call is None else holder.current.group
    holder.current = context.inside(call)


def _find_prompt(holder: ContextHolder, context: Context, *, writes: bool) -> None:
    """Say which tokens of a stack are the prompt's; what is read is a prompt throughout."""
    columns = holder.columns
    if not writes:
        if columns is not None:
            holder.columns = 0  # generation begins, and what is written first is its prompt
        return
    if columns is not None and context.mask is not None:
        length = context.offset + context.mask.shape[1]
        if not columns:
            columns = holder.columns = length
            context.generated = False
        elif length > columns:
            context.unmasked = None  # rows that have ended go on with padding
        context.generated = context.generated or context.offset >= columns
        if not context.generated:
            context.prompt = within(context, columns)
    if holder.lengths is not None and not context.generated:
        context.prompt = prompt_for(context, holder.lengths)
