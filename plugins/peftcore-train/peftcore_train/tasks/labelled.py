"""What tasks share whose answer is one of some labels, or several of them."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from peftcore import Loaded
from peftcore_train.data import Row
from peftcore_train.task import Batch, Task
from peftcore_train.tasks.labels import Labels
from peftcore_train.tasks.one_label import OneLabel
from peftcore_train.tasks.several_labels import SeveralLabels

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Labelled(Task):
    """Learns the labels from the training rows, and scores the logits of its model by them.

    Attributes:
        labels: the labels.
        kind: whether a row has one or several.
        logits: returns the head's outputs for a batch, [B, C], in single precision.
    """

    labels: Labels
    kind: OneLabel | SeveralLabels
    logits: Callable[[nn.Module, Batch], Tensor]

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the labels and their frequencies from the training rows."""
        self.kind.learn(rows)
        self.metric_names = self.kind.metric_names

    @property
    def needs_rows(self) -> bool:
        """Whether the labels are still to be learned."""
        return not self.labels.all

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the head's outputs."""
        return {"labels": list(self.labels.all)}

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels."""
        return {"num_labels": len(self.labels)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy, weighted by class."""
        return self.kind.loss(self.logits(model, batch), batch["target"])

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return predictions, targets and the plain cross-entropy of each row."""
        return self.kind.scores(self.logits(model, batch), batch["target"])

    def metrics(self) -> "MetricCollection":
        """Return the metrics of one label, or of several."""
        return self.kind.metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label or labels, and the probability of every label."""
        return self.kind.predictions(self.logits(model, batch))
