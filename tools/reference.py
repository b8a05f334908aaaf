"""Write the parts of the documentation that come from the code and the examples.

In docs/reference a part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``; what is
around it is written by hand. In docs/tutorial a block with a file name is a file of examples/.
``python tools/reference.py`` rewrites all but the matrix, ``--matrix`` runs every method on every
backbone and rewrites that one too. tests/test_docs.py says where a page is stale. Only the plugins
of this repository are described.
"""

import argparse
import importlib
import importlib.util
import inspect
import json
import re
import sys
import tempfile
import tomllib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import as_markdown as md

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "peftcore" / "registry" / "index.json"
EXAMPLES = (ROOT / "examples" / "third_party_plugin", ROOT / "examples")
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def plugins() -> list[str]:
    """Return the distributions of this repository that bring plugins."""
    files = sorted(ROOT.glob("plugins/*/pyproject.toml"))
    projects = [tomllib.loads(file.read_text())["project"] for file in files]
    return [project["name"] for project in projects if "entry-points" in project]


def specs(kind: str) -> list[Any]:
    """Return the specs of a kind that plugins of this repository bring, by name.

    Raises:
        SystemExit: one of them is not installed or cannot be used.
    """
    from peftcore.registry.installed import installed

    usable = {r.distribution for r in installed().records if r.status == "ok"}
    if missing := set(plugins()) - usable:
        sys.exit(f"install these plugins first: {', '.join(sorted(missing))}")
    found = getattr(installed(), kind)
    return [found[n] for n in sorted(found) if owner(kind, n) in plugins()]


def owner(kind: str, name: str) -> str:
    """Return the distribution that brings a name."""
    from peftcore.registry.installed import installed

    return installed().owner(kind, name).distribution


def hooks() -> str:
    """Return every hook with its arguments and its contract."""
    from peftcore.method.hookspecs import Adapting
    from peftcore.registry.hookspecs import Discovery

    out = []
    for group in (Discovery, Adapting):
        out.append(f"## {group.__name__}\n\n{md.docstring(group)}")
        for name, hook in vars(group).items():
            if name.startswith("peftcore_"):
                shown = f"```text\n{md.signature(hook)}\n```"
                out.append(f"### {name}\n\n{shown}\n\n{md.docstring(hook)}")
    return "\n\n".join(out)


def roles() -> str:
    """Return the vocabulary of roles."""
    from peftcore.model.roles import ROLES

    return md.table(("role", "names"), [(f"`{name}`", what) for name, what in ROLES.items()])


def errors() -> str:
    """Return every error of the core and of the plugins with its parent and its exit code."""
    from peftcore.errors import PeftcoreError

    for file in ROOT.glob("plugins/*/peftcore_*/errors.py"):
        importlib.import_module(f"{file.parent.name}.errors")
    rows = []
    pending: list[type[PeftcoreError]] = [PeftcoreError]
    while pending:
        error = pending.pop(0)
        parent = "" if error is PeftcoreError else f"`{error.__bases__[0].__name__}`"
        home = f"`{error.__module__}.{error.__name__}`"
        rows.append((home, parent, error.exit_code, md.first_paragraph(error)))
        pending += error.__subclasses__()
    return md.table(("error", "is a", "exit code", "means"), sorted(rows))


def python() -> str:
    """Return the public names of ``peftcore``."""
    import peftcore

    return "\n\n".join(_public(name, getattr(peftcore, name)) for name in sorted(peftcore.__all__))


def testing() -> str:
    """Return the public names of ``peftcore.testing``."""
    from peftcore import testing as kit

    return "\n\n".join(_public(name, getattr(kit, name)) for name in kit.__all__)


def _public(name: str, thing: Any) -> str:
    if inspect.isclass(thing):
        listed = "\n".join([*md.field_docs(thing), *md.members(thing)])
        return f"## {name}\n\n{md.docstring(thing)}\n\n{listed}".rstrip()
    if inspect.isfunction(thing):
        call = inspect.unwrap(thing)
        return f"## {name}\n\n```text\n{md.signature(call)}\n```\n\n{md.docstring(call)}"
    return f"## {name}\n\n{_OTHERS.get(name, _TYPE)}"


