"""What tasks on clouds share: reading rows, the points of each, and few-shot parts."""

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from math import ceil
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from peftcore import DataError, Strict
from peftcore_pointcloud.clouds import cloud_at, rows_of
from peftcore_train.data import Row, report
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Features, Task


class FewShot(Strict):
    """A part of the classes and of their clouds."""

    way: int = Field(5, ge=2, le=1000, description="Number of classes.")
    shot: int = Field(10, ge=2, le=10_000, description="Clouds of each for training.")
    queries: int = Field(20, ge=1, le=10_000, description="Clouds of each for testing.")
    fold: int = Field(0, ge=0, le=10_000, description="Which draw; ten are reported together.")


class CloudsConfig(Strict):
    """Fields of every task on clouds."""

    cloud_column: str = Field(
        "cloud", description="Column of the cloud: a path, of a file of many `train.h5#17`."
    )
    points: int = Field(1024, ge=8, le=1_000_000, description="Points that the network sees.")
    sampling: Literal["farthest", "first", "random"] = Field(
        "farthest",
        description="How points stand for a larger cloud: `farthest` from each other, the `first`"
        " of the file (where it is ordered so), or `random`.",
    )
    normalise: bool = Field(
        True, description="Move each cloud into the unit sphere, as for ModelNet40."
    )
    scale: tuple[float, float] = Field(
        (2 / 3, 3 / 2), description="Least and largest factor by which each axis is stretched."
    )
    shift: float = Field(0.2, ge=0, le=100, description="Largest shift along each axis.")
    rotate: Literal["x", "y", "z"] | None = Field(
        None, description="Axis about which clouds are turned at random in training."
    )
    validation: float = Field(
        0.1, gt=0, lt=1, description="Share of training that validates, where a release has none."
    )

    @model_validator(mode="after")
    def _factors_rise(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError("scale: give a least factor above 0, and a largest one not below it")
        return self


class Clouds(Task):
    """Reads clouds in the layouts of their releases, and makes points of each."""

    length_unit = "points"

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split of a release, of folders, or of a table of paths."""
        found: list[DataError] = []
        rows = rows_of(data, split, self.config.validation, found)
        if rows is None:
            rows = super().read(data, split, problems)
        report(found, problems)
        return rows

    def cloud(self, row: Row) -> Tensor:
        """Return the points of a row, [N, 3].

        Raises:
            DataError: there are fewer than the network sees, or none that can be used.
        """
        reference = row.text(self.config.cloud_column)
        points = cloud_at(reference, row.folder, row.where)
        self._enough(points, row.where)
        return points

    def _enough(self, points: Tensor, where: str) -> None:
        if len(points) < self.config.points:
            raise DataError(
                f"{where}: {len(points):,} points, fewer than task.points: {self.config.points:,}."
                " Leave it out, or lower that."
            )

    def named(self, row: Row) -> Features:
        """Return where a cloud is, which is read anew for each batch."""
        return {
            "cloud": row.text(self.config.cloud_column),
            "folder": row.folder,
            "where": row.where,
        }

    def candidates(self, features: Features, count: int) -> Tensor:
        """Read a cloud, [count, 3] or as many as it has, normalised."""
        points = cloud_at(features["cloud"], features["folder"], features["where"])
        return self._views.applied(self._fixed(count), points, torch.Generator())  # type: ignore[no-any-return]

    def plain(self, features: Features) -> Tensor:
        """Return the points of a cloud as they are scored, [points, 3]."""
        return self.candidates(features, self.config.points)

    def changed(self, features: Features, generator: torch.Generator) -> Tensor:
        """Return points of a cloud that are drawn and moved at random, [points, 3]."""
        from_many = self.candidates(features, ceil(self.config.points * self._views.SURPLUS))
        return self.moved(from_many, generator)

    def moved(self, candidates: Tensor, generator: torch.Generator) -> Tensor:
        """Return a draw of candidates, moved at random, [points, 3]."""
        config, views = self.config, self._views
        change = views.changes(config.scale, config.shift, config.rotate)
        return views.applied([views.Drawn(config.points), change], candidates, generator)  # type: ignore[no-any-return]

    def _fixed(self, count: int) -> list[Any]:
        config, views = self.config, self._views
        normal = [views.UnitSphere()] if config.normalise else []
        return [*normal, views.Candidates(count, config.sampling)]

    @cached_property
    def _views(self) -> Any:
        # torch-geometric takes seconds to import, which reading rows does not need
        from peftcore_pointcloud import views

        return views

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_views"}


def few_shot(rows: Sequence[Row], shot: FewShot, split: Split, label: str) -> list[Row]:
    """Return the rows of a draw of classes and of clouds of each; one fold has one set of classes.

    Validation takes none of the clouds that train: it has those that the draw left over, as many
    as there are queries at most.

    Args:
        rows: of a whole split.
        shot: the sizes, and which draw.
        split: which.
        label: column of the label.

    Raises:
        DataError: there are too few classes, or too few clouds of one.
    """
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_label[str(row.column(label))].append(row)
    if len(by_label) < shot.way:
        raise DataError(
            f"task.few_shot.way: {shot.way} classes are asked for and {len(by_label)} are there."
        )
    classes = random.Random(f"classes-{shot.fold}").sample(sorted(by_label), shot.way)
    count = shot.shot if split == "train" else shot.queries
    out: list[Row] = []
    for name in classes:
        found = by_label[name]
        if len(found) < count and split != "validation":
            raise DataError(
                f"task.few_shot: {count} clouds of {name} are asked for and {len(found)} are there."
            )
        chance = random.Random(f"{split}-{name}-{shot.fold}")
        out += chance.sample(found, min(count, len(found)))
    return out
