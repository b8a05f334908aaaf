"""Clouds of any layout, written into h5 files as ScanObjectNN has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from peftcore import DataError
from peftcore_pointcloud.clouds import cloud_at, rows_of
from peftcore_pointcloud.neighbours import farthest_points
from peftcore_train.data import Row
from peftcore_train.progress import Progress
from peftcore_train.schema import DataSection, Split

_SPLITS: tuple[Split, ...] = ("train", "test")


def write_clouds(
    source: str, output: Path, points: int, files: Mapping[str, str], progress: Progress
) -> dict[str, int]:
    """Write the clouds of a source, and return the number of them by name of the file.

    One cloud at a time is in memory.

    Args:
        source: a folder in the layout of a release.
        output: the folder to write.
        points: how many points to keep, the farthest in order.
        files: name of the file of a split, as ``data.files``.
        progress: where to say how it goes.

    Raises:
        DataError: the source is of no known layout, or a cloud is damaged or too small.
    """
    data = DataSection.model_validate({"source": source, "files": files})
    parts: dict[Split, list[Row]] = {}
    for split in _SPLITS:
        found: list[DataError] = []
        # validation stays a part of training, to be divided by the recipe
        rows = rows_of(data, split, 0.0, found)
        if found or not rows:
            raise found[0] if found else DataError(f"{source}: no layout of clouds that is known.")
        parts[split] = rows
    names = sorted({str(row.values["label"]) for rows in parts.values() for row in rows})
    output.mkdir(parents=True, exist_ok=True)
    for split, rows in parts.items():
        _write(output / f"{split}.h5", rows, names, points, progress)
    return {f"{split}.h5": len(rows) for split, rows in parts.items()}


def _write(
    path: Path, rows: Sequence[Row], names: Sequence[str], points: int, progress: Progress
) -> None:
    part = path.with_name(f"{path.name}.part")
    place = {name: number for number, name in enumerate(names)}
    with h5py.File(part, "w") as file:
        data = file.create_dataset("data", (len(rows), points, 3), "float32")
        file["label"] = np.array([place[str(row.values["label"])] for row in rows])
        file.attrs["names"] = list(names)
        for number, row in enumerate(progress.counted(rows, path.name, len(rows), unit="clouds")):
            cloud = cloud_at(str(row.values["cloud"]), row.folder, row.where)
            if len(cloud) < points:
                raise DataError(
                    f"{row.where}: {len(cloud):,} points, fewer than --points {points:,}."
                )
            data[number] = cloud[farthest_points(cloud[None], points)[0]].numpy()
    part.replace(path)
