"""The arrow of imports, the size of files, and that nothing in the core is without a user."""

import ast
import inspect
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from statistics import median

import pytest

from peftcore import cli
from peftcore.errors import PeftcoreError
from peftcore.method.hookspecs import Adapting
from peftcore.registry.hookspecs import Discovery
from peftcore.registry.installed import CORE as RESERVED
from peftcore.testing import run_cli

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "peftcore").rglob("*.py"))
PLUGINS = sorted(p for p in (ROOT / "plugins").iterdir() if (p / "pyproject.toml").exists())
EXAMPLES = sorted(p.parent for p in ROOT.glob("examples/*/pyproject.toml"))
HEAVY = {"torch", "transformers", "timm", "numpy", "accelerate", "pydantic"}
#: The folders and files of the core from the lowest to the highest; imports run down only.
LEVELS = (
    "version", "lazy", "errors", "schema", "registry", "model", "method", "run", "store", "adapter",
    "cli", "testing", "__main__",
)  # fmt: skip
LIGHT = [
    *(ROOT / "peftcore" / name for name in (
        "__init__.py", "__main__.py", "version.py", "lazy.py", "errors.py", "testing/__init__.py",
        "testing/fake_plugins.py",
    )),
    *(ROOT / "peftcore" / "registry").glob("*.py"),
    *(ROOT / "peftcore" / "cli").glob("*.py"),
    *(p / p.name.replace("-", "_") / "__init__.py" for p in PLUGINS),
    *(init for p in EXAMPLES for init in p.glob("peftcore_*/__init__.py")),
]  # fmt: skip
#: Tokens that make no line of code.
EMPTY = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip
#: Plugins on which others may build.
FOUNDATIONS = {"peftcore_train", "peftcore_transformers"}


def imported(file: Path, *, at_import: bool = False) -> Iterator[str]:
    """Yield the modules that a file imports, anywhere or only while it is imported itself."""
    waiting: list[ast.AST] = [ast.parse(file.read_text("utf-8"))]
    while waiting:
        node = waiting.pop()
        if at_import:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                waiting += node.orelse
                continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
        waiting += ast.iter_child_nodes(node)


def named(file: Path) -> str:
    return str(file.relative_to(ROOT))


def sources(folder: Path) -> list[Path]:
    """Return the files of a plugin, its tests left out."""
    return sorted((folder / folder.name.replace("-", "_")).rglob("*.py"))


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_knows_no_plugin(file: Path) -> None:
    assert not [m for m in imported(file) if m.startswith("peftcore_")]
    strings = [
        n.value for n in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(n, ast.Constant) and isinstance(n.value, str)
    ]  # fmt: skip
    assert not [s for s in strings if re.match(r"peftcore_[a-z]+[.:]", s)], "named in a reference"


@pytest.mark.parametrize("folder", PLUGINS, ids=named)
def test_no_plugin_imports_another(folder: Path) -> None:
    own = folder.name.replace("-", "_")
    for file in sources(folder):
        roots = {m.split(".")[0] for m in imported(file)}
        others = {r for r in roots if r.startswith("peftcore_")} - FOUNDATIONS - {own}
        assert not others, f"{named(file)} imports {others}"


def level(module: str) -> int:
    """Return the level of a module of the core; the face, which is on top, has the last."""
    parts = module.split(".")
    return LEVELS.index(parts[1]) if len(parts) > 1 else len(LEVELS)


def module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows() -> dict[str, set[str]]:
    """Return what each module of the core imports of it, types included."""
    modules = {module_of(file) for file in CORE}
    found: dict[str, set[str]] = {}
    for file in CORE:
        aims = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                aims |= {a.name for a in node.names if a.name.split(".")[0] == "peftcore"}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("peftcore"):
                aims |= {
                    n if (n := f"{node.module}.{a.name}") in modules else str(node.module)
                    for a in node.names
                }
        found[module_of(file)] = aims
    return found


def test_imports_of_the_core_run_down_only() -> None:
    upward = [
        f"{module} imports {aim}"
        for module, aims in arrows().items()
        if module != "peftcore"
        for aim in aims
        # the kit is a user of the face, as plugins are
        if level(aim) > level(module)
        and not (aim == "peftcore" and level(module) == LEVELS.index("testing"))
    ]
    assert not upward


def test_no_modules_of_the_core_import_each_other_in_a_circle() -> None:
    from graphlib import TopologicalSorter

    aims = {module: {a for a in found if a != "peftcore"} for module, found in arrows().items()}
    del aims["peftcore"]
    assert list(TopologicalSorter(aims).static_order())


