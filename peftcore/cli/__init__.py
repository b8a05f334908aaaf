"""The ``peftcore`` program: one file a command, imported when it is used.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 plugin missing, 130 interrupted.
"""

from __future__ import annotations

import errno
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from peftcore.errors import PeftcoreError, PluginError, UnknownName, nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_COMMANDS = {
    "doctor": "Explain what is wrong with installed plugins.",
    "inspect": "Describe a saved adapter.",
    "list": "List what the installed plugins provide.",
    "merge": "Fold an adapter into its base and write the model.",
    "new": "Write the skeleton of a plugin.",
    "plan": "Count what an adapter would train, without weights or memory.",
    "show": "Show one method, backbone, task or source.",
    "test": "Try whether an installed plugin keeps its contract.",
}
#: Commands that tell of a plugin which cannot be used, where others refuse to run.
_TELLING = ("doctor", "list")


class LazyGroup(click.Group):
    """Commands of the core and of plugins, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted({*_COMMANDS, *_plugin_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name in _COMMANDS:
            return import_module(f"peftcore.cli.{cmd_name}_").command  # type: ignore
        if cmd_name not in _plugin_commands():
            return None
        from peftcore.registry.installed import installed

        return installed().resolve("commands", cmd_name, "command")  # type: ignore[no-any-return]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Name the nearest command, or the package that brings it, when there is none."""
        name = args[0] if args else ""
        if ctx.obj and name not in _TELLING:
            raise PluginError(ctx.obj[0].why_not())
        if name and not name.startswith("-") and self.get_command(ctx, name) is None:
            from peftcore.registry.choices import homes

            elsewhere = homes("commands")
            if name in elsewhere:
                raise UnknownName(_elsewhere(name, elsewhere[name]))
            known = [*self.list_commands(ctx), *elsewhere]
            ctx.fail(f"no command {name!r}.{nearest(name, known)}")
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete the name of a command without importing any of them."""
        from click.shell_completion import CompletionItem

        items = [
            CompletionItem(name, help=summary)
            for name, summary in _summaries()
            if name.startswith(incomplete)
        ]
        return items or super().shell_complete(ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(_summaries())

    def invoke(self, ctx: click.Context) -> Any:
        """Turn errors that peftcore can name into a sentence and an exit code."""
        try:
            return super().invoke(ctx)
        except PeftcoreError as error:
            for line in str(error).splitlines():
                click.echo(f"error: {line}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:
            # what no command foresees: a full disk, a name that is too long, no permission
            if error.errno == errno.EPIPE:
                raise  # the reader of a pipe has gone, which click ends quietly
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {place}{error.strerror or error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _plugin_commands() -> Any:
    from peftcore.registry.installed import installed

    return installed().commands


def _summaries() -> list[tuple[str, str]]:
    plugins = {name: spec.summary for name, spec in _plugin_commands().items()}
    return sorted({**plugins, **_COMMANDS}.items())


def _elsewhere(name: str, package: str) -> str:
    from peftcore.registry.installed import installed

    sentence = f"the command {name!r} is part of {package}: pip install {package}"
    for record in installed().records:
        if record.distribution == package and record.status != "ok":
            sentence += (
                f"\n{package} {record.version} is installed, but {record.status}:"
                f" {record.problem} (see peftcore doctor)"
            )
    return sentence


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from peftcore.version import __version__

        click.echo(f"peftcore {__version__}")
        ctx.exit()


def _use(ctx: click.Context, _: click.Parameter, modules: tuple[str, ...]) -> None:
    """Have modules as plugins, here and in processes that are started, until the command ends."""
    if not modules or ctx.resilient_parsing:
        return
    import os

    from peftcore.registry.choices import IN_PROCESS, named_in
    from peftcore.registry.installed import installed

    found, known, before = installed(), list(installed().records), os.environ.get(IN_PROCESS)
    os.environ[IN_PROCESS] = ",".join([*named_in(IN_PROCESS), *modules])
    records = [found.use(module) for module in modules]
    ctx.obj = [record for record in records if record.status != "ok"]

    def restore() -> None:
        for record in records:
            if record not in known and record in found.records:
                found.remove(record)
        os.environ.pop(IN_PROCESS)
        if before is not None:
            os.environ[IN_PROCESS] = before

    ctx.call_on_close(restore)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-p", "--plugin", multiple=True, metavar="MODULE", expose_value=False, is_eager=True,
    callback=_use, help="Use a module that is not installed as a plugin. May be given repeatedly.",
)  # fmt: skip
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version,
    help="Show the version and exit.",
)  # fmt: skip
def main() -> None:
    """Parameter-efficient fine-tuning in which every method and backbone is a plugin."""