#: What is said of other names, types of fields mostly.
_TYPE = "Type of a field; see the class that uses it."
#: Public names that are neither class nor function.
_OTHERS = {
    "PerRole": "`PerRole[T]`, type of a field that takes one value or a mapping of role glob to"
    " value with `default` for the rest. Read it with `site.setting(config.rank)`.",
    "HEADS": "Number of heads of the toy's attention.",
    "Rank": "Type of a field that is a rank: a `PerRole[int]` from 1 to what the weight can have.",
    "SAVED": 'Label of what `modules_to_save` trains, `"modules_to_save"`.',
    "hookimpl": "Marks a function or method as an implementation of a hook.",
}


def targets() -> str:
    """Return the fields of targets."""
    from peftcore import Targets

    return md.fields(Targets)


def methods() -> str:
    """Return every method with its configuration."""
    from peftcore import installed, resolve

    out = []
    for spec in specs("methods"):
        starts = "starts as the base" if spec.identity_at_start else "does not start as the base"
        needs = " and ".join(installed().features[key].summary for key in spec.needs)
        needed = f" Needs {needs}." if needs else ""
        out.append(
            f"## {spec.name}\n\n{spec.summary}\n\nFrom `{owner('methods', spec.name)}`; {starts}."
            f"{needed} Paper: {spec.paper}.\n\n{md.fields(resolve(spec.config))}"
        )
    return "\n\n".join(out)


def recipe() -> str:
    """Return the fields of every section of a recipe."""
    from peftcore import resolve
    from peftcore_train.arms import Arm
    from peftcore_train.recipes import BackboneSection
    from peftcore_train.schema import DataSection, TrainRecipe, TrainSection

    parts: list[tuple[str, Any]] = [
        ("The whole", TrainRecipe),
        ("backbone", BackboneSection),
        ("An arm of compare", Arm),
    ]
    parts += [("data", DataSection), ("train", TrainSection)]
    parts += [(f"task: type {spec.name}", resolve(spec.config)) for spec in specs("tasks")]
    return "\n\n".join(f"## {title}\n\n{md.fields(model)}" for title, model in parts)


def commands() -> str:
    """Return every command with its arguments and options."""
    import click

    from peftcore.cli import _COMMANDS, main

    out = []
    for name in sorted({*_COMMANDS, *(spec.name for spec in specs("commands"))}):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        context = click.Context(command)
        given = [p.make_metavar(context) for p in command.params if isinstance(p, click.Argument)]
        options = [md.option(p, context) for p in command.params if isinstance(p, click.Option)]
        usage = " ".join(["peftcore", name, *given])
        listed = md.table(("option", "value", "what"), options) if options else ""
        about = inspect.cleandoc(command.help or "")
        out.append(f"## {name}\n\n```text\n{usage}\n```\n\n{about}\n\n{listed}".rstrip())
    return "\n\n".join(out)


def backbones() -> str:
    """Return every family with its roles and its named sizes."""
    from peftcore.model.backbones import backbone_named, build_on_meta
    from peftcore.model.survey import survey

    out = []
    for spec in specs("backbones"):
        knows = backbone_named(spec.name)
        heads = ("none", *knows.heads)
        found = {r for head in heads for r in survey(knows.tiny(head=head), knows).roles()}
        sizes = []
        for name in spec.configs:
            model = build_on_meta(name, head=knows.default_head)
            sizes.append((f"`{name}`", f"{sum(p.numel() for p in model.parameters()):,}"))
        about = f"From `{owner('backbones', spec.name)}`. Heads: {_listed(heads)}."
        about += f"\n\nRoles: {_listed(sorted(found))}."
        shown = md.table(("named size", f"parameters, head {knows.default_head}"), sizes)
        out.append(f"## {spec.name}\n\n{spec.summary}\n\n{about}\n\n{shown}")
    return "\n\n".join(out)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def checkpoint() -> str:
    """Return the description that an adapter of the toy is stored with."""
    import torch

    import peftcore
    from peftcore.testing import Toy

    torch.manual_seed(0)
    adapter = peftcore.attach(Toy(), "lora", rank=2, targets=["mlp.up"], modules_to_save=["head"])
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(folder)
        found = json.loads((Path(folder) / "adapter.json").read_text())
    # the adapter's values are random numbers, which may differ from one torch to the next
    found["digests"] = dict.fromkeys(found["digests"], "...")
    found["backbone"]["fingerprint"].update(values="...", sums={"embeddings.weight": ["..."]})
    found["digest"] = "..."
    return f"```json\n{json.dumps(found, indent=1)}\n```"


