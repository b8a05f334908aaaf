"""Clouds of any layout as a data set of torch-geometric, for loops of one's own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch_geometric.data import Data, Dataset

from peftcore import DataError
from peftcore_pointcloud.clouds import cloud_at, rows_of
from peftcore_train.data import Row
from peftcore_train.schema import DataSection, Split


class PointClouds(Dataset):
    """The clouds of a split: ``pos``, [N, 3], and ``y``, the place of the label among ``labels``.

    Clouds are read when they are asked for; ``torch_geometric.loader.DataLoader`` makes batches,
    ``DenseDataLoader`` of clouds of one size.

    Args:
        source: a folder or file as ``data.source`` names it.
        split: which split.
        transform: what is done to each cloud.
        labels: the labels in order; those of the split, sorted, if not given.
        validation: share of the training clouds that are for validation, where there is none.

    Raises:
        DataError: the source is of no known layout, or is damaged.
    """

    def __init__(
        self,
        source: str,
        split: Split,
        transform: Callable[[Data], Data] | None = None,
        labels: Sequence[str] | None = None,
        validation: float = 0.1,
    ):
        super().__init__(transform=transform)
        found: list[DataError] = []
        rows = rows_of(DataSection(source=source), split, validation, found)
        if found or not rows:
            raise found[0] if found else DataError(f"{source}: no layout of clouds that is known.")
        self.rows: list[Row] = rows
        self.labels = list(labels or sorted({str(row.values["label"]) for row in rows}))

    def len(self) -> int:
        """Return the number of clouds."""
        return len(self.rows)

    def get(self, idx: int) -> Data:
        """Read a cloud.

        Raises:
            DataError: it is damaged, or its label is none of the labels.
        """
        row = self.rows[idx]
        label = str(row.values["label"])
        if label not in self.labels:
            raise DataError(f"{row.where}: label {label!r} is none of {', '.join(self.labels)}.")
        points = cloud_at(str(row.values["cloud"]), row.folder, row.where)
        return Data(pos=points, y=torch.tensor([self.labels.index(label)]))

    def __getitem__(self, idx: Any) -> Any:
        """Return a cloud after the transform, or a part of the data set."""
        return super().__getitem__(idx)
