"""What the texts of the code tell to do can be done: what they name is there.

A stranger reads the message alone. So every text of every distribution is looked at, errors,
warnings, help and descriptions alike: a command, an option, an extra, a field of a recipe, a value
of it, a public function, a hook or a page that it names exists.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import click
import pytest
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

import peftcore
from peftcore import Adapter, Strict, Targets, installed, resolve
from peftcore.cli import main
from peftcore.method.hookspecs import Adapting
from peftcore.registry.hookspecs import Discovery

pytest.importorskip("peftcore_train")

ROOT = Path(__file__).resolve().parent.parent
#: What stands in a text for a value that is put in; no pattern below matches it.
VALUE = "\0"
#: What may follow the name of the project in a sentence.
PROSE = {"adapter", "cannot", "does", "has", "import", "itself", "reads", "that"}
#: Options of pip and hf, which the cache of samples and the card of a run tell to call.
FOREIGN = {"--hash", "--local-dir", "--no-binary", "--no-deps"}
#: Decoders of pydicom that no extra brings, since one of them is under the GPL.
FOREIGN_PACKAGES = {"pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"}
SUFFIXES = {"csv", "h5", "jsonl", "parquet", "safetensors", "tsv", "txt", "yaml"}


class Text(NamedTuple):
    """A text in the code of a distribution."""

    project: str
    where: str
    said: str


Check = Callable[[Text], Iterator[str]]


def rendered(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(rendered(value) for value in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else VALUE


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are sentences or begin one, docstrings left out."""
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for value in node.values for part in ast.walk(value)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant | ast.JoinedStr) or id(node) in skipped:
            continue
        if " " in (said := rendered(node)).strip():
            yield node.lineno, said


@cache
def projects() -> dict[str, dict[str, Any]]:
    files = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    found = [tomllib.loads(file.read_text("utf-8"))["project"] for file in files]
    return {meta["name"]: meta for meta in found}


@cache
def texts() -> list[Text]:
    found = []
    for project in projects():
        module = project.replace("-", "_")
        if find_spec(module) is None:
            continue  # its methods, tasks and commands are not known here
        folder = ROOT if project == "peftcore" else ROOT / "plugins" / project
        for file in sorted((folder / module).rglob("*.py")):
            tree = ast.parse(file.read_text("utf-8"))
            name = file.relative_to(ROOT)
            found += [Text(project, f"{name}:{line}", said) for line, said in strings(tree)]
    return found


# --- commands and their options ----------------------------------------------------------------


@cache
def commands() -> dict[str, tuple[str, frozenset[str]]]:
    """Return the commands by name: who brings each, and its options."""
    context, found = click.Context(main), {}
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        spec = installed().commands.get(name)
        owner = installed().owner("commands", name).distribution if spec else "peftcore"
        found[name] = owner, frozenset(options)
    return found


