"""The distributions of this repository: ``python tools/dists.py list | check | build [FOLDER]``.

Standard library only. ``check`` says what is wrong with each and exits with 1 if anything is.
"""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GROUP = "peftcore.v1"
#: What a plugin's pyproject.toml may hold besides what the checks below demand.
TABLES = {"build-system", "project", "tool"}
TOOLS = {"hatch"}
#: Plugins on which others build.
FOUNDATIONS = {"peftcore-train", "peftcore-transformers"}
#: Of these, what brings classes only and has nothing to register.
SILENT = {"peftcore-transformers"}


def project(folder: Path) -> dict[str, Any]:
    """Return what pyproject.toml of a folder says."""
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


def plugins(root: Path = ROOT) -> list[Path]:
    """Return the folders of the plugins."""
    return sorted(p for p in (root / "plugins").iterdir() if (p / "pyproject.toml").exists())


def core_range(root: Path = ROOT) -> str:
    """Return the requirement by which a plugin shall name the core of this repository."""
    major, minor = project(root)["project"]["version"].split(".")[:2]
    upper = f"0.{int(minor) + 1}" if major == "0" else str(int(major) + 1)
    return f"peftcore>={major}.{minor},<{upper}"


def problems(folder: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield what is wrong with one plugin."""
    found = project(folder)
    meta = found["project"]
    name = folder.name
    module = name.replace("-", "_")
    if not re.fullmatch(r"peftcore-[a-z0-9]+(-[a-z0-9]+)*", name):
        yield "the folder is not named peftcore-NAME"
    if meta["name"] != name:
        yield f"the project is named {meta['name']}, the folder {name}"
    points = meta.get("entry-points", {})
    expected = {} if name in SILENT else {GROUP: {name.removeprefix("peftcore-"): module}}
    if points != expected:
        yield f"its entry points are {points}, not {expected}"
    if [r for r in meta["dependencies"] if re.match(r"peftcore(?![\w-])", r)] != [core_range(root)]:
        yield f"its dependencies do not name {core_range(root)}"
    siblings = {re.split(r"[^\w-]", r)[0] for r in meta["dependencies"] if "peftcore-" in r}
    if siblings - FOUNDATIONS:
        yield f"it depends on other plugins: {', '.join(sorted(siblings))}"
    yield from _fields(meta)
    if found.keys() - TABLES or found.get("tool", {}).keys() - TOOLS:
        yield "it has [tool.*] tables; settings of tools belong to the pyproject.toml of the root"
    yield from _files(folder, module)
    if f"-e plugins/{name}" not in (root / "requirements/dev.txt").read_text().splitlines():
        yield "requirements/dev.txt does not list it"


def _fields(meta: dict[str, Any]) -> Iterator[str]:
    core = project(ROOT)["project"]
    for key in ("requires-python", "license"):
        if meta.get(key) != core[key]:
            yield f"{key} is {meta.get(key)!r}, the core's is {core[key]!r}"
    if not re.fullmatch(r"\d+\.\d+\.\d+", meta["version"]):
        yield f"version {meta['version']} is not a plain release number"
    if not meta.get("description", "").endswith("."):
        yield "its description is not a sentence"


def _files(folder: Path, module: str) -> Iterator[str]:
    readme = folder / "README.md"
    if not readme.exists() or not readme.read_text("utf-8").strip():
        yield "README.md is missing or empty"
    for wanted in (f"{module}/__init__.py", f"{module}/py.typed"):
        if not (folder / wanted).exists():
            yield f"{wanted} is missing"
    if not list(folder.glob("tests/test_*.py")):
        yield "it has no tests"
    if (folder / "tests/__init__.py").exists():
        yield "tests/__init__.py: tests are no package"
    others = {p.parent.name for p in folder.glob("*/__init__.py")} - {module}
    if others:
        yield f"it holds other packages: {', '.join(sorted(others))}"


def check(root: Path = ROOT) -> list[str]:
    """Return everything that is wrong, one line each."""
    found = [f"{p.name}: {problem}" for p in plugins(root) for problem in problems(p, root)]
    listed = re.findall(
        r"^-e plugins/(\S+)$", (root / "requirements/dev.txt").read_text(), re.MULTILINE
    )
    names = {p.name for p in plugins(root)}
    found += [f"requirements/dev.txt: {n} does not exist" for n in listed if n not in names]
    found += [
        f"requirements/dev.txt: {n} is listed twice" for n in {*listed} if listed.count(n) > 1
    ]
    return found


def build(into: Path, root: Path = ROOT) -> None:
    """Build a wheel of the core and of every plugin; needs hatchling."""
    folders = [root, *plugins(root)]
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([sys.executable, *command, "-w", into, *folders], check=True)


def main(arguments: list[str]) -> int:
    """Run one of the commands."""
    match arguments:
        case ["list"]:
            for folder in [ROOT, *plugins()]:
                meta = project(folder)["project"]
                print(f"{meta['name']:<28}{meta['version']:<9}{meta['description']}")
        case ["check"]:
            found = check()
            print("\n".join(found) or f"{len(plugins())} plugins, all in order")
            return int(bool(found))
        case ["build", *into] if len(into) <= 1:
            build(Path(*into) if into else ROOT / "dist")
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
