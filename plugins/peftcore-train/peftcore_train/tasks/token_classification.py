"""Token classification: a label for each word of a text, or for each residue of a sequence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from nervaluate.utils import collect_named_entities
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import DataError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.logits import targets_of, token_scores
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.labels import Label, Labels, label_of
from peftcore_train.tasks.words import encode_words, words_of
from peftcore_train.text import (
    TokenConfig,
    fills,
    padded,
    reads_residues,
    residues_one_by_one,
    tokenizer_of,
)

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_IGNORED = -100
_PLAIN = {"loss": False, "accuracy": True, "f1": True, "mcc": True}
_BIO = {"loss": False, "accuracy": True, "f1": True, "precision": True, "recall": True}


class TokenClassificationConfig(TokenConfig):
    """The ``task`` section of token classification."""

    tokens_column: str = Field(
        "tokens", description="Column of the words, a list or a text; or of the sequence."
    )
    labels_column: str = Field(
        "labels", description="Column of as many labels: a list or a text of the same kind."
    )
    unit: Literal["word", "residue"] = Field(
        "word",
        description="What has a label. A text is cut at its blanks into words, or is a sequence of"
        " which each letter is a residue; its labels are cut likewise.",
    )
    scheme: Literal["auto", "plain", "bio"] = Field(
        "auto",
        description="`bio`: labels are `O`, `B-...` and `I-...` and mark entities, which are"
        " scored whole (IOB2). `auto` looks at the labels.",
    )
    ignored_label: str | None = Field(
        None, description="Label of what has none: it is neither trained on nor scored."
    )
    labels: tuple[Label, ...] | None = Field(
        None, min_length=2, description="The labels in order; sorted from the training rows."
    )

    @model_validator(mode="after")
    def _residues_are_spaced(self) -> "TokenClassificationConfig":
        if self.spaced and self.unit == "word":
            raise ValueError("spaced goes with unit: residue")
        return self


class TokenClassification(Task):
    """Cross-entropy at the first token of each word; the other tokens have no label."""

    head = "token-classification"
    modules_to_save = ("head",)
    default_metric = "f1"
    metric_names: Mapping[str, bool] = {**_PLAIN, **_BIO}

    def __init__(self, config: TokenClassificationConfig):
        super().__init__(config)
        self.labels = Labels(config.labels)
        self._tokenizer: Any = None
        if config.labels:
            self._settle()

    def columns(self) -> Columns:
        """Return the column of the words or residues, and that of their labels."""
        return Columns((self.config.tokens_column,), (self.config.labels_column,))

    def learn(self, rows: Sequence[Row]) -> None:
        """Take the labels from the training rows."""
        given = [self._given(row) for row in rows]
        self.labels.learn(label for labels in given for label in labels if not self._skips(label))
        pairs = [(label, row) for labels, row in zip(given, rows, strict=True) for label in labels]
        counts = Counter(
            self.labels.index(label, row) for label, row in pairs if not self._skips(label)
        )
        if len(counts) < 2:
            file = rows[0].where.rpartition(":")[0]
            raise DataError(f"{file}: there are not two labels in column {self._column!r}.")
        self._settle()

    @property
    def needs_rows(self) -> bool:
        """Whether the labels are still to be learned."""
        return not self.labels.all

    @property
    def marks_entities(self) -> bool:
        """Whether the labels are of the scheme BIO."""
        if self.config.scheme == "auto":
            return all(_is_bio(name) for name in self.labels.names)
        return bool(self.config.scheme == "bio")

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has words, and a known label for each."""
        for row in rows:
            self._targets(row, self._words(row))

    def learned(self) -> dict[str, Any]:
        """Return the labels in the order of the head's outputs."""
        return {"labels": list(self.labels.all)}

    def load_options(self) -> dict[str, Any]:
        """Return the number of labels."""
        return {"num_labels": len(self.labels)}

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the model's inputs, the first token of each word, and the tokens' labels."""
        self._tokenizer = tokenizer_of(loaded)
        words = self._words(row)
        changed: Mapping[str, int] = {}
        if self.config.unit == "residue":
            column = self.config.tokens_column
            words, changed = residues_one_by_one(self.config, row, column, words, loaded)
        apart = self.config.spaced or reads_residues(self.config, loaded)
        blank = "" if self.config.unit == "residue" and not apart else " "
        encoded, firsts = encode_words(self.config, row, words, loaded, blank=blank)
        length = len(encoded["input_ids"])
        features: Features = {**encoded, "firsts": firsts, "words": words, "length": length}
        if changed:
            features["changed"] = dict(changed)
        if labelled:
            labels = [_IGNORED] * length
            for first, target in zip(firsts, self._targets(row, words), strict=True):
                if first is not None:
                    labels[first] = target
            features["labels"] = labels
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right; padding has no label."""
        labels = {"labels": _IGNORED} if "labels" in rows[0] else {}
        batch: Batch = dict(padded(rows, {**fills(self._tokenizer, rows), **labels}))
        if not labels:
            batch |= {name: [row[name] for row in rows] for name in ("firsts", "words")}
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the labelled words of the batch."""
        logits, labels = self._logits(model, batch), batch["labels"]
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        # a row of which all labelled words were cut off has none
        return total / (labels != _IGNORED).sum().clamp(min=1)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return guesses and labels, [B, L], the loss of each row, and its numbers of entities."""
        logits, labels = self._logits(model, batch), batch["labels"]
        found = targets_of(labels, shift=0)
        scores = token_scores(logits.flatten(0, 1)[found["places"]], found, len(labels))
        guesses = logits.argmax(-1)
        if self.marks_entities:
            return scores | self._entity_counts(guesses, labels)
        return scores | {"preds": guesses, "target": labels}

    def metrics(self) -> "MetricCollection":
        """Return accuracy, and macro F1 and MCC of labels, or F1 of whole entities."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import entity_metrics, label_metrics

        return entity_metrics() if self.marks_entities else label_metrics(len(self.labels))

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label of each word, null for one that was cut off, and the entities."""
        guesses = self._logits(model, batch).argmax(-1).tolist()
        found = []
        for row, firsts, words in zip(guesses, batch["firsts"], batch["words"], strict=True):
            labels = [None if first is None else self.labels.all[row[first]] for first in firsts]
            one: dict[str, Any] = {"labels": labels}
            if self.marks_entities:
                one["entities"] = self._spelled(labels, words)
            found.append(one)
        return found

    @property
    def _column(self) -> str:
        return str(self.config.labels_column)

    def _settle(self) -> None:
        """Take the metrics of the scheme, once the labels are known.

        Raises:
            DataError: the scheme is BIO, and a label is not.
        """
        odd = next((name for name in self.labels.names if not _is_bio(name)), None)
        if self.config.scheme == "bio" and odd is not None:
            raise DataError(
                f"task.scheme is bio, but {odd!r} is a label: those of BIO are O, B-... and I-..."
                " Write scheme: plain."
            )
        self.metric_names = _BIO if self.marks_entities else _PLAIN

    def _words(self, row: Row) -> list[str]:
        column, residues = self.config.tokens_column, self.config.unit == "residue"
        return words_of(row.column(column), row, column, residues=residues)

    def _given(self, row: Row) -> list[Label]:
        value = row.column(self._column)
        if isinstance(value, list) and value:
            return [label_of(label, row) for label in value]
        residues = self.config.unit == "residue"
        return list(words_of(value, row, self._column, residues=residues))

    def _skips(self, label: Label) -> bool:
        return str(label) == self.config.ignored_label

    def _targets(self, row: Row, words: Sequence[str]) -> list[int]:
        """Return the index of each word's label, -100 for one without."""
        given = self._given(row)
        if len(given) != len(words):
            unit = self.config.unit
            raise DataError(
                f"{row.where}: {len(given)} labels for {len(words)} {unit}s; each {unit} has one."
            )
        targets = [
            _IGNORED if self._skips(label) else self.labels.index(label, row) for label in given
        ]
        if all(target == _IGNORED for target in targets):
            raise DataError(
                f"{row.where}: every label is {given[0]!r}, which task.ignored_label says to"
                " ignore. Leave the row out."
            )
        return targets

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        others = ("labels", "firsts", "words")
        inputs = {name: value for name, value in batch.items() if name not in others}
        logits: Tensor = model(**inputs).logits
        return logits.float()

    def _entity_counts(self, guesses: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return of each row how many entities are right, found, and there."""
        names = self.labels.names
        counts = []
        for guess, target in zip(guesses.tolist(), labels.tolist(), strict=True):
            labelled = [i for i, label in enumerate(target) if label != _IGNORED]
            found = set(entities([names[guess[i]] for i in labelled]))
            there = set(entities([names[target[i]] for i in labelled]))
            counts.append((len(found & there), len(found), len(there)))
        right, predicted, given = torch.tensor(counts, device=labels.device).unbind(1)
        return {"right": right, "predicted": predicted, "given": given}

    def _spelled(self, labels: Sequence[Label | None], words: Sequence[str]) -> list[Any]:
        blank = "" if self.config.unit == "residue" else " "
        # nothing is known of what was cut off
        spans = entities(["O" if label is None else str(label) for label in labels])
        return [
            {"type": kind, "start": start, "end": end, "text": blank.join(words[start:end])}
            for kind, start, end in spans
        ]


def entities(labels: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return type, start and end (excluded) of the entities that BIO labels mark.

    As conlleval reads them: one begins with ``B-``, with another type, or after ``O``.
    """
    found = collect_named_entities(list(labels))
    return [(one["label"], one["start"], one["end"] + 1) for one in found]


def _is_bio(label: str) -> bool:
    return label == "O" or (label[:2] in ("B-", "I-") and len(label) > 2)
