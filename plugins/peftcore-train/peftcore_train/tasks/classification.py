"""Sequence classification: labels for a text, a pair of texts, or a sequence of residues."""

from collections.abc import Mapping
from typing import Any

from peftcore_train.data import Columns, Row
from peftcore_train.tasks.labelled import Labelled
from peftcore_train.tasks.labels import Labels, LabelsConfig
from peftcore_train.tasks.one_label import OneLabel
from peftcore_train.tasks.several_labels import SeveralLabels
from peftcore_train.tasks.whole_text import WholeText, WholeTextConfig


class ClassificationConfig(LabelsConfig, WholeTextConfig):
    """The ``task`` section of sequence classification."""


class SequenceClassification(Labelled, WholeText):
    """Cross-entropy of one label, or of yes and no for each of several."""

    default_metric = OneLabel.default_metric
    metric_names: Mapping[str, bool] = {**OneLabel.metric_names, **SeveralLabels.metric_names}

    def __init__(self, config: ClassificationConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        kind = SeveralLabels if config.multi_label else OneLabel
        self.kind = kind(config, self.labels)
        self.default_metric = self.kind.default_metric
        self.metric_names = self.kind.metric_names

    def columns(self) -> Columns:
        """Return the columns of the texts, and that of the label."""
        label = self.config.label_column
        return Columns(self.texts, (label,), None if self.config.multi_label else label)

    def answer(self, row: Row) -> int | list[float]:
        """Return the index of a row's label; of several, 1 or 0 for each."""
        return self.kind.answer(row)

    def model_config(self) -> dict[str, Any]:
        """Return the names of the labels, and whether one or several of them are right."""
        number = "multi" if self.config.multi_label else "single"
        return {**super().model_config(), "problem_type": f"{number}_label_classification"}
