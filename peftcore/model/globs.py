"""Globs over dotted paths and roles."""

import re
from collections.abc import Iterable
from functools import lru_cache


@lru_cache(maxsize=4096)
def path_pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Compile globs over module paths: ``*`` is one path part, ``**`` any number of parts."""
    return re.compile("|".join(f"(?:{translated(glob)})" for glob in globs) or r"(?!)")


def translated(glob: str) -> str:
    """Return the regular expression of a glob over module paths."""
    out = ""
    for part in re.split(r"(\*\*\.|\*\*|\*|\{[^}]*\})", glob):
        if part == "**.":
            out += r"(?:[^.]+\.)*"
        elif part == "**":
            out += r".*"
        elif part == "*":
            out += r"[^.]*"
        elif part.startswith("{"):
            out += "(?:" + "|".join(re.escape(p) for p in part[1:-1].split(",")) + ")"
        else:
            out += re.escape(part)
    return out


def path_matches(path: str, globs: Iterable[str]) -> bool:
    """Tell whether a whole dotted path matches one of the globs."""
    return path_pattern(tuple(globs)).fullmatch(path) is not None


@lru_cache(maxsize=65536)
def role_matches(role: str, glob: str) -> bool:
    """Tell whether a role matches a glob; ``attention.*`` matches ``attention.query``."""
    parts = re.split(r"(\*|\{[^}]*\})", glob)
    pattern = "".join(".*" if part == "*" else translated(part) for part in parts)
    return re.fullmatch(pattern, role) is not None
