"""What tasks share that answer for a whole text, or for a pair of texts, with one head."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import Loaded
from peftcore_train.data import Row
from peftcore_train.task import Batch, Features, Task
from peftcore_train.text import TokenConfig, encode_text, fills, padded, tokenizer_of


class WholeTextConfig(TokenConfig):
    """Fields of every task on whole texts."""

    text_column: str = Field("text", description="Column of the text or sequence.")
    pair_column: str | None = Field(
        None, description="Column of a second text, encoded together with the first."
    )


class WholeText(Task):
    """Reads the logits of the head of ``AutoModelForSequenceClassification``."""

    head = "sequence-classification"
    modules_to_save = ("head",)

    def __init__(self, config: WholeTextConfig):
        super().__init__(config)
        self._tokenizer: Any = None

    def answer(self, row: Row) -> Any:
        """Return what the head is to say of a row, as numbers of one type and shape.

        Raises:
            DataError: the row has no such answer.
        """
        raise NotImplementedError

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has its texts and its answer."""
        for row in rows:
            for column in self.texts:
                row.text(column)
            self.answer(row)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the model's inputs, the length, and the answer."""
        self._tokenizer = tokenizer_of(loaded)
        features: Features = encode_text(self.config, row, self.texts, loaded)
        features["length"] = len(features["input_ids"])
        if labelled:
            features["answer"] = self.answer(row)
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right; the answers become ``target``."""
        batch: Batch = dict(padded(rows, fills(self._tokenizer, rows)))
        if "answer" in rows[0]:
            batch["target"] = torch.tensor([row["answer"] for row in rows])
        return batch

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the head's outputs, [B, C], in single precision."""
        inputs = {k: v for k, v in batch.items() if k != "target"}
        logits: Tensor = model(**inputs).logits
        return logits.float()

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns of the texts."""
        pair = self.config.pair_column
        return (self.config.text_column, *([pair] if pair else []))
