"""Point-cloud classification: one label for a cloud."""

from collections.abc import Sequence
from math import ceil

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from peftcore import DataError, Loaded
from peftcore_pointcloud.task import Clouds, CloudsConfig, FewShot, few_shot
from peftcore_train.data import Columns, Row
from peftcore_train.progress import going_over
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.labelled import Labelled
from peftcore_train.tasks.labels import LabelConfig, Labels
from peftcore_train.tasks.one_label import OneLabel


class PointClassificationConfig(LabelConfig, CloudsConfig):
    """The ``task`` section of point-cloud classification."""

    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the target that the other labels have in training; 0.2 for"
        " Point-BERT, 0.3 for Point-M2AE on ModelNet40.",
    )
    votes: int = Field(
        0,
        ge=0,
        le=1000,
        description="Score by the mean logits of so many random views of each cloud; 10 in the"
        " papers, 0 for one plain view.",
    )
    few_shot: FewShot | None = Field(
        None, description="Train and test on a draw of classes: `{way: 5, shot: 10, fold: 0}`."
    )


class PointClassification(Labelled, Clouds):
    """Cross-entropy on the classifier of a network on points; clouds are read for each batch."""

    head = "point-classification"
    modules_to_save = ("head",)
    default_metric = "accuracy"
    metric_names = OneLabel.metric_names

    def __init__(self, config: PointClassificationConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        self.kind = OneLabel(config, self.labels)

    def columns(self) -> Columns:
        """Return the columns of the cloud and of its label."""
        label = self.config.label_column
        return Columns((self.config.cloud_column,), (label,), label)

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split, of a few-shot draw where one is asked for."""
        rows = super().read(data, split, problems)
        shot = self.config.few_shot
        if shot is None or not rows:
            return rows
        try:
            return few_shot(rows, shot, split, self.config.label_column)
        except DataError as error:
            if problems is None:
                raise
            problems.append(error)
            return rows

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a label and a cloud that can be used."""
        for row in going_over(rows, "looking at clouds", unit="clouds"):
            self.kind.answer(row)
            self.cloud(row)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return where the cloud is, and the index of the label."""
        if not labelled:
            self.cloud(row)
            return self.named(row)
        return {**self.named(row), "answer": self.kind.answer(row)}

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Read a cloud, and draw and move its points at random."""
        return {**features, "points": self.changed(features, generator)}

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        """Add the views that vote on a cloud when it is scored."""
        votes = self.config.votes
        if not votes or "points" in features:
            return features
        many = self.candidates(features, ceil(self.config.points * self._views.SURPLUS))
        views = [self.moved(many, generator) for _ in range(votes)]
        return {**features, "points": torch.stack(views)}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Stack clouds, [B, points, 3], or their views, [B, votes, points, 3]."""
        points = [row["points"] if "points" in row else self.plain(row) for row in rows]
        batch: Batch = {"points": torch.stack(points)}
        if "answer" in rows[0]:
            batch["target"] = torch.tensor([row["answer"] for row in rows])
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:  # type: ignore[override]
        """Return the classifier's outputs, [B, C], in single precision; the mean of all views."""
        points: Tensor = batch["points"]
        views = points.flatten(0, -3)
        out: Tensor = model(points=views).float()
        return out.view(*points.shape[:-2], -1).mean(1) if points.dim() == 4 else out

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted by class, with the other labels' share of the target.

        The share is divided among the other labels (Yu et al. 2022); torch divides it among all.
        """
        share, count = self.config.label_smoothing, len(self.labels)
        if not share:
            return super().loss(model, batch)
        logits, weights = self.logits(model, batch), self.kind.weights  # type: ignore[union-attr]
        return F.cross_entropy(
            logits,
            batch["target"],
            weight=None if weights is None else weights.to(logits.device),
            label_smoothing=min(share * count / (count - 1), 1.0),
        )
