"""Masked expression: the pre-training of scBERT."""

import math
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore_singlecell.cell_task import CellConfig, CellTask
from peftcore_train.logits import IGNORED, targets_of
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.masked_tokens import MaskedTokens


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


class MaskedExpression(MaskedTokens, CellTask):
    """Cross-entropy on the tokens of masked genes; those that are not expressed are left alone."""

    modules_to_save = ("head",)

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

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the masked genes in single precision, [N, V]."""
        logits: Tensor = model(input_ids=batch["input_ids"])
        return logits.flatten(0, 1)[batch["places"]].float()
