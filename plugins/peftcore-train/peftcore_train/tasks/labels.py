"""Labels in the order of a head's outputs, given or learned from the training rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, tensor

from peftcore import ConfigError, DataError, nearest
from peftcore_train.data import Row

Label = str | int


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
