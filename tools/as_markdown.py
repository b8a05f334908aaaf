"""Docstrings, signatures and pydantic models as Markdown, for the reference."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

_FILE_BLOCK = re.compile(r"^(`{3,})(\w+) (\S+)\n.*?^\1$", re.DOTALL | re.MULTILINE)
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns):")
_BOUNDS = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)


def prose(text: str) -> str:
    """Turn reStructuredText's inline marks into Markdown's, on one line."""
    text = re.sub(r":\w+:`~?(?:peftcore\.)?([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`").replace("::", ":")


def first_paragraph(thing: Any) -> str:
    """Return the first paragraph of a docstring on one line."""
    text = inspect.cleandoc(thing) if isinstance(thing, str) else inspect.getdoc(thing) or ""
    return prose(text.split("\n\n")[0])


def docstring(thing: Any) -> str:
    """Return a docstring without its example; arguments, attributes and errors become lists."""
    out: list[str] = []
    for block in (inspect.getdoc(thing) or "").split("\n\n"):
        title, _, rest = block.partition("\n")
        if _SECTION.fullmatch(title):
            out.append(f"*{title[:-1]}*\n\n" + "\n".join(_items(rest)))
        elif not title.startswith((" ", ">>>", "Example:")):
            out.append(prose(block))
    return "\n\n".join(filter(None, out))


def _items(text: str) -> list[str]:
    items: list[str] = []
    for line in textwrap.dedent(text).splitlines():
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(re.sub(r"^([\w, ]+):", r"- `\1`:", line) if ":" in line else f"- {line}")
    return [f"- {prose(item[2:])}" for item in items]


def signature(function: Callable[..., Any], name: str = "") -> str:
    """Return a function's signature as the source has it, without self."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    node.args.args = [a for a in node.args.args if a.arg not in ("self", "cls")]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name or node.name}({ast.unparse(node.args)}){returns}"


def field_docs(cls: type) -> list[str]:
    """Return the fields of a class that have a docstring or a ``#:`` comment, as list items."""
    source = textwrap.dedent(inspect.getsource(cls))
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef)
    found: list[str] = []
    for before, after in zip(node.body, node.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
            found.append(
                f"- `{ast.unparse(before)}`: {first_paragraph(ast.literal_eval(after.value))}"
            )
    lines = source.splitlines()
    for item in node.body:
        above = lines[item.lineno - 2].strip()
        if ast.unparse(item).startswith("_"):
            continue
        if isinstance(item, ast.AnnAssign | ast.Assign) and above.startswith("#:"):
            found.append(f"- `{ast.unparse(item)}`: {prose(above[2:])}")
    return found


def members(cls: type) -> list[str]:
    """Return the public methods and properties of a class with a line each, as list items."""
    found = []
    for name, value in vars(cls).items():
        inner = getattr(value, "fget", None) or getattr(value, "__func__", value)
        if name.startswith("_") or not inspect.isfunction(inner) or not inner.__doc__:
            continue
        call = inspect.unwrap(inner)
        head = name if isinstance(value, property) else signature(call, name)
        found.append(f"- `{head}`: {first_paragraph(call)}")
        found += [f"  {item}" for item in arguments(call)]
    return found


def arguments(function: Callable[..., Any]) -> list[str]:
    """Return what a docstring says of the arguments and errors of a function, as list items."""
    found = []
    for block in (inspect.getdoc(function) or "").split("\n\n"):
        title, _, rest = block.partition("\n")
        if title == "Args:":
            found += _items(rest)
        elif title == "Raises:":
            found += [item.replace("- ", "- raises ", 1) for item in _items(rest)]
    return found


def fields(model: type[BaseModel]) -> str:
    """Return the fields of a pydantic model: type with bounds, default, meaning."""
    schema = model.model_json_schema()
    rows = []
    for field, info in model.model_fields.items():
        name = info.alias or field
        default = "required" if info.is_required() else _default(info.get_default())
        kind = _type(schema["properties"][name])
        rows.append((f"`{name}`", kind, default, info.description))
    return table(("field", "type", "default", "meaning"), rows)


def _default(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = getattr(value, "roles", "as below")
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    return f"`{value}`"


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part) for part in schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "[targets](targets.md)" if name == "Targets" else f"section `{name}`"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    inner = schema.get("additionalProperties")
    if kind == "object":
        return f"mapping to {_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    if kind == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return " ".join([{"string": "text"}.get(kind, kind), ", ".join(bounds)]).strip()


def option(option: click.Option, context: click.Context) -> tuple[str, str, str]:
    """Return the names of a command's option, its value, and what it is for."""
    names = ", ".join(f"`{name}`" for name in option.opts)
    value = "" if option.is_flag else f"`{option.make_metavar(context)}`"
    notes = [
        option.help or "",
        f"Default: `{option.default}`." if isinstance(option.default, str) else "",
        "Required." if option.required else "",
        "May be given repeatedly."
        if option.multiple and "repeated" not in (option.help or "")
        else "",
    ]
    return names, value, " ".join(filter(None, notes))


def with_files(text: str, folders: Sequence[Path]) -> str:
    """Return a page whose blocks with a file name hold that file, of the first folder with one."""

    def block(match: re.Match[str]) -> str:
        fence, lang, name = match.groups()
        found = next((f / name for f in folders if (f / name).exists()), None)
        return f"{fence}{lang} {name}\n{found.read_text('utf-8')}{fence}" if found else match[0]

    return _FILE_BLOCK.sub(block, text)
