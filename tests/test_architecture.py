"""The arrow of imports, the size of files, and that nothing in the core is without a user."""

import ast
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftcore import cli, hookspecs, plugins
from peftcore.errors import PeftcoreError
from peftcore.testing import run_cli

ROOT = Path(__file__).resolve().parent.parent
CORE = sorted((ROOT / "peftcore").rglob("*.py"))
PLUGINS = sorted(p for p in (ROOT / "plugins").iterdir() if (p / "pyproject.toml").exists())
HEAVY = {"torch", "transformers", "timm", "numpy", "accelerate", "pydantic"}
LIGHT = [
    *(ROOT / "peftcore" / name for name in (
        "__init__.py", "__main__.py", "_installed.py", "errors.py", "hookspecs.py", "plugins.py",
        "specs.py", "testing/__init__.py", "testing/fake_plugins.py",
    )),
    *(ROOT / "peftcore" / "cli").glob("*.py"),
    *(p / p.name.replace("-", "_") / "__init__.py" for p in PLUGINS),
]  # fmt: skip
#: Plugins on which others may build.
FOUNDATIONS = {"peftcore_train"}


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


@pytest.mark.parametrize("folder", PLUGINS, ids=named)
def test_a_plugin_uses_no_private_name_of_the_core(folder: Path) -> None:
    for file in sources(folder):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "peftcore":
                parts = [*(node.module or "").split("."), *(a.name for a in node.names)]
                private = [p for p in parts if p.startswith("_")]
                assert not private, f"{named(file)}:{node.lineno} imports {private[0]}"


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


def test_no_file_is_long() -> None:
    files = [*CORE, *(f for p in PLUGINS for f in sources(p)), *(ROOT / "tools").glob("*.py")]
    lines = {named(f): len(f.read_text("utf-8").splitlines()) for f in files}
    assert not {name: n for name, n in lines.items() if n > 400}


def test_the_core_needs_seven_packages() -> None:
    meta = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needs = {re.split(r"[^\w-]", requirement)[0] for requirement in meta["dependencies"]}
    assert needs == {"torch", "pluggy", "pydantic", "safetensors", "click", "PyYAML", "packaging"}


@pytest.mark.parametrize("file", CORE, ids=named)
def test_the_core_imports_only_what_it_declares(file: Path) -> None:
    declared = {
        "peftcore", "torch", "pluggy", "pydantic", "safetensors", "click", "yaml", "packaging",
    }  # fmt: skip
    # the kit is for those who have pytest; transformers is there where its models are
    declared |= {"pytest"} if "testing" in file.parts else set()
    declared |= (
        {"transformers"} if file.name in ("transformers_backbone.py", "_pretrained.py") else set()
    )
    roots = {m.split(".")[0] for m in imported(file)} - set(sys.stdlib_module_names)
    assert not roots - declared - {"__future__"}


def hooks() -> dict[str, object]:
    groups = (hookspecs.Discovery, hookspecs.Adapting)
    return {
        name: member for group in groups for name, member in vars(group).items()
        if name.startswith("peftcore_")
    }  # fmt: skip


def test_every_hook_has_a_contract() -> None:
    for name, hook in hooks().items():
        assert inspect.getdoc(hook), name


def test_every_hook_has_a_user_in_the_tree() -> None:
    used: set[str] = set()
    for file in (f for p in PLUGINS for f in sources(p)):
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
    assert plugins.CORE["commands"] == tuple(cli._COMMANDS)


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
    assert {p.name for p in PLUGINS} <= listed


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
