"""Masked language modelling: predict tokens that were masked at random (Devlin et al. 2019)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import ConfigError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch, Features, Task
from peftcore_train.text import TokenConfig, encode_text, fills, padded, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_IGNORED = -100


class MaskedLMConfig(TokenConfig):
    """The ``task`` section of masked language modelling."""

    text_column: str = Field("text", description="Column of the text or sequence.")
    mask_probability: float = Field(
        0.15,
        gt=0,
        lt=1,
        description="Part of the tokens to predict: 80 % of them become the mask token, 10 % a"
        " random token, 10 % stay. At least one token of each row is chosen.",
    )


class MaskedLM(Task):
    """Cross-entropy on the masked tokens."""

    head = "masked-lm"
    metric_names = {"loss": False, "perplexity": False, "accuracy": True}

    def __init__(self, config: MaskedLMConfig):
        super().__init__(config)
        self._tokenizer: Any = None

    def columns(self) -> Columns:
        """Return the column of the text."""
        return Columns((self.config.text_column,))

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a text."""
        for row in rows:
            row.text(self.config.text_column)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the model's inputs and the places that may be masked."""
        self._tokenizer = tokenizer_of(loaded)
        if self._tokenizer.mask_token_id is None:
            raise ConfigError(f"backbone.source {loaded.source}: its tokenizer has no mask token.")
        features: Features = encode_text(self.config, row, [self.config.text_column], loaded)
        special = set(self._tokenizer.all_special_ids)
        places = [i for i, token in enumerate(features["input_ids"]) if token not in special]
        return {**features, "places": places, "length": len(features["input_ids"])}

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        """Mask: 80 % of the chosen tokens by the mask token, 10 % by a random one."""
        places = features["places"]
        ids, labels = list(features["input_ids"]), [_IGNORED] * len(features["input_ids"])
        draws = torch.rand(len(places), generator=generator).tolist()
        kinds = torch.rand(len(places), generator=generator).tolist()
        words = torch.randint(len(self._tokenizer), (len(places),), generator=generator).tolist()
        threshold = max(self.config.mask_probability, min(draws, default=0.0))
        for place, draw, kind, word in zip(places, draws, kinds, words, strict=True):
            if draw > threshold:
                continue
            labels[place] = ids[place]
            if kind < 0.8:
                ids[place] = self._tokenizer.mask_token_id
            elif kind < 0.9:
                ids[place] = word
        return {**features, "input_ids": ids, "labels": labels}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right; nothing is predicted at padding."""
        labels = {"labels": _IGNORED} if "labels" in rows[0] else {}
        return dict(padded(rows, {**fills(self._tokenizer, rows), **labels}))

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the masked tokens."""
        logits, labels = self._logits(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed loss, the right answers and the masked tokens of each row."""
        logits, labels = self._logits(model, batch)
        return token_scores(logits, labels)

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, and the share predicted right."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return token_metrics()

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs = {k: v for k, v in batch.items() if k != "labels"}
        return model(**inputs).logits.float(), batch["labels"]


def token_scores(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Return loss, right answers and number of tokens of each row, [B].

    Args:
        logits: [B, L, V], at the places whose tokens the labels name.
        labels: [B, L], -100 where nothing is predicted.
    """
    losses = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    predicted = labels != _IGNORED
    return {
        "loss": losses.sum(1),
        "correct": ((logits.argmax(-1) == labels) & predicted).sum(1),
        "count": predicted.sum(1),
    }
