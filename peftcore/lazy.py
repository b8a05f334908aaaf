"""Names of a package that are declared once, in its stub, and imported when they are first used."""

import re
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

_LINE = re.compile(r"^from (\S+) import (\([^)]*\)|.*)$", re.MULTILINE)
_FUNCTION = re.compile(r"^def (\w+)\(", re.MULTILINE)


def from_stub(
    package: str, file: str, functions: str = ""
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package, for what its ``__init__.pyi`` imports.

    Args:
        package: ``__name__`` of the package.
        file: its ``__file__``.
        functions: reference ``module:name`` to what finds a function that the stub declares by
            ``def``, because a plugin brings it: a function of its name.
    """
    homes: dict[str, str] = {}
    brought: set[str] = set()

    def declared() -> dict[str, str]:
        if not homes:
            with open(f"{file}i", encoding="utf-8") as stub:  # noqa: PTH123  (pathlib is slow)
                text = stub.read()
            for module, names in _LINE.findall(text):
                homes.update(dict.fromkeys(re.findall(r"as (\w+)", names), module))
            brought.update(_FUNCTION.findall(text))
        return homes

    def get(name: str) -> Any:
        if name == "__all__":
            return public()
        module = None if name.startswith("_") else declared().get(name)
        if module is None and name in brought:
            place, _, finds = functions.partition(":")
            return getattr(import_module(place), finds)(name)
        if module is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(module), name)
        setattr(sys.modules[package], name, value)
        return value

    def public() -> list[str]:
        return sorted(name for name in declared() if not name.startswith("_"))

    def listed() -> list[str]:
        return sorted({*public(), *brought})

    return get, listed
