"""The cache: an entry is a folder that is there as a whole or not at all."""

import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from peftcore import PeftcoreError

#: Names the files of a whole entry and their sizes; written last.
MARKER = ".complete.json"

#: No entry takes a day to make, so a temporary folder of that age was left by a killed process.
_STALE_SECONDS = 24 * 3600

#: Fills an empty folder; the second argument is a scratch folder on the same disk.
Build = Callable[[Path, Path], None]


def cache_dir() -> Path:
    """Return the folder of the cache; the environment decides, see the README."""
    if folder := os.environ.get("PEFTCORE_CACHE"):
        return Path(folder).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "peftcore"


def cached(entry: str, build: Build) -> Path:
    """Return the folder of a cache entry, made now if it is not there or damaged.

    Args:
        entry: its name, with the version of what it is made from.
        build: makes its content.

    Raises:
        PeftcoreError: the cache cannot be written.
    """
    folder = cache_dir() / "samples" / entry
    if is_whole(folder):
        return folder
    try:
        _make(folder, build)
    except OSError as error:
        raise PeftcoreError(
            f"{entry} cannot be written to the cache {folder.parent}: {error}."
            " Free some space there, or point PEFTCORE_CACHE to another folder."
        ) from error
    return folder


def is_whole(folder: Path) -> bool:
    """Tell whether an entry is complete: every file has the size that it was made with."""
    try:
        sizes = json.loads((folder / MARKER).read_text("utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def _make(folder: Path, build: Build) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder.parent)
    with TemporaryDirectory(prefix=".tmp-", dir=folder.parent) as temporary:
        new, scratch = Path(temporary, "new"), Path(temporary, "scratch")
        new.mkdir()
        scratch.mkdir()
        build(new, scratch)
        _mark(new)
        _install(new, folder, aside=Path(temporary, "damaged"))


def _mark(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / MARKER).write_text(json.dumps(sizes), encoding="utf-8")


def _install(new: Path, folder: Path, aside: Path) -> None:
    if not is_whole(folder):
        with suppress(FileNotFoundError):
            folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        # Another process was faster; what it made is as good as ours.
        if not is_whole(folder):
            raise


def _sweep(parent: Path) -> None:
    for left in parent.glob(".tmp-*"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
