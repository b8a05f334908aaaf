"""Heads on the pooled vector of a protein encoder, after Sledzieski et al. 2023.

The pooled vector is that of the encoder's own pooler, tanh(W_p h_CLS + b_p). ESM-2's checkpoints
hold no pooler: it is random, and frozen unless ``train_pooler`` says otherwise. It must be stored
with the adapter, see ``modules_to_save`` and ``save_frozen`` below.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from peftcore import ConfigError
from peftcore_protein.symmetry import SYMMETRIES

#: Inner width of the head.
INNER = 128


class PooledHead(nn.Module):
    """Two layers on a pooled vector, [B, d] to [B, outputs]."""

    def __init__(self, width: int, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.dense = nn.Linear(width, INNER)
        self.out_proj = nn.Linear(INNER, outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits."""
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(pooled)))))


class PooledEncoder(nn.Module):
    """An encoder with a pooler, and a head on the pooled vector.

    Attributes:
        encoder: a transformers' encoder with a pooler, such as ``EsmModel`` or ``BertModel``.
        classifier: the head.
        padding_value: id with which rows are to be padded.
        modules_to_save: roles that train in full with an adapter.
        save_frozen: roles that are stored with an adapter and not trained.
    """

    #: Number of logits.
    outputs: ClassVar[int]

    def __init__(
        self,
        encoder: PreTrainedModel,
        *,
        dropout: float = 0.0,
        train_pooler: bool = False,
        released_padding: bool = False,
    ):
        """Put a head on an encoder.

        Args:
            encoder: the encoder; its pooler is frozen here unless ``train_pooler``.
            dropout: before each of the two layers of the head.
            train_pooler: train the pooler in full, with the head.
            released_padding: pad and mask with 0 as the released code does. In ESM's vocabulary 0
                is the start token, so that the true one is masked as well.

        Raises:
            ConfigError: the encoder has no pooler or no padding token.
        """
        super().__init__()
        config = encoder.config
        pooler = getattr(encoder, "pooler", None)
        if pooler is None:
            raise ConfigError(
                f"{type(encoder).__name__} has no pooler; load the encoder with head: none."
            )
        if config.pad_token_id is None and not released_padding:
            raise ConfigError("the encoder's config.json has no pad_token_id; write it in there.")
        self.encoder = encoder
        self.classifier = PooledHead(config.hidden_size, self.outputs, dropout)
        self.padding_value: int = 0 if released_padding else config.pad_token_id
        self.modules_to_save = ("head", "pooler") if train_pooler else ("head",)
        self.save_frozen = () if train_pooler else ("pooler",)
        pooler.requires_grad_(train_pooler)

    def pooled(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the pooled vectors, [B, d], of tokens [B, L]; padding is masked by its id."""
        if attention_mask is None:
            attention_mask = (input_ids != self.padding_value).long()
        output: Tensor = self.encoder(input_ids, attention_mask=attention_mask).pooler_output
        return output

    def gradient_checkpointing_enable(self, **options: object) -> None:
        """Recompute the encoder's activations in the backward pass."""
        self.encoder.gradient_checkpointing_enable(**options)


class PPIModel(PooledEncoder):
    """Tells whether two proteins interact; symmetric in the pair.

    Both sequences of every pair go through the encoder as one batch of 2 B rows, pair by pair
    (``a0 b0 a1 b1 ...``): the encoder runs once, and whoever routes adapters by row gives one
    name a pair.
    """

    outputs = 1

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits [B] for pairs of token rows [B, 2, L], and the loss for labels [B]."""
        mask = None if attention_mask is None else attention_mask.flatten(0, 1)
        pooled = self.pooled(input_ids.flatten(0, 1), mask)
        pair = pooled.unflatten(0, (-1, 2)).mean(1)
        return _output(self.classifier(pair).squeeze(1), labels)


class SymmetryModel(PooledEncoder):
    """Tells the quaternary symmetry of a protein: 18 logits, several of which may be right."""

    outputs = len(SYMMETRIES)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Return logits [B, 18] for tokens [B, L], and the loss for targets [B, 18]."""
        return _output(self.classifier(self.pooled(input_ids, attention_mask)), labels)


def _output(logits: Tensor, labels: Tensor | None) -> SequenceClassifierOutput:
    loss = None
    if labels is not None:
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels.float())
    return SequenceClassifierOutput(loss=loss, logits=logits)
