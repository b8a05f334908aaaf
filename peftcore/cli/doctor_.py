"""``peftcore doctor``."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from peftcore.cli._tables import print_json, table
from peftcore.errors import PluginError, nearest
from peftcore.registry.checking import KINDS, REFERENCE_FIELDS
from peftcore.registry.choices import DISABLE, disabled_plugins
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve
from peftcore.registry.specs import FEATURES

_LIBRARIES = ("peftcore", "torch", "transformers", "accelerate", "pluggy", "pydantic")


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(as_json: bool) -> None:
    """Import everything that the plugins name, and show what is wrong with its traceback."""
    found = installed()
    unknown = _unknown_disabled()
    references = _check_references()
    if as_json:
        print_json(
            {
                "plugins": [vars(r) for r in found.records],
                "references": references,
                "environment": unknown,
            }
        )
    else:
        click.echo(f"Python {platform.python_version()} at {sys.executable}")
        click.echo(", ".join(f"{name} {_version(name)}" for name in _LIBRARIES) + "\n")
        rows = [(r.shown, r.version, r.status, r.problem) for r in found.records]
        click.echo(table(("plugin", "version", "status", "problem"), rows))
        for record in found.records:
            if record.trace:
                click.echo(f"\n{record.shown}:\n{record.trace.rstrip()}")
        for reference in references:
            where = "{distribution}: {field} of {kind} {name!r}".format(**reference)
            click.echo(f"\n{where}: {reference['problem']}\n{reference['trace'].rstrip()}")
        for sentence in unknown:
            click.echo(f"\n{sentence}")
    if unknown or references or any(r.status not in ("ok", "disabled") for r in found.records):
        raise SystemExit(1)
    if not as_json:
        click.echo("\nEverything that the plugins name can be imported.")


def _unknown_disabled() -> list[str]:
    known = {"all", *(n for r in installed().records for n in (r.name, r.distribution))}
    return [
        f"{DISABLE} names {name!r}, which is no installed plugin.{nearest(name, known)}"
        for name in sorted(disabled_plugins() - known)
    ]


def _check_references() -> list[dict[str, str]]:
    import traceback

    found = installed()
    problems = []
    for kind in KINDS:
        for name, spec in getattr(found, kind).items():
            if kind == "features" and spec in FEATURES:
                continue  # the core's own, which no plugin answers for
            for field in REFERENCE_FIELDS:
                reference = getattr(spec, field, None)
                if not reference:
                    continue
                try:
                    resolve(reference)
                except PluginError as error:
                    cause = error.__cause__
                    assert cause is not None
                    problems.append(
                        {
                            "distribution": found.owner(kind, name).shown,
                            "kind": kind.removesuffix("s"),
                            "name": name,
                            "field": field,
                            "problem": f"{reference} cannot be imported: {cause!r}",
                            "trace": "".join(traceback.format_exception(cause)),
                        }
                    )
    return problems


def _version(name: str) -> str:
    if name == "peftcore":
        from peftcore.version import __version__

        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