_COMMAND = re.compile(r"(?<![\w./-])peftcore ([a-z][\w-]*)((?:[^.;\n]|\.(?=\S))*)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def wrong_commands(text: Text) -> Iterator[str]:
    for match in _COMMAND.finditer(text.said):
        name, rest = match[1], match[2]
        if name in PROSE:
            continue
        if name not in commands():
            yield f"there is no peftcore {name}"
            continue
        for option in _OPTION.findall(rest):
            if option not in commands()[name][1]:
                yield f"peftcore {name} has no {option}"


def wrong_options(text: Text) -> Iterator[str]:
    """Find options that no command has which the distribution brings."""
    rest = _COMMAND.sub("", text.said)
    mine = [options for owner, options in commands().values() if owner == text.project]
    known = frozenset().union(*(mine or [options for _, options in commands().values()]))
    for option in _OPTION.findall(rest):
        if option not in known | FOREIGN:
            yield f"no command of {text.project} has {option}"


# --- what is to be installed -------------------------------------------------------------------


_INSTALL = re.compile(r"pip install ((?:'?[\w.-]+(?:\[[^\]]*\])?'?[ ]?)+)")
_REQUIREMENT = re.compile(r"('?)([\w.-]+)(?:\[([^\]]*)\])?'?")


@cache
def required() -> set[str]:
    """Return what the distributions need, by the names of the index."""
    found = set()
    for meta in projects().values():
        extras = meta.get("optional-dependencies", {}).values()
        for line in [*meta["dependencies"], *(line for extra in extras for line in extra)]:
            found.add(re.split(r"[^\w.-]", line)[0].lower())
    return found


def wrong_installs(text: Text) -> Iterator[str]:
    for match in _INSTALL.finditer(text.said):
        for quote, name, extra in _REQUIREMENT.findall(match[1]):
            if name.startswith("-") or name == ".":
                continue
            if name not in projects():
                if name.startswith("peftcore") or name not in required() | FOREIGN_PACKAGES:
                    yield f"nothing here is or needs {name}"
                continue
            extras = projects()[name].get("optional-dependencies", {})
            if extra and VALUE not in extra and extra not in extras:
                yield f"{name} has no extra {extra}"
            if extra and not quote:
                yield f"{name}[{extra}]: some shells want quotes"


# --- fields of recipes and their values --------------------------------------------------------


@cache
def kinds(of: str, project: str) -> tuple[type[BaseModel], ...]:
    """Return the configurations of methods or tasks, those of a distribution or all."""
    specs = getattr(installed(), of).items()
    mine = [spec for n, spec in specs if installed().owner(of, n).distribution == project]
    if not mine or project == "peftcore":  # what has none speaks of everybody's
        mine = [spec for _, spec in specs]
    return tuple(resolve(spec.config) for spec in mine)


@cache
def section(name: str, project: str) -> tuple[type[BaseModel], ...]:
    """Return what a section of a recipe may be, as seen from a distribution."""
    from peftcore_train.recipes import BackboneSection
    from peftcore_train.schema import DataSection, TrainSection

    sections = {"backbone": BackboneSection, "data": DataSection, "train": TrainSection}
    if name in sections:
        return (sections[name],)
    if name == "task":
        return kinds("tasks", project)
    if name.startswith("methods"):
        return kinds("methods", project)
    home = installed().owner("commands", name).distribution
    for file in (ROOT / "plugins" / home / home.replace("-", "_")).rglob("section.py"):
        import_module(".".join(file.relative_to(ROOT / "plugins" / home).with_suffix("").parts))
    own = [k for k in Strict.__subclasses__() if k.__name__.lower() == f"{name}section"]
    return (*own, *(resolve(s.config) for n, s in installed().methods.items() if n == name))


def sections() -> list[str]:
    more = [name for name, spec in installed().commands.items() if spec.section]
    return ["task", "train", "data", "backbone", r"methods\[\d\]", *sorted(more)]


def field(kinds: tuple[type[BaseModel], ...], name: str) -> list[Any]:
    return [kind.model_fields[name] for kind in kinds if name in kind.model_fields]


def takes(info: Any, value: str) -> bool:
    kind = Annotated[info.annotation, *info.metadata] if info.metadata else info.annotation
    try:
        TypeAdapter(kind, config=ConfigDict(strict=False)).validate_python(yaml.safe_load(value))
    except ValidationError:
        return False
    return True


def wrong_value(found: list[Any], name: str, value: str) -> Iterator[str]:
    if value and VALUE not in value and not any(takes(info, value) for info in found):
        yield f"{name} cannot be {value}"


#: What tells to write something; what stands in front of a colon elsewhere begins a sentence.
_TELLS = r"(?<!cannot )\b(?:[Ww]rite|[Ss]ay|[Ss]et|[Cc]hoose|[Tt]ake|[Gg]oes? with) "
#: A value of one word; a list or a mapping is not read.
_GIVEN = r": ([\w.]*\w)"


def wrong_fields(text: Text) -> Iterator[str]:
    """Find ``task.field`` and the like that no configuration has."""
    for name, key, inner in _dotted().findall(text.said):
        if key in SUFFIXES or (name, key) == ("task", "type"):
            continue
        found = field(section(name, text.project), key)
        models = [a for i in found for a in (i.annotation, *get_args(i.annotation))]
        inside = tuple(model for model in models if hasattr(model, "model_fields"))
        if not found:
            yield f"there is no {name}.{key}"
        elif inner and inside and not field(inside, inner):
            yield f"there is no {name}.{key}.{inner}"


@cache
def _dotted() -> re.Pattern[str]:
    names = "|".join(sections())
    return re.compile(rf"(?<![\w./\[])({names})\.([a-z_]\w*)(?:\.([a-z_]\w*))?(?!\w*\()")


def wrong_values(text: Text) -> Iterator[str]:
    """Find values that a field does not take: Write task.field: value."""
    pattern = rf"(?:{_TELLS}|\b[Ww]ith )({'|'.join(sections())})\.([a-z_]\w*){_GIVEN}"
    for name, key, value in re.findall(pattern, text.said):
        yield from wrong_value(field(section(name, text.project), key), f"{name}.{key}", value)


def wrong_bare_fields(text: Text) -> Iterator[str]:
    """Find ``Write field: value`` of no method or task of the distribution."""
    for key, value in re.findall(rf"{_TELLS}([a-z]\w*)(?:{_GIVEN}|: \0)", text.said):
        mine = (*kinds("methods", text.project), *kinds("tasks", text.project), Targets)
        train = section("train", text.project) if text.project == "peftcore-train" else ()
        found = field((*mine, *train), key)
        if not found:
            yield f"{text.project} has no field {key}"
        yield from wrong_value(found, key, value)


def wrong_methods(text: Text) -> Iterator[str]:
    for given in re.findall(r"\{method: [^{}\0]*\}", text.said):
        choice = yaml.safe_load(given)
        config = resolve(installed().find("methods", choice.pop("method")).config)
        try:
            config.model_validate(choice)
        except ValidationError as error:
            yield f"{given}: {error}"


# --- Python ------------------------------------------------------------------------------------


@cache
def public() -> frozenset[str]:
    found = set()
    for stub, prefix in (("__init__.pyi", ""), ("testing/__init__.pyi", "testing.")):
        tree = ast.parse((ROOT / "peftcore" / stub).read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                found |= {prefix + (alias.asname or alias.name) for alias in node.names}
            elif isinstance(node, ast.FunctionDef):
                found.add(prefix + node.name)
    return frozenset(found)


def wrong_functions(text: Text) -> Iterator[str]:
    for name in re.findall(r"(?<![\w./\"-])peftcore\.((?:testing\.)?[A-Za-z]\w*)", text.said):
        if name not in public() and find_spec(f"peftcore.{name}") is None:
            yield f"there is no public peftcore.{name}"
    for option, name in re.findall(r"(\w+) of peftcore\.(\w+)", text.said):
        told = getattr(peftcore, name, None)
        if inspect.isfunction(told) and option not in inspect.signature(told).parameters:
            yield f"peftcore.{name} takes no {option}"
    for option in re.findall(r"\battach\(\.\.\., (\w+)=", text.said):
        if option not in inspect.signature(peftcore.attach).parameters:
            yield f"attach takes no {option}"
    for name in re.findall(r"\badapter\.(\w+)\(", text.said):
        if not hasattr(Adapter, name):
            yield f"an adapter has no {name}"


def wrong_hooks(text: Text) -> Iterator[str]:
    modules = {name.replace("-", "_") for name in projects()}
    for name in re.findall(r"(?<![\w./-])peftcore_\w*[a-z0-9](?![\w\0])", text.said):
        if name not in modules and not hasattr(Discovery, name) and not hasattr(Adapting, name):
            yield f"there is no hook {name}"


def wrong_pages(text: Text) -> Iterator[str]:
    for page in re.findall(r"(?<![\w/\0])[\w./-]+\.md\b", text.said):
        if not (ROOT / page).is_file():
            yield f"there is no {page}"


@cache
def code() -> str:
    files = [*ROOT.glob("peftcore/**/*.py"), *ROOT.glob("plugins/*/peftcore_*/**/*.py")]
    return "".join(file.read_text("utf-8") for file in files)


def wrong_variables(text: Text) -> Iterator[str]:
    for name in re.findall(r"\bPEFTCORE_[A-Z_]+\b", text.said):
        if f'"{name}"' not in code():
            yield f"nothing reads {name}"


CHECKS: tuple[Check, ...] = (
    wrong_commands, wrong_options, wrong_installs, wrong_fields, wrong_values, wrong_bare_fields,
    wrong_methods, wrong_functions, wrong_hooks, wrong_pages, wrong_variables,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_a_text_names_is_there(check: Check) -> None:
    wrong = [f"{text.where}: {what}" for text in texts() for what in check(text)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("check", "project", "said"),
    [
        (wrong_commands, "peftcore", "Go on with: peftcore trian --resume \0"),
        (wrong_commands, "peftcore", "see it with peftcore predict --allow-other-base \0"),
        (wrong_options, "peftcore-train", "go on with --resum"),
        (wrong_options, "peftcore-tune", "allow another one (--allow-other-base)"),
        (wrong_installs, "peftcore", "the contracts need pytest: pip install 'peftcore[tests]'"),
        (wrong_installs, "peftcore", "there is none: pip install peftcore-qlora"),
        (wrong_installs, "peftcore-train", "not installed: pip install peftcore-train[parquet]"),
        (wrong_fields, "peftcore-train", "lower train.lerning_rate, or train longer"),
        (wrong_fields, "peftcore-train", "Leave task.group_column out."),
        (wrong_values, "peftcore-train", "Cut it with task.truncation: yess, or leave it out."),
        (wrong_fields, "peftcore-pointcloud", "task.few_shot.ways: too many are asked for"),
        (wrong_bare_fields, "peftcore-sparse", "this loss never does. Write labels: golden."),
        (wrong_bare_fields, "peftcore-tsa", "Write steam: true."),
        (wrong_methods, "peftcore", "name one, such as {method: lora, ranks: 8}"),
        (wrong_functions, "peftcore", "take it as final with peftcore.merge_for_good"),
        (wrong_functions, "peftcore", "allow it (allow_other_bases of peftcore.load)"),
        (wrong_functions, "peftcore", "Give attach(..., tokeniser=...)"),
        (wrong_functions, "peftcore", "(adapter.check_live() raises)"),
        (wrong_hooks, "peftcore", "bring a handler with peftcore_register_layer."),
        (wrong_pages, "peftcore", "as in docs/how-to/your-own-loop.md"),
        (wrong_variables, "peftcore", "or point PEFTCORE_CASH elsewhere"),
    ],
)
def test_what_is_not_there_is_found(check: Check, project: str, said: str) -> None:
    assert list(check(Text(project, "x.py:1", said)))
