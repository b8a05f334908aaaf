"""Masked expression: the pre-training of scBERT."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore_singlecell.cell_task import CellConfig, CellTask
from peftcore_train.logits import IGNORED, targets_of, token_loss, token_scores
from peftcore_train.task import Batch, Features

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class MaskedExpressionConfig(CellConfig):
    """The ``task`` section of masked expression."""

    mask_probability: float = Field(
        0.15, gt=0, lt=1, description="Part of the expressed genes of each cell to predict."
    )
    replace_probability: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Part of these that become the mask; the others stay, and are predicted too.",
    )


class MaskedExpression(CellTask):
    """Cross-entropy on the tokens of masked genes; those that are not expressed are left alone."""

    head = "masked-lm"
    modules_to_save = ("head",)
    metric_names = {"loss": False, "perplexity": False, "accuracy": True}

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        """Read a cell and mask it: of n expressed genes the next whole number from p n on."""
        config = self.config
        tokens = self.tokens(features)
        expressed = tokens.nonzero()[:, 0]
        count = math.ceil(config.mask_probability * len(expressed))
        chosen = expressed[torch.randperm(len(expressed), generator=generator)[:count]]
        masked = torch.rand(count, generator=generator) < config.replace_probability
        labels = torch.full_like(tokens, IGNORED)
        labels[chosen] = tokens[chosen]
        tokens = tokens.clone()
        tokens[chosen[masked]] = self.bins + 1
        return {**features, "tokens": tokens, "labels": labels}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Stack tokens, [B, N], and say which places predict which tokens."""
        if "labels" not in rows[0]:
            return {"input_ids": torch.stack([self.tokens(row) for row in rows])}
        batch: Batch = {"input_ids": torch.stack([row["tokens"] for row in rows])}
        labels = torch.stack([row["labels"] for row in rows])
        return {**batch, **targets_of(labels, shift=0)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the masked genes."""
        return token_loss(self._logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed loss, the right answers and the masked genes of each cell."""
        return token_scores(self._logits(model, batch), batch, len(batch["input_ids"]))

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a masked gene, and the share predicted right."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return token_metrics()

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits: Tensor = model(input_ids=batch["input_ids"])
        return logits.flatten(0, 1)[batch["places"]].float()
