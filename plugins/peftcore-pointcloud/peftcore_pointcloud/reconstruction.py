"""Point reconstruction: Point-MAE's and Point-M2AE's pre-training on clouds without labels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import Loaded
from peftcore_pointcloud.masked import chamfer
from peftcore_pointcloud.task import Clouds, CloudsConfig
from peftcore_train.data import Columns, Row
from peftcore_train.progress import going_over
from peftcore_train.task import Batch, Features

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class PointReconstructionConfig(CloudsConfig):
    """The ``task`` section of point reconstruction."""

    mask_ratio: float = Field(
        0.6,
        gt=0,
        lt=1,
        description="Share of the groups that are hidden, at random; .6 for Point-MAE, .8 for"
        " Point-M2AE, where it is of those of the last scale.",
    )


class PointReconstruction(Clouds):
    """Squared Chamfer distance of hidden groups to what is made of them, the mean over groups."""

    head = "masked-reconstruction"
    modules_to_save = ("head",)

    def __init__(self, config: PointReconstructionConfig):
        super().__init__(config)
        self._groups = 0

    def columns(self) -> Columns:
        """Return the column of the cloud."""
        return Columns((self.config.cloud_column,))

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a cloud that can be used."""
        for row in going_over(rows, "looking at clouds", unit="clouds"):
            self.cloud(row)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return where the cloud is."""
        config = getattr(loaded.model, "config", None)
        self._groups = config.groups[-1] if config is not None else 0
        return self.named(row)

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Read a cloud, and draw and move its points at random."""
        return {**features, "points": self.changed(features, generator)}

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        """Choose the groups to hide; when scoring they depend on the row alone."""
        count = max(1, min(int(self.config.mask_ratio * self._groups), self._groups - 1))
        hidden = torch.zeros(self._groups, dtype=torch.bool)
        hidden[torch.randperm(self._groups, generator=generator)[:count]] = True
        return {**features, "hidden": hidden}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Stack clouds, [B, points, 3], and which groups of each are hidden, [B, G]."""
        points = [row["points"] if "points" in row else self.plain(row) for row in rows]
        batch: Batch = {"points": torch.stack(points)}
        if "hidden" in rows[0]:
            batch["hidden"] = torch.stack([row["hidden"] for row in rows])
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean distance over all hidden groups."""
        return self._distances(model, batch)[0].mean()

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the sum of the distances of each row, and how many groups it is of."""
        distances, groups = self._distances(model, batch)
        sums = distances.new_zeros(len(batch["points"]))
        return {
            "loss": sums.index_add(0, groups, distances),
            "count": sums.index_add(0, groups, torch.ones_like(distances)),
        }

    def metrics(self) -> "MetricCollection":
        """Return the mean distance."""
        # seconds of imports, which nothing but scoring needs
        from torchmetrics import MetricCollection

        from peftcore_train.metrics import MeanLoss

        return MetricCollection({"loss": MeanLoss()})

    @staticmethod
    def _distances(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the distance of each hidden group, and the row that it is of."""
        rebuilt = model(points=batch["points"], hidden=batch["hidden"])
        return chamfer(rebuilt.made.float(), rebuilt.given.float()), rebuilt.rows
