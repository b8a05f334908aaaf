"""Audio classification: one label for a recording, from folders, tables, or released corpora."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from peftcore import DataError, Loaded, nearest
from peftcore_speech.corpora import CORPORA, Corpus
from peftcore_speech.folds import Apart, name_of
from peftcore_speech.heads import LayersClassifier
from peftcore_speech.hearing import Hearing, RecordingConfig, narrow
from peftcore_speech.reading import Recordings
from peftcore_speech.waveform import frames_of
from peftcore_train.data import Columns, Row, report
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.labels import LabelConfig
from peftcore_train.tasks.one_file import OneFile

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_FAIRNESS = dict.fromkeys(
    ("statistical_parity", "equality_of_opportunity", "demographic_parity"), False
)


class AudioClassificationConfig(RecordingConfig, LabelConfig):
    """The ``task`` section of audio classification."""

    corpus: Literal["iemocap", "msp-improv", "crema-d", "msp-podcast"] | None = Field(
        None,
        description="The corpus that `data.source` is the folder of, as released; its columns are"
        " `audio`, `label`, `speaker`, `gender` and, where it has sessions, `session`.",
    )
    fold_column: str | None = Field(
        None,
        description="Column of what a fold leaves out, a session or a speaker, where the data has"
        " no splits. A corpus knows its own.",
    )
    folds: int | None = Field(
        None, ge=2, le=1000, description="Number of folds; the corpus's own, or 5."
    )
    fold: int = Field(1, ge=1, description="The fold that is tested, from 1 on.")
    speaker_column: str | None = Field(
        None, description="Column of who speaks: a speaker in two splits is an error."
    )
    group_column: str | None = Field(
        None, description="Column of groups, such as `gender`, between which fairness is scored."
    )
    groups: tuple[str, ...] | None = Field(
        None, min_length=2, description="The groups; sorted from the training rows."
    )
    head: Literal["mean", "layers"] = Field(
        "mean",
        description="`mean`: transformers' head on the mean of the last layer's frames; `layers`:"
        " PEFT-SER's, convolutions on a weighted sum of all layers.",
    )
    hidden: int = Field(256, ge=1, le=65_536, description="Width of the head `layers`.")
    head_dropout: float = Field(0.1, ge=0, lt=1, description="Dropout of the head `layers`.")
    sum_embedded: bool = Field(
        False, description="The head `layers` sums what enters the first layer as well."
    )

    @model_validator(mode="after")
    def _fields_fit(self) -> "AudioClassificationConfig":
        own = CORPORA[self.corpus].folds if self.corpus else 0
        split = self.fold_column is not None or own
        most = self.folds or own or 5
        if not split and (self.folds is not None or self.fold != 1):
            raise ValueError("fold and folds go with a fold_column, or a corpus that has folds")
        if self.corpus and self.fold_column:
            raise ValueError(f"fold_column: {self.corpus} knows its own; leave it out")
        if split and self.fold > most:
            raise ValueError(f"fold is {self.fold}, but there are {most} folds")
        if self.groups and not self.group_column:
            raise ValueError("groups go with a group_column")
        return self

    @property
    def released(self) -> Corpus | None:
        """The corpus, where one is named."""
        return CORPORA[self.corpus] if self.corpus else None


class AudioClassification(OneFile):
    """Cross-entropy of the label of a recording; files are read for each batch."""

    length_unit = "samples"

    def __init__(self, config: AudioClassificationConfig):
        if config.released and config.labels is None:
            config = config.model_copy(update={"labels": config.released.labels})
        super().__init__(config)
        self.hearing = Hearing(config)
        self.head = "none" if config.head == "layers" else "audio-classification"
        self.groups = list(config.groups or ())
        self._recordings = Recordings(config)
        self._speakers = Apart(config.speaker_column) if config.speaker_column else None
        self._frames: Any = None
        self._name_metrics()

    def columns(self) -> Columns:
        """Return the columns of the recording, of its label, and of who speaks."""
        label = self.config.label_column
        more = dict.fromkeys(
            name
            for name in (
                self.config.group_column, self.config.speaker_column, self.config.fold_column,
            )
            if name
        )  # fmt: skip
        return Columns((self.config.file_column,), (label, *more), label, files=True)

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split, of a fold where there are folds."""
        found: list[DataError] = []
        rows = self._recordings.split(data, split, self.columns(), found)
        if self._speakers is not None:
            found += self._speakers.check(rows, split)
        report(found, problems)
        return rows

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the labels, their frequencies and the groups from the training rows."""
        super().learn(rows)
        if (column := self.config.group_column) and not self.groups:
            self.groups = sorted({name_of(row, column) for row in rows})
            if len(self.groups) < 2:
                file = rows[0].where.rpartition(":")[0]
                raise DataError(
                    f"{file}: every row has the {column} {self.groups[0]!r}; fairness is between"
                    " two groups at least. Leave task.group_column out."
                )
        self._name_metrics()

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the head's outputs, and the groups."""
        return {**super().learned(), **({"groups": self.groups} if self.groups else {})}

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a label, its groups, and a recording that can be heard."""
        super().check(rows)
        _, *names = self.columns().answers
        for row in rows:
            for column in names:
                name_of(row, column)
            if self.config.group_column:
                self._group(row)

    def look(self, row: Row) -> Path:
        """Hear the recording of a row, and return where it is."""
        return self.hearing.look(row)

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels, where the head is transformers'."""
        return {} if self.config.head == "layers" else super().load_options()

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model under its head, of Whisper the encoder alone."""
        network: Any = loaded.model
        encoder = network.encoder if network.config.is_encoder_decoder else network
        narrow(encoder, self.config.window_seconds, loaded.source)
        if self.config.head == "mean":
            return loaded.model
        config = self.config
        return LayersClassifier(
            encoder,
            len(self.labels),
            config.hidden,
            config.head_dropout,
            embedded=config.sum_embedded,
        ).eval()

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the recording's path, its number of samples, and the index of the label."""
        self.hearing.learn_model(loaded)
        self._frames = loaded.model.config
        features = super().encode(row, loaded, labelled=labelled)
        if labelled and self.config.group_column:
            features["group"] = self._group(row)
        return {**features, "length": self.hearing.length(Path(features["file"]), row)}

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Return features with a seed of what happens to their recording in training."""
        return self.hearing.distort(features, generator)

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return what the model takes of the recordings, and the answers."""
        batch = {**self.hearing.batch(rows), **self.targets(rows)}
        if self.config.head == "layers":
            batch["frames"] = torch.tensor([self._real(row["length"]) for row in rows])
        if "group" in rows[0]:
            batch["group"] = torch.tensor([row["group"] for row in rows])
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the head's outputs, [B, C], in single precision."""
        return super().logits(model, {k: v for k, v in batch.items() if k != "group"})

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return predictions, targets, groups and the plain cross-entropy of each row."""
        scores = super().score(model, batch)
        if "group" in batch:
            scores |= {"predicted": scores["preds"].argmax(-1), "group": batch["group"]}
        return scores

    def metrics(self) -> "MetricCollection":
        """Return those of one label, the mean recall of a label, and fairness between groups."""
        # seconds of imports, which nothing but scoring needs
        from torchmetrics.classification import MulticlassRecall

        from peftcore_speech.fairness import fairness_metrics

        metrics = super().metrics()
        metrics.add_metrics({"uar": MulticlassRecall(len(self.labels), average="macro")})
        if self.config.group_column:
            metrics.add_metrics(fairness_metrics(len(self.groups), len(self.labels)))
        return metrics

    def _name_metrics(self) -> None:
        fairness: Mapping[str, bool] = _FAIRNESS if self.config.group_column else {}
        self.metric_names = {**self.kind.metric_names, "uar": True, **fairness}

    def _group(self, row: Row) -> int:
        name = name_of(row, self.config.group_column)
        if name not in self.groups:
            raise DataError(
                f"{row.where}: the {self.config.group_column} {name!r} is not among those of"
                f" training: {', '.join(self.groups)}.{nearest(name, self.groups)}"
            )
        return self.groups.index(name)

    def _real(self, samples: int) -> int:
        """Return how many frames of the model a number of samples makes."""
        if self.hearing.is_raw:
            return max(1, frames_of(self._frames, samples))
        return max(1, (samples // self.hearing.hop - 1) // 2 + 1)
