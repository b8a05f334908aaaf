"""Index files of ELEVATER: lines of path and classes, or COCO's JSON. Imports no torch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftcore import DataError, nearest
from peftcore_train.data import Row, decoded

IMAGE, LABEL = "image", "label"


@dataclass(frozen=True)
class Index:
    """What an index file says.

    Attributes:
        rows: an image each, with the numbers of its classes in the column ``label``.
        names: names of the classes, by number.
    """

    rows: list[Row]
    names: list[str]


def read_index(file: Path, labels: Path | None) -> Index:
    """Read an index file.

    Args:
        file: ``.txt``: ``path class[,class...]`` a line, classes from 0; or ``.json`` as COCO has.
        labels: names of classes, one a line; a ``.json`` has them itself.

    Raises:
        DataError: a file is missing or a line is not readable.
    """
    text = _text(file)
    if file.suffix == ".json":
        return _coco(text, file)
    rows = [_line(line, f"{file.name}:{n}", file) for n, line in _lines(text)]
    if not rows:
        raise DataError(f"{file.name} is empty.")
    if labels is not None:
        names = [line for _, line in _lines(_text(labels))]
    else:
        names = [str(i) for i in range(1 + max(i for row in rows for i in row.values[LABEL]))]
    for row in rows:
        beyond = [i for i in row.values[LABEL] if i >= len(names)]
        if beyond:
            raise DataError(f"{row.where}: class {beyond[0]}, but there are {len(names)}, from 0.")
    return Index(rows, names)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def _line(line: str, where: str, file: Path) -> Row:
    # only the path may have blanks
    path, _, classes = line.rpartition(" ")
    try:
        numbers = [int(part) for part in classes.split(",")]
    except ValueError:
        numbers = [-1]
    if not path or min(numbers) < 0:
        raise DataError(f"{where}: {line!r} is not a path, a blank, and classes such as 3 or 0,2.")
    return Row({IMAGE: path.strip(), LABEL: numbers}, where, str(file.parent))


def _coco(text: str, file: Path) -> Index:
    try:
        data = json.loads(text)
        categories = sorted(data["categories"], key=lambda one: int(one["id"]))
        places = {one["id"]: place for place, one in enumerate(categories)}
        numbers: dict[Any, list[int]] = {one["id"]: [] for one in data["images"]}
        for one in data["annotations"]:
            numbers[one["image_id"]].append(places[one["category_id"]])
        images = sorted(data["images"], key=lambda one: one["id"])
        rows = [_image(one, numbers[one["id"]], file) for one in images]
        return Index(rows, [str(one["name"]) for one in categories])
    except (ValueError, KeyError, TypeError) as error:
        what = getattr(error, "msg", None) or f"{type(error).__name__} {error}"
        raise DataError(f"{file.name}: not readable as COCO's JSON: {what}.") from error


def _image(one: Mapping[str, Any], numbers: Sequence[int], file: Path) -> Row:
    inside = f"{one['zip_file']}@" if one.get("zip_file") else ""
    where = f"{file.name}: image {one['id']}"
    return Row(
        {IMAGE: f"{inside}{one['file_name']}", LABEL: list(numbers)}, where, str(file.parent)
    )


def _text(file: Path) -> str:
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*")] if file.parent.is_dir() else []
        raise DataError(f"{file}: no such file.{nearest(file.name, near)}")
    return decoded(file.read_bytes(), file.name)
