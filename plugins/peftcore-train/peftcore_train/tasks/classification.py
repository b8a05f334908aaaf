"""Sequence classification: labels for a text, a pair of texts, or a sequence of residues."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from peftcore_train.data import Columns, Row
from peftcore_train.tasks.labelled import Labelled
from peftcore_train.tasks.labels import Label, Labels
from peftcore_train.tasks.one_label import OneLabel
from peftcore_train.tasks.several_labels import SeveralLabels
from peftcore_train.tasks.whole_text import WholeText, WholeTextConfig

if TYPE_CHECKING:
    pass


class ClassificationConfig(WholeTextConfig):
    """The ``task`` section of sequence classification."""

    label_column: str = Field(
        "label", description="Column of the label, a text or an integer; of several, a list."
    )
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The labels in order; sorted from the training rows."
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none",
        description="Weight of each label in the loss: `none`, `balanced` (inverse frequency), or"
        " label to weight. Of several labels, what rows weigh that have it.",
    )
    multi_label: bool = Field(
        False, description="A row has any number of labels, none among them; each is yes or no."
    )
    label_separator: str = Field(
        ";", min_length=1, description="What separates the labels of a row where a text holds them."
    )
    threshold: float | dict[str, float] = Field(
        0.5,
        description="Probability from which on a row has a label, with `multi_label`; or label to"
        " threshold, .5 for the others.",
    )

    @model_validator(mode="after")
    def _thresholds_are_probabilities(self) -> "ClassificationConfig":
        chosen = self.threshold
        values = chosen.values() if isinstance(chosen, dict) else (chosen,)
        if not all(0 < value < 1 for value in values):
            raise ValueError("threshold is not between 0 and 1")
        if "threshold" in self.model_fields_set and chosen != 0.5 and not self.multi_label:
            raise ValueError("threshold goes with multi_label: true")
        return self


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
