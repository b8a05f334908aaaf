"""The profile of data as a page of HTML that needs nothing besides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from peftcore import DataError
from peftcore_train.profile.findings import KINDS, SHOWN, Finding
from peftcore_train.profile.printing import by_label, shared
from peftcore_train.profile.profile import Profile


def write_page(path: Path, title: str, profiles: Mapping[str, Profile]) -> None:
    """Write the profiles of the arms of a recipe; arms with the same data share one.

    Raises:
        DataError: the disk refuses.
    """
    environment = Environment(
        loader=PackageLoader("peftcore_train.profile", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = [_part(arms, profile) for arms, profile in shared(profiles)]
    text = environment.get_template("profile.html").render(title=title, parts=parts)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from error


def _part(arms: str, profile: Profile) -> dict[str, Any]:
    return {
        "arms": arms,
        "profile": profile,
        "labels": by_label(profile) if profile.labels else [],
        "groups": [*_groups(profile.errors, "error"), *_groups(profile.warnings, "warning")],
    }


def _groups(findings: list[Finding], level: str) -> list[dict[str, Any]]:
    """Return findings by kind, of each as many as are shown."""
    out = []
    for name, kind in KINDS.items():
        ours = [found for found in findings if found.kind == name]
        if ours:
            shown = {"shown": ours[:SHOWN], "more": max(0, len(ours) - SHOWN)}
            out.append({"level": level, "title": kind.title, "count": len(ours), **shown})
    return out