@pytest.mark.parametrize("folder", [*PLUGINS, *EXAMPLES], ids=named)
def test_a_plugin_imports_the_face_of_the_core_and_nothing_behind_it(folder: Path) -> None:
    face = {"peftcore", "peftcore.testing"}
    for file in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names, module = {a.name for a in node.names}, node.module or ""
            elif isinstance(node, ast.Import):
                names, module = set(), ""
                for alias in node.names:
                    inside = alias.name.startswith("peftcore.") and alias.name not in face
                    assert not inside, f"{named(file)}:{node.lineno} imports {alias.name}"
                continue
            else:
                continue
            if module.split(".")[0] != "peftcore":
                continue
            where = f"{named(file)}:{node.lineno}"
            assert module in face, f"{where} imports from {module}"
            hidden = names - set(__import__(module, fromlist=["__all__"]).__all__)
            assert not hidden, f"{where} imports {hidden}, no public names of {module}"


@pytest.mark.parametrize("file", LIGHT, ids=named)
def test_what_discovery_imports_is_light(file: Path) -> None:
    roots = {m.split(".")[0] for m in imported(file, at_import=True)}
    assert not roots & HEAVY


@pytest.mark.parametrize("folder", PLUGINS, ids=named)
def test_the_whole_chain_that_a_plugin_module_imports_is_light(folder: Path) -> None:
    own = folder.name.replace("-", "_")
    waiting, seen = [folder / own / "__init__.py"], set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for module in imported(file, at_import=True):
            assert module.split(".")[0] not in HEAVY, f"{named(file)} imports {module}"
            place = folder / Path(*module.split("."))
            chain = (place.with_suffix(".py"), place / "__init__.py")
            waiting += [f for f in chain if f.exists() and f not in seen]


def test_a_plan_or_a_check_of_a_recipe_imports_no_metrics() -> None:
    """torchmetrics takes seconds to import; only scoring needs it."""
    train = ROOT / "plugins" / "peftcore-train"
    entries = [train / "peftcore_train" / f"{name}.py" for name in ("planning", "reading")]
    tasks = [f for p in PLUGINS for f in sources(p) if "tasks" in (f.stem, f.parent.name)]
    waiting, seen = [*entries, *tasks], set()
    while waiting:
        file = waiting.pop()
        seen.add(file)
        for module in imported(file, at_import=True):
            assert module.split(".")[0] != "torchmetrics", named(file)
            place = ROOT / "plugins" / module.split(".")[0].replace("_", "-")
            aim = (place / Path(*module.split("."))).with_suffix(".py")
            waiting += [aim] if aim.exists() and aim not in seen else []
    assert len(seen) > len(entries) + len(tasks)


def test_no_file_is_long() -> None:
    files = [*CORE, *(f for p in PLUGINS for f in sources(p)), *(ROOT / "tools").glob("*.py")]
    lines = {named(f): len(f.read_text("utf-8").splitlines()) for f in files}
    assert not {name: n for name, n in lines.items() if n > 400}


def method_plugins() -> list[Path]:
    inits = {p: p / p.name.replace("-", "_") / "__init__.py" for p in PLUGINS}
    return [
        p for p, init in inits.items() if "peftcore_register_methods" in init.read_text("utf-8")
    ]


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        first = node.body[0] if isinstance(node, documented) and node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            yield first.value


