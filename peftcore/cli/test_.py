"""``peftcore test NAME``."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import click

from peftcore.cli import _completion
from peftcore.errors import ConfigError, PluginError, UnknownName, nearest
from peftcore.registry.installed import installed

#: Kind of what a plugin brings to the contract for it and the attribute that names it there.
_CONTRACTS = {
    "methods": ("MethodContract", "method"),
    "backbones": ("BackboneContract", "backbone"),
    "layers": ("LayerContract", "layer"),
    "sources": ("SourceContract", "source"),
    "commands": ("CommandContract", "command"),
}
_KINDS = (*_CONTRACTS, "tasks")
#: What the contract says of a method, where nobody has said it in a test file.
_UNSAID = "    merges = routes = compiles = None\n"


class Thing(NamedTuple):
    """Something that a plugin brings."""

    kind: str
    name: str


class Outcome(NamedTuple):
    """What a run of pytest found."""

    passed: int
    skipped: int
    failed: tuple[str, ...]


@click.command("test", context_settings={"ignore_unknown_options": True})
@click.argument("name", shell_complete=_completion.tested)
@click.argument("pytest_options", nargs=-1, type=click.UNPROCESSED)
@click.option("--toys", is_flag=True, help="On toys alone: seconds, where backbones take minutes.")
@click.option(
    "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Field of the method to test with, as YAML: rank=2. May be given repeatedly.",
)  # fmt: skip
def command(
    name: str, pytest_options: tuple[str, ...], toys: bool, settings: tuple[str, ...]
) -> None:
    """Try whether an installed plugin, yours or a stranger's, keeps its contract.

    NAME is what a plugin brings, such as a method or a backbone, or the plugin itself, for all
    that it brings; no test file is needed. Progress goes to stderr, the result is one line. Other
    options go to pytest: -k loss, -x, -v.
    """
    things = _meant(name)
    if find_spec("pytest") is None:
        raise PluginError("the contracts need pytest: pip install 'peftcore[test]'")
    options = [*(["-m", "not backbones"] if toys else []), *pytest_options]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "test_contract.py"
        file.write_text(_source(name, things, _config(things, settings)), "utf-8")
        code, outcome = _run(file, options)
    if code == 4:
        raise ConfigError(
            f"pytest does not take {' '.join(pytest_options)}. One NAME is tried at a time, and"
            " what follows it goes to pytest."
        )
    if code == 2 and not outcome.failed:  # it says 2 as well where a contract cannot begin
        raise KeyboardInterrupt
    if not (outcome.passed or outcome.failed):
        raise ConfigError(f"{name}: nothing was checked; no check fits, or all were skipped.")
    click.echo(_summary(name, things, outcome))
    raise SystemExit(1 if outcome.failed else 0)


def _meant(name: str) -> list[Thing]:
    """Return what a name stands for."""
    found = installed()
    things = [Thing(kind, name) for kind in _KINDS if name in getattr(found, kind)]
    if things:
        return things
    records = [r for r in found.records if name in (r.distribution, r.name)]
    if records:
        unusable = next((r for r in records if r.status != "ok"), None)
        if unusable is not None:
            raise PluginError(unusable.why_not())
        return [Thing(k, n) for r in records for k in _KINDS for n in r.provides.get(k, ())]
    for kind in _KINDS:
        try:
            found.find(kind, name)
        except UnknownName:
            continue  # a PluginError says which plugin would bring it, and why it does not
    known = [n for kind in _KINDS for n in getattr(found, kind)]
    known += [r.distribution for r in found.records]
    raise UnknownName(f"nothing that is installed is called {name!r}.{nearest(name, known)}")


def _config(things: Sequence[Thing], settings: tuple[str, ...]) -> dict[str, Any]:
    import yaml

    if settings and [thing.kind for thing in things] != ["methods"]:
        raise ConfigError("--set is for one method: name it.")
    config = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as rank=2.")
        try:
            config[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {setting}: {text!r} is not readable as YAML.") from None
    return config


def _source(name: str, things: Sequence[Thing], config: dict[str, Any]) -> str:
    """Return the test file that an author would write."""
    owners = {installed().owner(*thing).shown: installed().owner(*thing) for thing in things}
    parts = ["from peftcore import backbone_named\nfrom peftcore import testing\n"]
    for number, record in enumerate(owners.values()):
        parts.append(
            f"class TestPlugin_{number}(testing.PluginContract):\n"
            f"    plugin = {record.distribution!r}, {record.name!r}\n"
        )
    for number, (kind, thing) in enumerate(things):
        if kind not in _CONTRACTS:
            continue
        contract, attribute = _CONTRACTS[kind]
        said = f"    {attribute} = {thing!r}\n"
        if kind == "methods":
            said += f"    config = {config!r}\n{_UNSAID}"
        if kind == "backbones":
            said += f"    heads = ('none', *backbone_named({thing!r}).heads)\n"
        title = "".join(part.capitalize() for part in _words(thing))
        parts.append(f"class Test{title}_{number}(testing.{contract}):\n{said}")
    return f'"""The contracts of {name}."""\n\n' + "\n\n".join(parts)


def _words(name: str) -> list[str]:
    return "".join(c if c.isalnum() and c.isascii() else " " for c in name).split()


def _run(file: Path, options: Sequence[str]) -> tuple[int, Outcome]:
    report = file.with_suffix(".xml")
    command = [
        sys.executable, "-m", "pytest", "-p", "peftcore.testing.pytest_plugin",
        "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(file.parent), "-q", "-ra",
        "--import-mode=importlib", f"--junitxml={report}", *options, str(file),
    ]  # fmt: skip
    # the user's own plugins and options of pytest have no part in a contract
    env = {k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=env, bufsize=0, **streams) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(4096):
            click.echo(chunk, err=True, nl=False)
    return process.returncode, _read(report)


def _read(report: Path) -> Outcome:
    from xml.etree import ElementTree

    if not report.exists():
        return Outcome(0, 0, ())
    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = sum(case.find("skipped") is not None for case in cases)
    failed = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    names = tuple(_sentence(str(case.get("name"))) for case in failed)
    return Outcome(len(cases) - skipped - len(failed), skipped, names)


def _sentence(test: str) -> str:
    """Return the name of a test as words: what is not so."""
    plain, bracket, case = test.removeprefix("test_").partition("[")
    return plain.replace("_", " ") + (f" ({case.removesuffix(']')})" if bracket else "")


def _summary(name: str, things: Sequence[Thing], outcome: Outcome) -> str:
    skipped = f", {outcome.skipped} skipped" if outcome.skipped else ""
    if not outcome.failed:
        rest = [thing.name for thing in things if thing.kind == "tasks"]
        more = f" The rows of {', '.join(rest)} are for a test file of its own." if rest else ""
        return f"{name} keeps its contract: {outcome.passed} checks passed{skipped}.{more}"
    checks = outcome.passed + len(outcome.failed)
    names = list(dict.fromkeys(outcome.failed))
    listed = "; ".join(names[:3]) + ("; and others" if len(names) > 3 else "")
    return f"{name} breaks its contract: {len(outcome.failed)} of {checks} checks fail: {listed}."
