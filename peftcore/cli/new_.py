"""``peftcore new KIND NAME``: the skeleton of a plugin, one for every kind."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from peftcore.errors import ConfigError
from peftcore.registry.installed import CORE, installed

_KINDS = ("method", "backbone", "task", "source", "layer", "command")


@click.command("new")
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("name")
@click.option(
    "--into", type=click.Path(path_type=Path), default=Path(),
    help="Folder in which to make the plugin; here by default.",
)  # fmt: skip
def command(kind: str, name: str, into: Path) -> None:
    """Write a complete plugin that works, passes its contract tests, and is yours to change."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        raise ConfigError(f"{name!r}: use lower-case letters, digits, - and _, such as tinylora.")
    _check_free(kind, name)
    target = into / f"peftcore-{name}"
    if target.exists():
        raise ConfigError(f"{target} exists; nothing was written.")
    words = {
        "__name__": name.replace("-", "_"),
        "__dist__": name,
        "__Class__": "".join(part.capitalize() for part in re.split("[-_]", name)),
    }
    try:
        _render(files("peftcore.cli") / "templates" / kind, target, words)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror or error}.") from error
    click.echo(f"{target} written. Next:\n  cd {target}\n  pip install -e '.[test]'\n  pytest")


def _check_free(kind: str, name: str) -> None:
    found = installed()
    if name in (*CORE.get(f"{kind}s", ()), "probe", "testing", "toy"):
        raise ConfigError(f"{name!r} is a name of peftcore itself; choose another name.")
    if name in getattr(found, f"{kind}s"):
        owner = found.owner(f"{kind}s", name).distribution
        raise ConfigError(f"{owner} already provides a {kind} {name!r}; choose another name.")
    distribution = f"peftcore-{name}".replace("_", "-")
    if distribution in {record.distribution.replace("_", "-") for record in found.records}:
        raise ConfigError(f"{distribution} is installed already; choose another name.")


def _render(source: Traversable, target: Path, words: dict[str, str]) -> None:
    target.mkdir(parents=True)
    for entry in source.iterdir():
        name = _filled(entry.name, words)
        if entry.is_dir():
            _render(entry, target / name, words)
        else:
            (target / name.removesuffix(".txt")).write_text(
                _filled(entry.read_text("utf-8"), words), "utf-8"
            )


def _filled(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text
