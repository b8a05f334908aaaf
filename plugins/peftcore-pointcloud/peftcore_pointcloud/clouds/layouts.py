"""The released layouts of ModelNet40 and ScanObjectNN, and plain folders, as rows."""

import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftcore import DataError, nearest, resolve_source
from peftcore_pointcloud.clouds.files import MANY, MARK, SINGLE, opened, pickled
from peftcore_train.data import Row
from peftcore_train.progress import going_over
from peftcore_train.schema import DataSection, Split

#: What the files of a part are called, in ModelNet40's lists and in ScanObjectNN's h5 files.
_NAMES = {"train": ("train", "training"), "test": ("test",), "validation": ("validation", "val")}


def rows_of(
    data: DataSection, split: Split, share: float, problems: list[DataError]
) -> list[Row] | None:
    """Return the rows of a split of a source that lies there as it was released, or None.

    A release has two parts; rows of validation are a share of the training ones, of each label.

    Args:
        data: the ``data`` section.
        split: which.
        share: of the training rows that are for validation.
        problems: where what is wrong is put.
    """
    root = Path(resolve_source(data.source, "data") or data.source).expanduser()
    try:
        rows = _part(root, data, split)
        if split != "test" and _part(root, data, "validation") is None:
            whole = _part(root, data, "train")
            rows = (
                None if whole is None else _shared(whole, share, data.seed)[split == "validation"]
            )
        if rows is not None and (data.split is not None or data.labels is not None):
            raise DataError(
                f"data.split and data.labels are for tables; {data.source} tells splits and labels"
                " itself. Leave them out; task.validation divides its training part."
            )
    except DataError as error:
        problems.append(error)
        return []
    return None if rows is None else _limited(rows, data, split)


def _part(root: Path, data: DataSection, split: Split) -> list[Row] | None:
    if root.is_file() and root.suffix == ".pkl":
        return None if split == "validation" else list(_of_file(root, split))
    if root.is_file() and root.suffix in MANY:
        raise DataError(
            f"data.source {root} is one file of clouds. Name its folder, and the file of each split"
            " in data.files."
        )
    if not root.is_dir():
        return None
    if (root / "raw").is_dir():  # as torch-geometric's data sets lie
        root = root / "raw"
    if (file := _part_file(root, data, split)) is not None:
        return list(_of_file(file, ""))
    if (listing := _listing(root, split)) is not None:
        return list(_listed(root, listing))
    return list(_in_folders(root, split)) or None


def _part_file(root: Path, data: DataSection, split: Split) -> Path | None:
    """Return the file of many clouds that a split is, by its name or as the recipe says."""
    if not root.is_dir():
        return None
    if split in data.files:
        file = root / data.files[split]
        if file.suffix not in MANY:
            return None
        if not file.is_file():
            near = nearest(file.name, [p.name for p in root.iterdir()])
            raise DataError(f"data.files.{split}: {file}: no such file.{near}")
        return file
    found = [
        path
        for path in sorted(root.iterdir())
        if path.suffix in MANY and set(_NAMES[split]) & set(re.split(r"[_.]", path.stem))
    ]
    if len(found) > 1:
        plain = [
            path for path in found if path.stem in (split, f"{_NAMES[split][-1]}_objectdataset")
        ]
        if len(plain) != 1 or data.files:
            names = ", ".join(path.name for path in found)
            raise DataError(f"{root}: split {split} could be {names}; say which in data.files.")
        return plain[0]
    return found[0] if found else None


def _of_file(path: Path, part: str) -> Iterator[Row]:
    if path.suffix in (".h5", ".hdf5"):
        labels = [int(label) for label in opened(path)["label"][()].reshape(-1)]
        names = list(opened(path).attrs.get("names", ()))
    else:
        labels = pickled(path, part)[1]
        names = [] if part else _shape_names(path.parent)
    front = f"{part}/" if part else ""
    for number, label in enumerate(labels):
        reference = f"{path.name}{MARK}{front}{number}"
        if names and not 0 <= label < len(names):
            raise DataError(f"{reference}: label {label} is none of {len(names)} names of classes.")
        named = str(names[label]) if names else label
        yield Row({"cloud": reference, "label": named}, reference, str(path.parent))


def _shape_names(folder: Path) -> list[str]:
    file = next(iter(sorted(folder.glob("modelnet*_shape_names.txt"), reverse=True)), None)
    return [] if file is None else file.read_text("utf-8").split()


def _listing(root: Path, split: Split) -> Path | None:
    """Return ModelNet40's list of a split, which holds names such as ``airplane_0001``."""
    if split == "validation":
        return None
    return next(iter(sorted(root.glob(f"modelnet*_{split}.txt"), reverse=True)), None)


def _listed(root: Path, listing: Path) -> Iterator[Row]:
    for number, line in enumerate(listing.read_text("utf-8").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        label, _, last = name.rpartition("_")
        where = f"{listing.name}:{number}"
        if not label or not last.isdecimal():
            raise DataError(f"{where}: {name!r} is no name such as airplane_0001.")
        yield Row({"cloud": f"{label}/{name}.txt", "label": label}, where, str(root))


def _in_folders(root: Path, split: Split) -> Iterator[Row]:
    """Yield clouds of ``train/CLASS/FILE`` or, as ModelNet's meshes lie, ``CLASS/train/FILE``."""
    names = _NAMES[split]
    for path in going_over(sorted(root.glob("*/*/*")), f"listing {root.name}", unit="files"):
        first, second, file = path.relative_to(root).parts
        if path.suffix.lower() not in SINGLE or not {first, second} & set(names):
            continue
        label = second if first in names else first
        where = f"{first}/{second}/{file}"
        yield Row({"cloud": where, "label": label}, where, str(root))


def _shared(rows: Sequence[Row], share: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Divide rows into what trains and what validates, each label in proportion."""
    by_label: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_label[str(row.values["label"])].append(index)
    held: set[int] = set()
    for label, found in sorted(by_label.items()):
        count = max(round(share * len(found)), 1) if share and len(found) > 1 else 0
        held.update(random.Random(f"{seed}-{label}").sample(found, count))
    return (
        [row for index, row in enumerate(rows) if index not in held],
        [rows[index] for index in sorted(held)],
    )


def _limited(rows: list[Row], data: DataSection, split: Split) -> list[Row]:
    limit = data.limits.get(split)
    if limit is None or limit >= len(rows):
        return rows
    chosen = random.Random(data.seed).sample(range(len(rows)), limit)
    return [rows[index] for index in sorted(chosen)]