def contracts() -> dict[str, Any]:
    """Return, by method, the first contract class that tests it: it says what fits small models."""
    from peftcore.testing import MethodContract

    found: dict[str, Any] = {}
    for file in sorted(ROOT.glob("plugins/*/tests/test_*.py")):
        if "MethodContract" not in file.read_text("utf-8"):
            continue
        name = f"{file.parts[-3]}-{file.stem}".replace("-", "_")
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for cls in vars(module).values():
            if inspect.isclass(cls) and issubclass(cls, MethodContract) and hasattr(cls, "method"):
                found.setdefault(cls.method, cls)
    return found


def matrix(run: bool = False) -> str:
    """Return every method on every backbone; with ``run``, after having tried each pair."""
    from peftcore.testing import check_pair, pairs, reason_against, refusal

    known = contracts()
    columns = [spec.name for spec in specs("backbones")]
    rows = {spec.name: dict.fromkeys(columns, "") for spec in specs("methods")}
    notes, failed = [], []
    for method, backbone in pairs():
        if method not in rows or backbone not in columns:
            continue
        config = known[method]().choice(backbone)
        del config["method"]
        refused = reason_against(method, backbone)
        if backbone in known[method].refused_on:
            refused = refusal(method, backbone, config)
        if refused:
            notes.append(f"- {method} on {backbone}: {refused}")
        elif run:
            try:
                check_pair(method, backbone, config)
            except Exception as error:
                failed.append(f"{method} on {backbone}: {type(error).__name__}: {error}")
        rows[method][backbone] = "no" if refused else "yes"
    if failed:
        sys.exit("\n".join(["these pairs fail, so the matrix is not written:", *failed]))
    shown = md.table(("", *columns), [(name, *row.values()) for name, row in rows.items()])
    return f"{shown}\n\n" + ("\n".join(notes) or "No pair is refused.")


def features() -> str:
    """Return what methods may need of a model, and how it is known."""
    from peftcore import installed

    rows = [
        (f"`{s.name}`", s.summary, "found in the model" if s.found else "declared by the backbone")
        for s in installed().features.values()
    ]
    return md.table(("feature", "is", "known because it is"), rows)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        backbones, checkpoint, commands, errors, features, hooks, matrix, methods, python, recipe,
        roles, targets, testing,
    )
}  # fmt: skip


def written(text: str, leave: Sequence[str] = ()) -> str:
    """Return a page with its generated parts as the code has them."""

    def part(match: re.Match[str]) -> str:
        if match[2] in leave:
            return match[0]
        return f"{match[1]}\n{PARTS[match[2]]().strip()}\n\n{match[3]}"

    return PART.sub(part, text)


def write_index() -> None:
    """Write which distribution of this repository brings which name, for those who lack it."""
    from peftcore import installed

    ours = {p.parent.name for p in ROOT.glob("plugins/*/pyproject.toml")}
    kinds = json.loads(INDEX.read_text("utf-8"))
    found = {
        kind: {
            name: home
            for name in sorted(getattr(installed(), kind))
            if (home := installed().owner(kind, name).distribution) in ours
        }
        for kind in kinds
    }
    if found != kinds:
        INDEX.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"{INDEX.relative_to(ROOT)} written")


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/reference.")
    parser.add_argument("--matrix", action="store_true", help="run the matrix and write it too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    write_index()
    if options.matrix:
        PARTS["matrix"] = lambda: matrix(run=True)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        before = page.read_text("utf-8")
        after = written(before, () if options.matrix else ("matrix",))
        if page.parent.name == "tutorial":
            after = md.with_files(after, EXAMPLES)
        if after != before:
            page.write_text(after, "utf-8")
            print(f"{page.relative_to(ROOT)} written")


if __name__ == "__main__":
    main()
