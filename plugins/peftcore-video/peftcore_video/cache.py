"""Frames that were decoded once, kept in a folder."""

import hashlib
import os
import tempfile
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftcore import ConfigError
from peftcore_video.frames import Wanted, frames_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cached_frames(path: Path, where: str, wanted: Wanted, folder: Path | None) -> "NDArray[Any]":
    """Return frames of a video as :func:`frames_of` does, from the cache where they are there.

    A file that was changed, by size or time, is decoded anew. Several processes may share a folder.

    Args:
        path: the video.
        where: the row, for messages.
        wanted: which frames.
        folder: of the cache; nothing is kept without one.

    Raises:
        DataError: as :func:`frames_of`.
        ConfigError: the folder cannot be written.
    """
    if folder is None:
        return frames_of(path, where, wanted)
    import numpy as np

    kept = folder / f"{_key(path, wanted)}.npy"
    if kept.is_file():
        try:
            found: NDArray[Any] = np.load(kept, allow_pickle=False)
            return found
        except (ValueError, EOFError):
            pass  # it is damaged; decode and write it anew
    frames = frames_of(path, where, wanted)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=folder, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            np.save(file, frames)
        Path(part).replace(kept)
    except OSError as error:
        raise ConfigError(
            f"task.cache: {folder} cannot be written: {error.strerror}. Name another folder, or"
            " leave it out."
        ) from error
    return frames


def _key(path: Path, wanted: Wanted) -> str:
    about = path.stat()
    told = (str(path.resolve()), about.st_size, about.st_mtime_ns, *astuple(wanted))
    return hashlib.sha256(repr(told).encode()).hexdigest()[:40]
