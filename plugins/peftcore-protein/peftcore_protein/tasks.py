"""The two tasks of Sledzieski et al. 2023: do two proteins interact, and how is one symmetric."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from peftcore import DataError, Loaded, Strict
from peftcore_protein.heads import PooledEncoder, PPIModel, SymmetryModel
from peftcore_protein.symmetry import SYMMETRIES, symmetry_target
from peftcore_protein.tokens import tokenize
from peftcore_train.data import Columns, Row
from peftcore_train.residues import Changed, Rare
from peftcore_train.task import Batch, Features, Task
from peftcore_train.text import most_tokens, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class ProteinConfig(Strict):
    """Fields of both tasks."""

    max_length: int | None = Field(
        1024, ge=3, description="Most tokens of a sequence, special tokens included."
    )
    truncation: bool = Field(
        True, description="Cut longer sequences, as the paper does; otherwise they are an error."
    )
    rare_residues: Rare = Field(
        "x",
        description="What U, O, B, Z and J become where the vocabulary lacks them: `x`, the"
        " `nearest` residue (C, K, D, E, L), or an error (`refuse`).",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Before each layer of the head.")
    train_pooler: bool = Field(
        False,
        description="Train the pooler, which the checkpoint does not hold. The released code"
        " leaves it random and frozen; it is stored with the adapter either way.",
    )
    released_padding: bool = Field(
        False,
        description="Pad and mask with id 0 as the released code does, which in ESM's vocabulary"
        " also masks the start token.",
    )


class PPIConfig(ProteinConfig):
    """The ``task`` section of ``protein-ppi``."""

    first_column: str = Field("s0", description="Column of one sequence.")
    second_column: str = Field("s1", description="Column of the other sequence.")
    label_column: str = Field("label", description="Column of 0 or 1.")


class SymmetryConfig(ProteinConfig):
    """The ``task`` section of ``protein-symmetry``."""

    sequence_column: str = Field("sequence", description="Column of the sequence.")
    label_column: str = Field("label", description="Column of symmetries, blanks between them.")
    released_labels: bool = Field(
        False, description="Add up symmetries of one class, so that `C7 C8` is a target of 2."
    )


class ProteinTask(Task):
    """What both tasks share: an encoder with its pooler, and residues as tokens."""

    modules_to_save = ("head",)
    model_class: ClassVar[type[PooledEncoder]]

    def __init__(self, config: ProteinConfig):
        super().__init__(config)
        self._padding = 0

    @property
    def needs_rows(self) -> bool:
        """Whether the head depends on the rows; its size is fixed."""
        return False

    def build(self, loaded: Loaded) -> nn.Module:
        """Put the head on the encoder."""
        model = self.model_class(
            cast(PreTrainedModel, loaded.model),
            dropout=self.config.dropout,
            train_pooler=self.config.train_pooler,
            released_padding=self.config.released_padding,
        )
        self._padding = model.padding_value
        return model.eval()

    def whole_modules(self, fresh: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Train the head, and the pooler if asked; a random pooler is stored in any case."""
        if self.config.train_pooler:
            return (*self.modules_to_save, "pooler"), ()
        return self.modules_to_save, tuple(fresh)

    def tokens(self, row: Row, columns: Sequence[str], loaded: Loaded) -> Features:
        """Return the tokens of the sequences of some columns as ``ids``, and what is told of them.

        Raises:
            DataError: it holds something that is no residue, or is too long.
        """
        tokenizer, changed = tokenizer_of(loaded), Counter[str]()
        limit = most_tokens(self.config.max_length, loaded)
        ids = [self._ids(row, column, tokenizer, limit, changed) for column in columns]
        return {
            "ids": ids,
            "length": max(map(len, ids)),
            "tokens": sum(map(len, ids)),
            "unknown": sum(one.count(tokenizer.unk_token_id) for one in ids),
            **({"changed": dict(changed)} if changed else {}),
        }

    def _ids(
        self, row: Row, column: str, tokenizer: Any, limit: int | None, changed: Changed
    ) -> list[int]:
        cut = limit if self.config.truncation else None
        rare, text = self.config.rare_residues, row.text(column)
        try:
            (ids,) = tokenize([text], tokenizer, max_length=cut, rare=rare, changed=changed)
        except DataError as error:
            reason = str(error).removeprefix("row 1: ")
            raise DataError(f"{row.where}: column {column!r}: {reason}") from None
        if limit is not None and len(ids) > limit:
            raise DataError(
                f"{row.where}: column {column!r} has {len(ids)} tokens, but only {limit} fit."
                " Cut it with task.truncation: true, or leave the row out."
            )
        return ids

    def padded(self, rows: Sequence[list[int]]) -> Tensor:
        """Return [B, L] ids, padded on the right; the model masks padding by its id."""
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[self._padding] * (longest - len(row))] for row in rows])

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the binary cross-entropy of the logits."""
        logits = model(batch["input_ids"]).logits.float()
        return F.binary_cross_entropy_with_logits(logits, batch["target"])


class ProteinPPI(ProteinTask):
    """Do two proteins interact? Binary cross-entropy on the mean of their pooled vectors."""

    model_class = PPIModel
    default_metric = "aupr"
    metric_names = {"loss": False} | dict.fromkeys(
        ("accuracy", "aupr", "precision", "recall", "f1", "mcc", "specificity"), True
    )

    def columns(self) -> Columns:
        """Return the columns of both sequences, and that of the label."""
        config = self.config
        pair, label = (config.first_column, config.second_column), config.label_column
        return Columns(pair, (label,), label)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has two sequences and a label of 0 or 1."""
        for row in rows:
            row.text(self.config.first_column)
            row.text(self.config.second_column)
            self._label(row)

    def learn(self, rows: Sequence[Row]) -> None:
        """Check that both labels are there to be learned."""
        if len(labels := {self._label(row) for row in rows}) < 2:
            file = rows[0].where.rpartition(":")[0]
            raise DataError(f"{file}: every row has the label {labels.pop():.0f}.")

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of both sequences."""
        features = self.tokens(row, self.columns().inputs, loaded)
        return {**features, "label": self._label(row)} if labelled else features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return ids [B, 2, L]."""
        ids = self.padded([ids for row in rows for ids in row["ids"]])
        batch: Batch = {"input_ids": ids.unflatten(0, (-1, 2))}
        if "label" in rows[0]:
            batch["target"] = torch.tensor([row["label"] for row in rows])
        return batch

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the probability of interaction, the target and the loss of each row."""
        logits = model(batch["input_ids"]).logits.float()
        target = batch["target"]
        return {
            "preds": logits.sigmoid(),
            "target": target.long(),
            "loss": F.binary_cross_entropy_with_logits(logits, target, reduction="none"),
            "count": torch.ones_like(target),
        }

    def metrics(self) -> "MetricCollection":
        """Return accuracy, AUPR, precision, recall, F1, MCC and specificity."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_protein.metrics import interaction_metrics

        return interaction_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the label and the probability of interaction."""
        chances = model(batch["input_ids"]).logits.float().sigmoid().tolist()
        return [{"label": int(chance >= 0.5), "probability": chance} for chance in chances]

    def _label(self, row: Row) -> float:
        label = row.column(self.config.label_column)
        if isinstance(label, bool) or str(label) not in ("0", "1"):
            raise DataError(f"{row.where}: label {label!r} is neither 0 nor 1.")
        return float(label)


class ProteinSymmetry(ProteinTask):
    """Which quaternary symmetries does a protein have? 18 labels, several may be right."""

    model_class = SymmetryModel
    default_metric = "aupr"
    metric_names = (
        {"loss": False}
        | dict.fromkeys(
            ("accuracy", "aupr", "precision", "recall", "f1", "mcc", "specificity"), True
        )
        | {
            f"{name}.{i}": True
            for name in ("class_accuracy", "class_aupr", "class_f1")
            for i in range(len(SYMMETRIES))
        }
    )

    def columns(self) -> Columns:
        """Return the columns of the sequence and of its symmetries."""
        label = self.config.label_column
        return Columns((self.config.sequence_column,), (label,), label)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a sequence and a label."""
        for row in rows:
            row.text(self.config.sequence_column)
            row.text(self.config.label_column)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens and the target."""
        features = self.tokens(row, self.columns().inputs, loaded)
        if labelled:
            label = row.text(self.config.label_column)
            features["target"] = symmetry_target(label, released=self.config.released_labels)
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return ids [B, L] and targets [B, 18]."""
        batch: Batch = {"input_ids": self.padded([ids for row in rows for ids in row["ids"]])}
        if "target" in rows[0]:
            batch["target"] = torch.stack([row["target"] for row in rows])
        return batch

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return sigmoids [B, 18], the first class of each target, and the loss of each row."""
        logits, target = model(batch["input_ids"]).logits.float(), batch["target"]
        losses = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        return {
            "preds": logits.sigmoid(),
            "target": target.argmax(1),
            "loss": losses.sum(1),
            "count": torch.full_like(target[:, 0], target.shape[1]),
        }

    def metrics(self) -> "MetricCollection":
        """Return macro metrics of the 18 classes, and AUPR, accuracy and F1 of each."""
        # as above
        from peftcore_protein.metrics import symmetry_metrics

        return symmetry_metrics(len(SYMMETRIES))

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the likeliest class and the probability of every class."""
        chances = model(batch["input_ids"]).logits.float().sigmoid().cpu()
        names = class_names()
        return [
            {
                "label": names[int(row.argmax())],
                "probabilities": dict(zip(names, row.tolist(), strict=True)),
            }
            for row in chances
        ]


def class_names() -> list[str]:
    """Return a name for each of the 18 classes: ``C1``, ``C7-C9``, ``other``."""
    ends = [(group[0], group[-1]) if group else ("other", "other") for group in SYMMETRIES]
    return [first if first == last else f"{first}-{last}" for first, last in ends]
