"""Folders of images or of sound: a folder for each label, each file a row."""

from pathlib import Path

from peftcore import DataError
from peftcore_train.data.lines import Found
from peftcore_train.data.rows import Row
from peftcore_train.progress import going_over

#: Column of the file, by suffix.
COLUMN = {
    **dict.fromkeys(
        (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".dcm"), "image"
    ),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3"), "audio"),
}


def is_media(folder: Path) -> bool:
    """Tell whether a folder, or a folder in it, holds images or sound."""
    return any(_is_medium(path) for path in (*folder.glob("*"), *folder.glob("*/*")))


def media(folder: Path) -> Found:
    """Read a folder of files; files in a folder of their own have its name as ``label``.

    What begins with a dot is left out; any other file that is no image and no sound is a problem.
    """
    for path in going_over(sorted(folder.rglob("*")), f"listing {folder.name}", unit="files"):
        parts = path.relative_to(folder).parts
        if path.is_dir() or any(part.startswith(".") for part in parts):
            continue
        where = "/".join((folder.name, *parts))
        if not _is_medium(path):
            yield DataError(f"{where}: the suffix is of no image and no sound; take it out.")
        elif len(parts) > 2:
            yield DataError(f"{where}: lies too deep; a file stands in the folder of its label.")
        else:
            label = {"label": parts[0]} if len(parts) == 2 else {}
            yield Row({COLUMN[path.suffix.lower()]: "/".join(parts), **label}, where, str(folder))


def _is_medium(path: Path) -> bool:
    return path.suffix.lower() in COLUMN and not path.name.startswith(".")
