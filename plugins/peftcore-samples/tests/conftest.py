"""A cache of its own for every test, and a package index in a folder."""

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import peftcore
from peftcore_samples import fetch as module
from peftcore_samples.fetch import Package

Python = Callable[..., "subprocess.CompletedProcess[str]"]

FILE = "peftcore_toy/weights.bin"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PEFTCORE_CACHE", str(folder))
    return folder


@pytest.fixture
def content() -> bytes:
    return bytes(range(256)) * 1200


@pytest.fixture
def wheel(tmp_path: Path, content: bytes) -> Path:
    """A real wheel of one 300 kB file, alone in a folder."""
    path = tmp_path / "index" / "peftcore_toy-1.0-py3-none-any.whl"
    path.parent.mkdir()
    info = "peftcore_toy-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(FILE, content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: peftcore-toy\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def package(wheel: Path, content: bytes) -> Package:
    return Package(
        name="peftcore-toy",
        version="1.0",
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        size="0.3 MB",
        licence="CC0-1.0",
        files={FILE: hashlib.sha256(content).hexdigest()},
    )


@pytest.fixture
def index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let pip know no other index than the folder of the wheel."""
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel.parent


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def python_path(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let a new Python import the core and this plugin, installed or not."""
    roots = [Path(peftcore.__file__).parents[1], Path(module.__file__).parents[1]]
    path = os.pathsep.join(map(str, roots))
    monkeypatch.setenv("PYTHONPATH", path)
    return path


@pytest.fixture
def python(python_path: str) -> Python:
    """Run source in a new Python; RLIMIT_FSIZE stands in for a full disk."""

    def run(source: str, *options: str, largest_file: int = 0, **environment: str):
        limit = (
            f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file},) * 2)\n"
            if largest_file
            else ""
        )
        return subprocess.run(
            [sys.executable, *options, "-c", limit + source],
            capture_output=True,
            text=True,
            env=os.environ | environment,
        )

    return run
