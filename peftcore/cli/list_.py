"""``peftcore list``."""

import click

from peftcore.cli._tables import print_json, table
from peftcore.registry.installed import installed

_KINDS = ("methods", "backbones", "tasks", "sources", "formats", "commands", "executors")


@click.command("list")
@click.argument("kind", type=click.Choice(_KINDS), required=False)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--strict", is_flag=True, help="Exit with 1 if a plugin has a problem.")
def command(kind: str | None, as_json: bool, strict: bool) -> None:
    """List what the installed plugins provide, and which plugins cannot be used."""
    found = installed()
    kinds = (kind,) if kind else _KINDS
    problems = [r for r in found.records if r.status not in ("ok", "disabled")]
    if as_json:
        plugins = [{k: v for k, v in vars(r).items() if k != "trace"} for r in found.records]
        print_json({**{k: _entries(k) for k in kinds}, "plugins": plugins})
    else:
        tables = [
            table((k, "from", "what"), [(e["name"], _from(k, e), e["summary"]) for e in rows])
            for k in kinds
            if (rows := _entries(k))
        ]
        nothing = f"no {kind} installed." if kind else "nothing installed."
        try_these = "Try: pip install peftcore-lora peftcore-text peftcore-train"
        click.echo("\n\n".join(tables) or f"{nothing} {try_these}")
        if bad := [r for r in found.records if r.status != "ok"]:
            lines = [f"{r.status}: {r.named}: {_head(r.problem)}" for r in bad]
            click.echo("\n" + "\n".join(lines))
        if problems:
            click.echo("See peftcore doctor.")
    if strict and problems:
        raise SystemExit(1)


def _entries(kind: str) -> list[dict[str, str]]:
    found = installed()
    entries = []
    for name, spec in sorted(getattr(found, kind).items()):
        owner = found.owner(kind, name)
        entries.append(
            {
                "name": name,
                "summary": spec.summary,
                "distribution": owner.distribution,
                "version": owner.version,
            }
        )
    return entries


def _from(kind: str, entry: dict[str, str]) -> str:
    return installed().owner(kind, entry["name"]).shown


def _head(text: str) -> str:
    return text.partition("\n")[0]
