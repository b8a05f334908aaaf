"""Writing files so that a kill at any moment leaves the old ones or the new ones, whole."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from peftcore.errors import CheckpointError


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into a folder, each whole or not at all.

    Args:
        folder: made where it does not exist.
        files: name to content, in the order in which they take their places.

    Raises:
        CheckpointError: the disk refuses.
    """
    temporary: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            # the mode is the umask's, as of any file that the user writes
            part = folder / f".{name}.{secrets.token_hex(4)}"
            temporary.append(part)
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        # the tensors come first: they carry the description that loading reads
        for whole, name in zip(temporary, files, strict=True):
            whole.replace(folder / name)
        _sync(folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written: {error.strerror or error}."
            " What was there before is untouched; the adapter is still in memory."
        ) from error
    finally:
        for left in temporary:
            left.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into, which takes its place at the end, whole or not at all.

    Args:
        path: its place: nothing is there, or an empty folder.

    Raises:
        CheckpointError: the disk refuses.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
        part.mkdir(parents=True)
        mode = _mode_of_files(part)
        yield part
        for file in (p for p in part.rglob("*") if p.is_file()):
            file.chmod(mode)  # safetensors keeps what it writes to its owner
            _sync(file)
        part.replace(path)
        _sync(path.parent)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be written: {reason}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _mode_of_files(folder: Path) -> int:
    """Return the mode that the umask gives to files."""
    probe = folder / ".mode"
    probe.touch()
    mode = probe.stat().st_mode
    probe.unlink()
    return mode


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