def sentences(file: Path) -> Iterator[str]:
    """Yield what a file says to users, sentence by sentence; {} stands for what is filled in."""
    tree = ast.parse(file.read_text("utf-8"))
    left_out = {id(text) for text in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            left_out |= {id(part) for part in ast.walk(node)} - {id(node)}
    for node in ast.walk(tree):
        if id(node) in left_out:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "{}" for v in node.values)
            yield from re.split(r"(?<=[.:;]) ", "".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from re.split(r"(?<=[.:;]) ", node.value)


def test_no_two_method_plugins_say_the_same_sentence() -> None:
    whose: dict[str, set[str]] = {}
    for folder in method_plugins():
        for said in (s.strip(" .;:") for file in sources(folder) for s in sentences(file)):
            if len(said) > 30:
                whose.setdefault(said, set()).add(folder.name)
    assert len(whose) > 200
    assert not {said: names for said, names in whose.items() if len(names) > 1}


def lines_of_code(*files: Path) -> int:
    """Count lines; docstrings, comments and blank lines do not count."""
    count = 0
    for file in files:
        text = file.read_text("utf-8")
        lines: set[int] = set()
        for token in tokenize.generate_tokens(StringIO(text).readline):
            if token.type not in EMPTY:
                lines |= set(range(token.start[0], token.end[0] + 1))
        for doc in docstrings(ast.parse(text)):
            lines -= set(range(doc.lineno, (doc.end_lineno or 0) + 1))
        count += len(lines)
    return count


def test_method_plugins_are_small() -> None:
    sizes = {p.name: lines_of_code(*sources(p)) for p in method_plugins()}
    assert median(sizes.values()) < 140, sizes
    for name, most in (("lora", 60), ("lycoris", 30)):
        method = ROOT / "plugins" / f"peftcore-{name}" / f"peftcore_{name}" / "method.py"
        assert lines_of_code(method) < most


def test_the_core_needs_seven_packages() -> None:
    meta = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needs = {re.split(r"[^\w-]", requirement)[0] for requirement in meta["dependencies"]}
    assert needs == {"torch", "pluggy", "pydantic", "safetensors", "click", "PyYAML", "packaging"}


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_imports_only_what_it_declares(file: Path) -> None:
    declared = {
        "peftcore", "torch", "pluggy", "pydantic", "safetensors", "click", "yaml", "packaging",
    }  # fmt: skip
    # the kit is for those who have pytest
    declared |= {"pytest"} if "testing" in file.parts else set()
    roots = {m.split(".")[0] for m in imported(file)} - set(sys.stdlib_module_names)
    assert not roots - declared - {"__future__"}


def hooks() -> dict[str, object]:
    groups = (Discovery, Adapting)
    return {
        name: member for group in groups for name, member in vars(group).items()
        if name.startswith("peftcore_")
    }  # fmt: skip


def test_every_hook_has_a_contract() -> None:
    for name, hook in hooks().items():
        assert inspect.getdoc(hook), name


def test_every_hook_has_a_user_in_the_tree() -> None:
    used: set[str] = set()
    examples = [f for p in EXAMPLES for f in p.glob("peftcore_*/*.py")]
    for file in (*(f for p in PLUGINS for f in sources(p)), *examples):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(
                "hookimpl" in ast.unparse(d) for d in node.decorator_list
            ):
                used.add(node.name)
    assert set(hooks()) <= used, "a hook without a user"
    assert used <= set(hooks()), "an implementation of no hook"


def test_every_public_name_can_be_imported() -> None:
    import peftcore
    import peftcore.testing

    for module in (peftcore, peftcore.testing):
        assert [getattr(module, name) for name in module.__all__]
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            module.nothing  # noqa: B018


def test_every_error_has_a_documented_exit_code() -> None:
    waiting, codes = [PeftcoreError], set()
    while waiting:
        kind = waiting.pop()
        codes.add(kind.exit_code)
        # those of plugins may be imported already, depending on the order of the tests
        waiting += [k for k in kind.__subclasses__() if k.__module__ == "peftcore.errors"]
    assert codes == {1, 2, 3}


def test_the_names_of_commands_that_plugins_cannot_take_are_the_commands_of_the_core() -> None:
    assert RESERVED["commands"] == tuple(cli._COMMANDS)


def run_and_name_heavy_modules(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program in a fresh process; stderr is the list of heavy modules it imported."""
    heavy = HEAVY | {"packaging", "yaml", "rich"}
    code = f"""
import sys
from peftcore.cli import main
try:
    main({list(arguments)})
except SystemExit as done:
    assert done.code == 0, done.code
print(sorted({heavy} & set(sys.modules)), file=sys.stderr)
"""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )


def test_list_is_light_with_every_plugin_installed() -> None:
    done = run_and_name_heavy_modules("list", "--strict", "--json")
    assert done.stderr.strip() == "[]"
    listed = {p["distribution"] for p in json.loads(done.stdout)["plugins"]}
    assert {
        p.name for p in PLUGINS if f"{p.name}".replace("-", "_") != "peftcore_transformers"
    } <= listed


@pytest.mark.parametrize("arguments", ["-h", "--version", "show -h", "plan -h", "merge -h"])
def test_help_is_light(arguments: str) -> None:
    assert run_and_name_heavy_modules(*arguments.split()).stderr.strip() == "[]"


def test_the_module_runs_as_the_program() -> None:
    assert run_cli("--version").stdout == "peftcore 0.1.0\n"


def test_every_distribution_is_in_order() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "dists.py", "check"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert len((ROOT / "tools" / "dists.py").read_text("utf-8").splitlines()) < 150


def test_the_tests_of_the_example_are_not_those_of_the_repository() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["pytest"]
    assert settings["ini_options"]["testpaths"] == ["tests", "plugins"]
