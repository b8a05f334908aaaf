"""``peftcore test NAME``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import click

from peftcore.errors import ConfigError, UnknownName, nearest
from peftcore.registry.choices import IN_PROCESS
from peftcore.registry.installed import installed
from peftcore.registry.records import HERE

#: Kind to its contract and to the attribute that names what is tested. Nobody has said yet what a
#: method can do, so that a sentence which refuses it is as good.
_CONTRACTS = {
    "methods": ("MethodContract", "method", "merges = routes = compiles = None"),
    "backbones": ("BackboneContract", "backbone", ""),
    "layers": ("LayerContract", "layer", ""),
    "sources": ("SourceContract", "source", ""),
    "commands": ("CommandContract", "command", ""),
}
_EXIT = {0: 0, 1: 1, 2: 130}


@click.command("test", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
def command(name: str, pytest_options: tuple[str, ...]) -> None:
    """Run the contracts of an installed plugin, yours or a stranger's.

    NAME is a distribution, or the name of a method, backbone, layer type, source or command. What
    follows it goes to pytest: -k disabled, -x, -m "not backbones" for the part on toys alone.
    """
    found = list(_named(name))
    if not found:
        raise UnknownName(_unknown(name))
    if find_spec("pytest") is None:
        raise ConfigError("the contracts need pytest: pip install 'peftcore[test]'")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_contracts.py"
        file.write_text(_source(found), "utf-8")
        options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", folder]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(file), *pytest_options], check=False
        )
    tested = ", ".join(f"{kind.removesuffix('s')} {named}" for kind, named in found)
    verdict = "keeps its contract" if done.returncode == 0 else "does not keep its contract"
    click.echo(f"{name} ({tested}): {verdict}", err=True)
    raise SystemExit(_EXIT.get(done.returncode, 1))


def _named(name: str) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of what a name stands for."""
    for record in installed().records:
        if name in (record.distribution, record.name) and record.status == "ok":
            for kind in _CONTRACTS:
                yield from ((kind, provided) for provided in record.provides.get(kind, ()))
            return
    for kind in _CONTRACTS:
        if name in getattr(installed(), kind):
            yield kind, name


def _unknown(name: str) -> str:
    known = [r.distribution for r in installed().records if r.distribution != HERE]
    for kind in _CONTRACTS:
        known += getattr(installed(), kind)
    for record in installed().records:
        if name in (record.distribution, record.name):
            return f"{name} cannot be tested: it is {record.status}, {record.problem}"
    return (
        f"no installed plugin is or brings {name!r}.{nearest(name, known)} A module that is not"
        f" installed is named with peftcore -p MODULE test NAME, or in {IN_PROCESS}."
    )


def _source(found: list[tuple[str, str]]) -> str:
    lines = ["from peftcore import testing", ""]
    for i, (kind, name) in enumerate(found):
        contract, attribute, more = _CONTRACTS[kind]
        lines += [
            "",
            f"class Test{i}{contract}(testing.{contract}):",
            f"    {attribute} = {name!r}",
        ]
        lines += [f"    {more}"] if more else []
    return "\n".join(lines) + "\n"
