"""The task ``elevater``: image classification on a data set of the benchmark, with few shots."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field, field_validator

from peftcore import DataError, nearest, resolve_source
from peftcore_train.data import Row
from peftcore_train.schema import DataSection, Split
from peftcore_train.tasks.labels import Labels
from peftcore_vision.classification import ImageClassification, ImageClassificationConfig
from peftcore_vision.elevater.catalogue import DATA_SETS, METRICS, DataSet
from peftcore_vision.elevater.layout import LABEL, Index, read_index
from peftcore_vision.elevater.sampling import few_shots, held_out


class ElevaterConfig(ImageClassificationConfig):
    """The ``task`` section of the benchmark."""

    dataset: str = Field(description="Name of the data set, such as `cifar-10`.")
    shots: int | None = Field(
        5, ge=1, description="Training rows of each class; null takes all of them."
    )
    shots_seed: int = Field(0, ge=0, description="Seed of the draw; the benchmark has 0, 1 and 2.")
    whole: bool = Field(
        False,
        description="Train on the rows that are held out as well, as the benchmark's last run does;"
        " then validation measures what was trained on.",
    )
    flip: bool = Field(False, description="Mirror every second image of training.")
    random_crop: bool = Field(False, description="Train on a random part of each image.")

    @field_validator("dataset")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value not in DATA_SETS:
            raise ValueError(f"{value!r} is not a data set of ELEVATER.{nearest(value, DATA_SETS)}")
        return value


class Elevater(ImageClassification):
    """Images of one data set, in zip files, by its index files."""

    def __init__(self, config: ElevaterConfig):
        self.data_set: DataSet = DATA_SETS[config.dataset]
        several = self.data_set.multi_label
        super().__init__(config.model_copy(update={"multi_label": several}))
        self.default_metric = METRICS[self.data_set.metric]
        self._given = config.labels is not None

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split, with the names of their classes.

        Validation is a fifth of the training rows, after the draw; an index of validation that the
        data set may have is not used, as in the benchmark's toolkit.

        Raises:
            DataError: a file is missing or damaged, or a class has too few rows.
        """
        if data.split is not None or data.labels is not None or data.files:
            raise DataError("data: ELEVATER has its own splits; leave split, labels and files out.")
        place = folder_of(data.source, self.data_set)
        index = self._index(place, "test" if split == "test" else "train")
        rows = index.rows if split == "test" else self._drawn(index, split)
        limit = data.limits.get(split)
        if limit is not None and limit < len(rows):
            chosen = random.Random(data.seed).sample(range(len(rows)), limit)
            rows = [rows[i] for i in sorted(chosen)]
        return [self._named(row, index.names) for row in rows]

    def _index(self, place: Path, split: Split) -> Index:
        found = self.data_set
        labels = None if found.labels is None else place / found.labels
        index = read_index(place / found.indexes[split], labels)
        if len(index.names) != found.classes:
            raise DataError(
                f"{place}: {len(index.names)} classes; {self.config.dataset} has {found.classes}."
            )
        if not self._given:
            self.labels = self.kind.labels = Labels(index.names)
        return index

    def _drawn(self, index: Index, split: Split) -> list[Row]:
        config, rows = self.config, index.rows
        classes = [row.values[LABEL] for row in rows]
        several, number = self.data_set.multi_label, self.data_set.classes
        if config.shots is not None:
            drawn = few_shots(classes, number, config.shots, config.shots_seed)
            rows, classes = [rows[i] for i in drawn], [classes[i] for i in drawn]
        held = set(held_out(classes, number, several=several))
        if split == "validation":
            return [row for i, row in enumerate(rows) if i in held]
        return [row for i, row in enumerate(rows) if config.whole or i not in held]

    def _named(self, row: Row, names: Sequence[str]) -> Row:
        found = [names[i] for i in row.values[LABEL]]
        if not self.data_set.multi_label and len(found) != 1:
            raise DataError(f"{row.where}: {len(found)} classes; {self.config.dataset} has one.")
        label = found if self.data_set.multi_label else found[0]
        return replace(
            row,
            values={self.config.file_column: row.values["image"], self.config.label_column: label},
        )


def folder_of(source: str, data_set: DataSet) -> Path:
    """Return the folder of a data set: the source itself, or under it as the benchmark has it.

    Raises:
        DataError: it is nowhere.
    """
    root = Path(resolve_source(source, "data") or source).expanduser()
    places = (root, root / data_set.folder, root / "classification" / data_set.folder)
    index = data_set.indexes["train"]
    for place in places[::-1]:
        if (place / index).is_file():
            return place
    raise DataError(
        f"data.source {source}: no {index} here, in {data_set.folder}, or in"
        f" classification/{data_set.folder}."
    )
