"""Masked language modelling: predict tokens that were masked at random (Devlin et al. 2019)."""

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import ConfigError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.logits import IGNORED, logits_at, targets_of
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.masked_tokens import MaskedTokens
from peftcore_train.text import TokenConfig, encode_text, fills, padded, tokenizer_of


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


class MaskedLM(MaskedTokens):
    """Cross-entropy on the masked tokens of texts."""

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
        ids, labels = list(features["input_ids"]), [IGNORED] * len(features["input_ids"])
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
        fill = fills(self._tokenizer, rows)
        if "labels" not in rows[0]:
            return dict(padded(rows, fill))
        batch = padded(rows, {**fill, "labels": IGNORED})
        return {**batch, **targets_of(batch["labels"], shift=0)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the masked places in single precision, [N, V]."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        inputs = {name: batch[name] for name in names if name in batch}
        return logits_at(model, batch["places"], **inputs)
