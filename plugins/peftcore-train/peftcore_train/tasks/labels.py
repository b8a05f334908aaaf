"""Labels in the order of a head's outputs, given or learned from the training rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, tensor

from peftcore import ConfigError, DataError, Strict, nearest
from peftcore_train.data import Row

Label = str | int


class LabelConfig(Strict):
    """Fields of every task with one label a row."""

    label_column: str = Field("label", description="Column of the label, a text or an integer.")
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The labels in order; sorted from the training rows."
    )
    class_weights: Literal["none", "balanced"] | dict[str, float] = Field(
        "none",
        description="Weight of each label in the loss: `none`, `balanced` (inverse frequency), or"
        " label to weight.",
    )


class LabelsConfig(LabelConfig):
    """Fields of every task with one label or several."""

    label_column: str = Field(
        "label", description="Column of the label, a text or an integer; of several, a list."
    )
    multi_label: bool = Field(
        False,
        description="A row has any number of labels, none among them; each is yes or no, and its"
        " weight in `class_weights` is that of rows that have it.",
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
    def _thresholds_are_probabilities(self) -> Self:
        chosen = self.threshold
        values = chosen.values() if isinstance(chosen, dict) else (chosen,)
        if not all(0 < value < 1 for value in values):
            raise ValueError("threshold is not between 0 and 1")
        if "threshold" in self.model_fields_set and chosen != 0.5 and not self.multi_label:
            raise ValueError("threshold goes with multi_label: true")
        return self


class Labels:
    """A table of labels; ``1`` and ``"1"`` are the same one.

    Args:
        given: the labels in order, where the recipe names them.

    Raises:
        ConfigError: one is named twice.
    """

    def __init__(self, given: Sequence[Label] | None):
        self.all: list[Label] = []
        self._places: dict[str, int] = {}
        self._source = "task.labels" if given else "the labels of training"
        self._set(given or ())
        if len(self._places) < len(self.all):
            raise ConfigError("task.labels names a label twice.")

    def __len__(self) -> int:
        return len(self.all)

    @property
    def names(self) -> list[str]:
        """The labels as texts."""
        return list(self._places)

    def learn(self, found: Iterable[Label]) -> None:
        """Take the labels that were found, sorted, unless they were given."""
        if not self.all:
            self._set(_sorted({str(label): label for label in found}.values()))

    def index(self, label: Label, row: Row) -> int:
        """Return the place of a label.

        Raises:
            DataError: it is not among the labels.
        """
        place = self._places.get(str(label))
        if place is None:
            raise DataError(
                f"{row.where}: label {label!r} is not among {self._source}:"
                f" {', '.join(self.names)}.{nearest(str(label), self.names)}"
            )
        return place

    def weights(self, chosen: Mapping[str, float]) -> Tensor:
        """Return the weights that a recipe gives, in order.

        Raises:
            ConfigError: a label has none, a weight no label, or one is below 0.
        """
        if set(chosen) ^ set(self.names) or min(chosen.values()) < 0:
            raise ConfigError(
                "task.class_weights: give each label a weight of at least 0; the labels are"
                f" {', '.join(self.names)}."
            )
        return tensor([chosen[name] for name in self.names])

    def unseen(self, counts: Mapping[int, int]) -> str | None:
        """Return a label that no training row has, if there is one."""
        return next((name for i, name in enumerate(self.names) if not counts.get(i)), None)

    def _set(self, labels: Sequence[Label]) -> None:
        self.all = list(labels)
        self._places = {str(label): i for i, label in enumerate(self.all)}


def label_of(value: Any, row: Row) -> Label:
    """Return a value that is a label.

    Raises:
        DataError: it is neither a text nor an integer.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{row.where}: label {value!r} is neither a text nor an integer.")
    return value


def _sorted(labels: Iterable[Label]) -> list[Label]:
    """Sort integers as numbers and everything else as text."""
    found = list(labels)
    if all(isinstance(label, int) or label.lstrip("-").isdigit() for label in found):
        return sorted(found, key=int)
    return sorted(found, key=str)
