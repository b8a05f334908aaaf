"""Installing a plugin without pip, and running the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from click.testing import Result


def make_plugin(
    folder: Path,
    name: str,
    source: str,
    *,
    version: str = "0.1.0",
    requires: tuple[str, ...] = ("peftcore>=0.1,<0.2",),
    group: str = "peftcore.v1",
) -> Path:
    """Write a plugin module with its distribution record, so that discovery finds it on a path.

    Args:
        folder: where; put it on ``PYTHONPATH``.
        name: name of the entry point; the module is ``peftcore_NAME``.
        source: source of the module.
        version: version of the distribution.
        requires: its requirements.
        group: its entry-point group.

    Returns:
        The folder.
    """
    module = f"peftcore_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    needs = "".join(f"Requires-Dist: {r}\n" for r in requires)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: peftcore-{name}\nVersion: {version}\n{needs}"
    )
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}\n")
    (info / "RECORD").write_text("")
    return folder


def run_in_process(*arguments: str | Path, **options: Any) -> Result:
    """Run ``peftcore`` in this process and return what it printed and its exit code.

    Args:
        arguments: as on the command line.
        options: of :meth:`click.testing.CliRunner.invoke`, such as ``input``.
    """
    from click.testing import CliRunner

    from peftcore.cli import main

    return CliRunner().invoke(main, [*map(str, arguments)], **options)


def run_cli(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``peftcore`` in a fresh process and return what it printed and its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "peftcore", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **(env or {})},
    )
