"""Data of code review as it is released, read row by row.

Each reader yields rows with the columns that are used, and a :class:`DataError` in the place of a
line that is none. What is not used, such as the whole file that a diff is of, is forgotten at once.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from peftcore import DataError, nearest
from peftcore_code.prompts import Action
from peftcore_train.data import Row
from peftcore_train.schema import DataSection, Split

Found = Iterator[Row | DataError]

#: Folder, beginning of names, and columns of each part of CodeReviewer's release.
_PARTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "necessity": ("Diff_Quality_Estimation", "cls", ("id", "patch", "y")),
    "comment": ("Comment_Generation", "msg", ("id", "patch", "msg")),
    "refinement": ("Code_Refinement", "ref", ("id", "old", "new", "comment")),
}
_SPLITS = {"train": "train", "validation": "valid", "test": "test"}
_TUFANO_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def codereviewer(root: Path, action: Action, split: Split) -> Found:
    """Read CodeReviewer (Li et al. 2022): ``Comment_Generation/msg-train.jsonl`` and its kin.

    Raises:
        DataError: there is no such file.
    """
    folder, begin, columns = _PARTS[action]
    place = root / folder if (root / folder).is_dir() else root
    name = f"{begin}-{_SPLITS[split]}"
    paths = sorted(place.glob(f"{name}.jsonl")) or sorted(
        place.glob(f"{name}-chunk-*.jsonl"), key=_number
    )
    if not paths:
        raise _not_there(root, f"{folder}/{name}.jsonl")
    for path in paths:
        for where, line in _lines(path):
            if isinstance(line, DataError):
                yield line
            elif line.strip():
                yield _of_json(line, where, columns)


def tufano(root: Path, action: Action, split: Split) -> Found:
    """Read Tufano et al. 2022: ``train.tsv``, ``val.tsv``, ``test.tsv`` of one of their folders.

    A line is source, tab, target. Code and comment of a source are told apart by
    ``<technical_language>``.

    Raises:
        DataError: there is no such file.
    """
    path = root / f"{_TUFANO_SPLITS[split]}.tsv"
    if not path.is_file():
        raise _not_there(root, path.name)
    for number, (where, line) in enumerate(_lines(path)):
        if isinstance(line, DataError):
            yield line
        elif line.strip() and not (number == 0 and line.split("\t") == ["source", "target"]):
            yield _of_pair(line, where, action)


LAYOUTS: dict[str, Callable[[Path, Action, Split], Found]] = {
    "codereviewer": codereviewer,
    "tufano": tufano,
}


def released(layout: str, root: Path, action: Action, split: Split, data: DataSection) -> Found:
    """Read a split of a release.

    Raises:
        DataError: a file is not there, or the recipe divides what is divided already.
    """
    if given := [name for name in ("split", "files", "labels") if getattr(data, name)]:
        raise DataError(
            f"data.{given[0]} does not go with task.layout: {layout} has splits of its own. Leave"
            " one of the two out."
        )
    return LAYOUTS[layout](root, action, split)


def _number(path: Path) -> tuple[int, str]:
    digits = re.findall(r"\d+", path.stem)
    return int(digits[-1]) if digits else 0, path.name


def _lines(path: Path) -> Iterator[tuple[str, str | DataError]]:
    """Yield the place and the text of each line, however long the file is."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path.name}:{number}"
            try:
                yield where, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                yield where, DataError(f"{where}: not UTF-8.")


def _of_json(line: str, where: str, columns: tuple[str, ...]) -> Row | DataError:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error))
        return DataError(f"{where}: not readable as JSON: {reason.lower()}.")
    if not isinstance(values, dict):
        return DataError(f"{where}: a row is a JSON object, not {type(values).__name__}.")
    return Row({name: values[name] for name in columns if name in values}, where)


def _of_pair(line: str, where: str, action: Action) -> Row | DataError:
    parts = line.split("\t")
    if len(parts) != 2:
        return DataError(
            f"{where}: {len(parts)} columns, but a row is a source, a tab and a target."
        )
    source, target = parts
    code, _, said = source.partition("<technical_language>")
    code = re.sub(r"</?code>", "", code).strip()
    if action == "comment":
        return Row({"code": code, "msg": target.strip()}, where)
    comment = said.replace("</technical_language>", "").strip()
    asked = {"comment": comment} if comment else {}
    return Row({"old": code, **asked, "new": target.strip()}, where)


def _not_there(root: Path, name: str) -> DataError:
    if not root.is_dir():
        beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
        return DataError(f"data.source {root}: no such folder.{nearest(root.name, beside)}")
    has = ", ".join(sorted(p.name for p in root.iterdir())[:20]) or "nothing"
    return DataError(f"data.source {root} has no {name}. It holds: {has}.")
