"""An adapter that is off in some modules of a model and on in all others."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from peftcore import SAVED, Adapter, backbone_of, disabled, survey


@contextmanager
def off_in(model: nn.Module, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Switch all adapters off while some modules are being called, and what is inside of them."""
    open_blocks: list[ExitStack] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        block = ExitStack()
        block.enter_context(disabled(model))
        open_blocks.append(block)

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        open_blocks.pop().close()

    with ExitStack() as hooks:
        for module in modules:
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave, always_call=True).remove)
        try:
            yield
        finally:
            while open_blocks:  # a call that raised before its module was done
                open_blocks.pop().close()


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the blocks of a model by path, in their order."""
    found = survey(model, backbone_of(model))
    return {site.path: site.module for site in found.sites if site.role == "block"}


def touched_outside(model: nn.Module, adapter: Adapter) -> list[nn.Module]:
    """Return the outermost modules to switch off so that the backbone is the base: no heads."""
    heads = {
        id(module)
        for swap in adapter.swaps
        if swap.selected.label == SAVED
        for module, _ in swap.places
    }
    found = dict(blocks_of(model))
    paths = {id(module): path for path, module in model.named_modules()}
    for module in adapter.modules_touched():
        if id(module) not in heads:
            found.setdefault(paths[id(module)], module)
    # what lies within another is switched off with it
    return [m for p, m in found.items() if not any(p.startswith(f"{other}.") for other in found)]


@contextmanager
def base_under_head(model: nn.Module, adapter: Adapter) -> Iterator[None]:
    """Let the backbone be the base, and keep the heads that were trained on it."""
    with off_in(model, touched_outside(model, adapter)):
        yield
