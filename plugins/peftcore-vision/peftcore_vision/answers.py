"""What a row of images is answered by: one label with groups, or several labels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftcore_train.data import Row
from peftcore_train.tasks.labels import Labels
from peftcore_train.tasks.one_label import OneLabel
from peftcore_train.tasks.several_labels import SeveralLabels
from peftcore_vision.groups import OVER_GROUPS, Groups

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_ALWAYS = {
    "loss": False, "accuracy": True, "mean_per_class": True, "f1": True, "mcc": True, "auroc": True,
}  # fmt: skip
_TWO = {"average_precision": True}


class OneImageLabel(OneLabel):
    """One label, scored over all rows and over the groups of each attribute.

    Args:
        config: the ``task`` section.
        labels: the labels.
        groups: the attributes.
    """

    def __init__(self, config: Any, labels: Labels, groups: Groups):
        super().__init__(config, labels)
        self.groups = groups
        self.metric_names = self._names()

    def learn(self, rows: Sequence[Row]) -> None:
        """Take labels, frequencies and groups from the training rows."""
        super().learn(rows)
        self.groups.learn(rows)
        self.metric_names = self._names()

    def metrics(self) -> "MetricCollection":
        """Return the metrics of labels, and those of groups."""
        from peftcore_train.metrics import classification_metrics
        from peftcore_vision.group_metrics import group_metrics
        from peftcore_vision.metrics import MacroAUROC, MeanPerClass

        found = classification_metrics(len(self.labels))
        found.add_metrics({"mean_per_class": MeanPerClass(len(self.labels))})
        if len(self.labels) > 2:
            found.add_metrics({"auroc": MacroAUROC()})
        if self.groups.names:
            found.add_metrics(group_metrics(self.groups.names))
        return found

    def _names(self) -> Mapping[str, bool]:
        over = {
            f"{name}.{attribute}": better
            for attribute in self.groups.names
            for name, (_, _, better) in OVER_GROUPS.items()
        }
        return {**_ALWAYS, **(_TWO if len(self.labels) <= 2 else {}), **over}


class SeveralImageLabels(SeveralLabels):
    """Several labels, scored by the eleven points of VOC 2007 as well.

    ``map_11`` is the challenge's, ``map_11_anchored`` what ELEVATER's toolkit computes.
    """

    metric_names = {**SeveralLabels.metric_names, "map_11": True, "map_11_anchored": True}

    def metrics(self) -> "MetricCollection":
        """Return the metrics of several labels."""
        from peftcore_vision.metrics import mean_eleven_points

        found = super().metrics()
        found.add_metrics({"map_11": mean_eleven_points()})
        found.add_metrics({"map_11_anchored": mean_eleven_points(anchored=True)})
        return found
