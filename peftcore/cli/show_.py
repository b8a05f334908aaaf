"""``peftcore show NAME``."""

from typing import Any

import click

from peftcore.cli import _completion
from peftcore.cli._tables import print_json, table
from peftcore.errors import UnknownName, nearest
from peftcore.registry.installed import CORE, installed

_KINDS = ("methods", "backbones", "tasks", "sources")


@click.command("show")
@click.argument("name", shell_complete=_completion.names)
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(name: str, as_json: bool) -> None:
    """Show a method, backbone, task or source: what it is, its fields, where it runs."""
    found = installed()
    kinds = [kind for kind in _KINDS if name in getattr(found, kind)]
    if not kinds:
        if name in (*found.commands, *CORE["commands"]):
            raise UnknownName(f"{name} is a command; see peftcore {name} --help")
        known = [n for kind in _KINDS for n in getattr(found, kind)]
        raise UnknownName(
            f"no installed plugin provides {name!r}.{nearest(name, known)} See peftcore list."
        )
    shown = [_about(kind, name) for kind in kinds]
    if as_json:
        print_json(shown[0] if len(shown) == 1 else shown)
        return
    for about in shown:
        fields = about.pop("fields")
        click.echo("\n".join(f"{key:<10}{_plain(value)}" for key, value in about.items() if value))
        if fields:
            rows = [(f["name"], f["type"], _default(f), f["description"]) for f in fields]
            click.echo("\n" + table(("field", "type", "default", "what"), rows))


def _about(kind: str, name: str) -> dict[str, Any]:
    spec, owner = getattr(installed(), kind)[name], installed().owner(kind, name)
    return {
        "name": name,
        "kind": kind[:-1],
        "summary": spec.summary,
        "from": f"{owner.distribution} {owner.version}",
        **_more(kind, spec),
        "fields": _fields(kind, name) if hasattr(spec, "config") else [],
    }


def _more(kind: str, spec: Any) -> dict[str, Any]:
    if kind == "methods":
        return {
            "paper": spec.paper,
            "start": "the base's outputs" if spec.identity_at_start else "not the base's outputs",
            "needs": [installed().features[name].summary for name in spec.needs],
            "docs": spec.docs,
        }
    if kind == "backbones":
        return {
            "roles": sorted(installed().resolve("backbones", spec.name, "backbone").roles),
            "sizes": list(spec.configs),
            "docs": spec.docs,
        }
    if kind == "sources":
        return {"is": spec.kind, "licence": spec.licence}
    return {}


def _fields(kind: str, name: str) -> list[dict[str, Any]]:
    model = installed().resolve(kind, name, "config")
    schema = model.model_json_schema()
    required = schema.get("required", ())
    return [
        {
            "name": name,
            "type": _type(schema["properties"][name]),
            "required": name in required,
            "default": schema["properties"][name].get("default"),
            "description": info.description or "",
        }
        for name, info in model.model_fields.items()
    ]


def _default(field: dict[str, Any]) -> str:
    return "(required)" if field["required"] else _plain(field["default"])


def _plain(value: Any) -> str:
    """Return a value as users write it in a recipe, without brackets or quotes."""
    if isinstance(value, dict) and "roles" in value:  # targets, with what is not the default
        rest = {k: v for k, v in value.items() if k != "roles" and v not in ("all", [])}
        return "; ".join(filter(None, (_plain(value["roles"]), _plain(rest))))
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(s) for s in schema["anyOf"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].lower()
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    kind = str(schema.get("type", "any"))
    return {"object": "per role", "array": "list"}.get(kind, kind)
