"""Which names of the core a plugin imports that are not public."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from peftcore.errors import nearest
from peftcore.registry.choices import DISABLE
from peftcore.registry.installed import installed
from peftcore.registry.records import HERE

_FACES = ("peftcore", "peftcore.testing")
#: What the light module of a plugin must not import, since every command would.
_HEAVY = ("torch", "transformers", "timm", "numpy", "pydantic")


def heavy_imports(distribution: str) -> str:
    """Return what discovery imports of a distribution that it should not, or why it fails.

    Other plugins are switched off for it, so that none is blamed for another.
    """
    others = {r.distribution for r in installed().records} - {distribution, "peftcore", HERE}
    code = (
        "import sys; from peftcore import installed\n"
        f"record = next(r for r in installed().records if r.distribution == {distribution!r})\n"
        "assert not record.trace, record.trace\n"
        f"print(*sorted(set({_HEAVY}) & set(sys.modules)), sep=', ')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, DISABLE: ",".join(sorted(others))},
    )  # fmt: skip
    return done.stdout.strip() or done.stderr.strip()


def package_of(reference: str) -> str:
    """Return the outermost package of a reference ``package.module:Name``."""
    return reference.partition(":")[0].partition(".")[0]


def hidden_names(package: str) -> list[str]:
    """Return one sentence for each import of a package from behind the face of the core.

    Args:
        package: name of a module or package; that of the core itself has nothing to hide.
    """
    if package == "peftcore":
        return []
    return [sentence for file in _files(package) for sentence in _in(file)]


def _files(package: str) -> list[Path]:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        return []
    folders = [Path(p) for p in spec.submodule_search_locations or ()]
    inside = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return inside or [Path(spec.origin)]


def _in(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        where = f"{file}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for name in (alias.name for alias in node.names):
                if name.startswith("peftcore.") and name not in _FACES:
                    yield f"{where} imports {name}, which is not public. {_FROM}"
        elif isinstance(node, ast.ImportFrom) and not node.level and _of_core(node.module):
            names = [alias.name for alias in node.names]
            if node.module not in _FACES:
                yield f"{where} imports {', '.join(names)} from {node.module}. {_FROM}"
                continue
            public = importlib.import_module(str(node.module)).__all__
            for name in set(names) - set(public):
                yield (
                    f"{where} imports {name}, which is no public name of {node.module}."
                    f"{nearest(name, public)}"
                )


_FROM = "Import from peftcore, or in tests from peftcore.testing, what these declare public."


def _of_core(module: str | None) -> bool:
    return module is not None and module.partition(".")[0] == "peftcore"
