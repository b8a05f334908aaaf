"""Which installed distributions bring plugins, read from their metadata without importing them."""

import importlib.metadata
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from typing import NamedTuple

_GROUP = re.compile(r"peftcore\.v\d+")


class Distribution(NamedTuple):
    """What discovery must know of a distribution.

    Attributes:
        name: its name.
        version: its version.
        needs: what it says of peftcore in each ``Requires-Dist``, such as ``>=0.1,<0.2``.
        points: its entry points of any version of the hooks.
        problem: why the rest could not be read.
    """

    name: str
    version: str
    needs: tuple[str, ...] = ()
    points: tuple[EntryPoint, ...] = ()
    problem: str = ""


def distributions() -> list[Distribution]:
    """Return the distributions that bring plugins, by name; the first of a name on the path counts.

    The distributions are read one at a time, because one whose metadata is damaged makes
    ``importlib.metadata.entry_points`` fail for all.
    """
    found: dict[str, Distribution] = {}
    for dist, text in _with_entry_points():
        if "peftcore.v" not in text:
            continue
        one = _read(dist)
        if one.points or one.problem:
            found.setdefault(re.sub(r"[-_.]+", "-", one.name).lower(), one)
    return [found[name] for name in sorted(found)]


def _with_entry_points() -> Iterator[tuple[importlib.metadata.Distribution, str]]:
    for dist in importlib.metadata.distributions():
        try:
            text = dist.read_text("entry_points.txt")
        except ValueError:  # not UTF-8: nothing that says it is ours
            continue
        if text:
            yield dist, text


def _read(dist: importlib.metadata.Distribution) -> Distribution:
    try:
        text = dist.read_text("METADATA") or dist.read_text("PKG-INFO") or ""
    except ValueError as error:
        return Distribution("unknown", "unknown", problem=f"its METADATA cannot be read: {error}")
    # by lines: parsing it as a message costs more than all the rest of discovery
    head = text.partition("\n\n")[0]
    name, version = _field("Name", head), _field("Version", head)
    needs = re.findall(
        r"^Requires-Dist:\s*peftcore(?![\w.-])[ \t]*(.*)$", head, re.MULTILINE | re.IGNORECASE
    )
    try:
        points = tuple(p for p in dist.entry_points if _GROUP.fullmatch(p.group))
    except Exception as error:
        return Distribution(name, version, problem=f"its entry_points.txt cannot be read: {error}")
    return Distribution(name, version, tuple(n.strip() for n in needs), points)


def _field(name: str, head: str) -> str:
    match = re.search(rf"^{name}:\s*(.+)$", head, re.MULTILINE | re.IGNORECASE)
    return match[1].strip() if match else "unknown"


def unmet(one: Distribution, version: str) -> str:
    """Return why a distribution does not go with this version of the core, or an empty string."""
    for needs in one.needs:
        try:
            if not _contains(needs, version):
                return f"needs peftcore{needs}, installed is {version}"
        except ValueError:
            return f"its requirement peftcore{needs} is not readable"
    return ""


def _contains(specifier: str, version: str) -> bool:
    """Tell whether a version satisfies a requirement's specifier.

    The usual ``>=0.1,<0.2`` is decided without importing packaging, which would take a third of
    the time of ``peftcore list``.
    """
    if not specifier:
        return True
    number = r"(\d+(?:\.\d+)*)"
    bounds = re.fullmatch(f">={number},<{number}|<{number},>={number}", specifier)
    if bounds and re.fullmatch(number, version):
        low, high, have = (
            tuple(map(int, text.split(".")))
            for text in (bounds[1] or bounds[4], bounds[2] or bounds[3], version)
        )
        return low <= have < high
    from packaging.requirements import Requirement

    requirement = Requirement(f"peftcore{specifier}")
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
        return True
    return requirement.specifier.contains(version, prereleases=True)
