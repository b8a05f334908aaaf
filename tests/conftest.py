"""What the tests of discovery and of the command line share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import peftcore
from peftcore.testing import make_plugin, register_kit, run_cli


class Strangers:
    """A folder of plugins that were installed without pip, seen by fresh processes only."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.env = {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
        }

    def add(self, name: str, source: str, **options: Any) -> None:
        """Install a plugin."""
        make_plugin(self.folder, name, source, **options)

    def run(
        self, *arguments: str | Path, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line with the plugins of the folder installed."""
        return run_cli(*arguments, env={**self.env, **(env or {})}, cwd=self.folder)

    def alone(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """The same, with every other plugin switched off."""
        ours = ",".join(
            sorted(
                r.distribution for r in peftcore.installed().records if r.distribution != "peftcore"
            )
        )
        return self.run(*arguments, env={"PEFTCORE_DISABLE_PLUGINS": ours})

    def listed(self, **env: str) -> dict[str, Any]:
        """Return what ``peftcore list --json`` writes, with the plugins by distribution."""
        done = self.run("list", "--json", env=env)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        return {**found, "plugins": {p["distribution"]: p for p in found["plugins"]}}

    def status(self, name: str, **env: str) -> tuple[str, str]:
        """Return the status of a plugin and the sentence that explains it."""
        record = self.listed(**env)["plugins"][f"peftcore-{name}"]
        return record["status"], record["problem"]


@pytest.fixture(scope="session", autouse=True)
def _with_the_kit() -> None:
    """Have the kit's toys and probe in every test, whichever runs first."""
    register_kit()


@pytest.fixture
def strangers(tmp_path: Path) -> Strangers:
    """Return an empty folder for plugins."""
    folder = tmp_path / "site"
    folder.mkdir()
    return Strangers(folder)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return an empty module, ``faulty``, to which references of specs can lead."""
    made = SimpleNamespace()
    monkeypatch.setitem(sys.modules, "faulty", made)  # type: ignore[arg-type]
    return made
