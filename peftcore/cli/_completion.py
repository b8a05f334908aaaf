"""What the shell completes, from metadata alone; used with ``shell_complete=``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftcore.registry.installed import installed

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem


def methods(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a method."""
    return _starting(incomplete, "methods")


def names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete what ``peftcore show`` can show."""
    return _starting(incomplete, "methods", "backbones", "tasks", "sources")


def tested(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete what ``peftcore test`` can test."""
    return _starting(incomplete, "methods", "backbones", "tasks", "sources", "commands")


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a named size, a named source of weights, or else a path."""
    from click.shell_completion import CompletionItem

    found = installed()
    sizes = {size: spec.name for spec in found.backbones.values() for size in spec.configs}
    weights = {s.name: s.summary for s in found.sources.values() if s.kind == "model"}
    known = sorted({**sizes, **weights}.items())
    items = [CompletionItem(n, help=text) for n, text in known if n.startswith(incomplete)]
    return items or [CompletionItem(incomplete, type="file")]


def _starting(incomplete: str, *kinds: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [
        CompletionItem(name, help=spec.summary)
        for kind in kinds
        for name, spec in sorted(getattr(installed(), kind).items())
        if name.startswith(incomplete)
    ]
