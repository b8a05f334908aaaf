"""Writing files so that a kill at any moment leaves the old ones or the new ones, whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

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


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
