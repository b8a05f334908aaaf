"""Embedding: texts that belong together become vectors that lie together."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import DataError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.regression import number
from peftcore_train.text import TokenConfig, encode_text, fills, padded, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_RETRIEVAL = {
    "mrr": True, "ndcg@10": True, "recall@1": True, "recall@5": True, "recall@10": True,
}  # fmt: skip
_SCORED = {"spearman": True, "pearson": True}


class EmbeddingConfig(TokenConfig):
    """The ``task`` section of embedding."""

    anchor_column: str = Field("anchor", description="Column of one text, such as a question.")
    positive_column: str = Field(
        "positive", description="Column of the text that belongs to it, or is compared with it."
    )
    negative_column: str | None = Field(
        None, description="Column of a text that does not belong to it, for triplets."
    )
    score_column: str | None = Field(
        None, description="Column of how alike the two texts are, instead of taking them as alike."
    )
    pooling: Literal["mean", "cls"] = Field(
        "mean", description="Vector of a text: mean of its tokens, or its first token."
    )
    loss: Literal["ranking", "cosent", "cosine"] | None = Field(
        None,
        description="`ranking`: the other texts of the batch are negatives (InfoNCE). With scores"
        " `cosent`, which asks for their order alone (also the default there), or `cosine`:"
        " squared error of the cosine, scores being between -1 and 1.",
    )
    temperature: float = Field(
        0.05, gt=0, description="Cosines are divided by it in `ranking` and `cosent`."
    )

    @model_validator(mode="after")
    def _loss_suits_columns(self) -> "EmbeddingConfig":
        scored = self.score_column is not None
        if scored and self.negative_column is not None:
            raise ValueError("score_column and negative_column do not go together")
        if self.loss is not None and (self.loss != "ranking") != scored:
            needs = "needs" if self.loss != "ranking" else "does not go with"
            raise ValueError(f"loss: {self.loss} {needs} a score_column")
        return self


class Embedding(Task):
    """Contrastive learning of text vectors, which are the normalised mean of the tokens'."""

    head = "none"
    default_metric = "mrr"
    metric_names: Mapping[str, bool] = {**_RETRIEVAL, **_SCORED}

    def __init__(self, config: EmbeddingConfig):
        super().__init__(config)
        self._tokenizer: Any = None
        scored = config.score_column is not None
        self.default_metric = "spearman" if scored else "mrr"
        self.metric_names = _SCORED if scored else _RETRIEVAL
        self._loss = config.loss or ("cosent" if scored else "ranking")

    def columns(self) -> Columns:
        """Return the column of the text that is embedded, and those of what is told of it."""
        anchor, *others = self._columns
        score = self.config.score_column
        return Columns((anchor,), (*others, *([score] if score else [])))

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has its texts, and its score where there are scores."""
        for row in rows:
            for column in self._columns:
                row.text(column)
            self._score(row)

    def whole_modules(self, fresh: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Train nothing in full: what the checkpoint lacks is a pooler, which is not read."""
        return self.modules_to_save, tuple(fresh)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the inputs of each of the row's texts; without its answer, of the first alone."""
        self._tokenizer = tokenizer_of(loaded)
        columns = self._columns if labelled else self._columns[:1]
        texts = [encode_text(self.config, row, [column], loaded) for column in columns]
        features: Features = {
            "texts": texts,
            "length": max(len(text["input_ids"]) for text in texts),
        }
        if labelled:
            features["known"] = [digest(row.text(column)) for column in columns]
            features["score"] = self._score(row)
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Put all first texts, all second ones and so on under one another, padded on the right."""
        parts = zip(*(row["texts"] for row in rows), strict=True)
        texts = [text for part in parts for text in part]
        batch: Batch = dict(padded(texts, fills(self._tokenizer, texts)))
        if "known" in rows[0]:
            batch["known"] = torch.tensor([row["known"] for row in rows])
            batch["similarity"] = torch.tensor([row["score"] for row in rows])
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of the batch, whose rows are one another's negatives or neighbours."""
        parts = self._parts(model, batch)
        if self._loss == "ranking":
            return ranking_loss(parts, batch["known"], self.config.temperature)
        cosines, scores = (parts[0] * parts[1]).sum(-1), batch["similarity"]
        if self._loss == "cosine":
            return F.mse_loss(cosines, scores)
        return cosent_loss(cosines, scores, self.config.temperature)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the vectors of each row, or the cosine of its two texts and their score."""
        parts = self._parts(model, batch)
        if self.config.score_column is not None:
            cosines = (parts[0] * parts[1]).sum(-1)
            return {"values": cosines[:, None], "target": batch["similarity"][:, None]}
        return {"vectors": torch.stack(parts, 1), "known": batch["known"]}

    def metrics(self) -> "MetricCollection":
        """Return how well each anchor finds its text among all, or how cosines follow scores."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import similarity_metrics
        from peftcore_train.retrieval import retrieval_metrics

        scored = self.config.score_column is not None
        return similarity_metrics() if scored else retrieval_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the vector of each anchor, of length 1."""
        return [{"embedding": vector} for vector in self._vectors(model, batch).tolist()]

    @property
    def _columns(self) -> list[str]:
        config = self.config
        negative = [config.negative_column] if config.negative_column else []
        return [config.anchor_column, config.positive_column, *negative]

    def _score(self, row: Row) -> float:
        if self.config.score_column is None:
            return math.nan
        score = number(row, self.config.score_column)
        if self._loss == "cosine" and abs(score) > 1:
            raise DataError(
                f"{row.where}: a score of {score:g} is no cosine; divide scores by the greatest, or"
                " take task.loss: cosent."
            )
        return score

    def _vectors(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = {k: v for k, v in batch.items() if k not in ("known", "similarity")}
        hidden = model(**inputs).last_hidden_state.float()
        if self.config.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = batch["attention_mask"][..., None].to(hidden)
            pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        return F.normalize(pooled, dim=-1)

    def _parts(self, model: nn.Module, batch: Batch) -> list[Tensor]:
        """Return the vectors of all first texts, of all second ones and so on, [B, D] each."""
        return list(self._vectors(model, batch).chunk(len(self._columns)))


def ranking_loss(parts: Sequence[Tensor], known: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of finding each anchor's own text among those of the batch.

    InfoNCE with in-batch negatives (Henderson et al. 2017, van den Oord et al. 2018), as
    ``MultipleNegativesRankingLoss`` of sentence-transformers. A text that equals the anchor's own,
    or that of an equal anchor, is no negative.

    Args:
        parts: vectors of length 1 of anchors, positives and perhaps negatives, [B, D] each.
        known: digests of the texts, [B, 2 or 3].
        temperature: what cosines are divided by.
    """
    cosines = parts[0] @ torch.cat(list(parts[1:])).T / temperature
    own = torch.arange(len(known), device=known.device)
    return F.cross_entropy(cosines.masked_fill(belongs(known), -math.inf), own)


def belongs(known: Tensor, rows: slice = slice(None)) -> Tensor:
    """Tell which candidates are as right as an anchor's own one, that one left out.

    Args:
        known: digests of anchors, positives and perhaps negatives, [B, 2 or 3].
        rows: the anchors that are asked for.

    Returns:
        [rows, candidates] of truth values; the candidates are all positives, then all negatives.
    """
    kinds, ids = known.unique(return_inverse=True)
    anchors, candidates = ids[:, 0], ids[:, 1:].T.flatten()
    pairs = anchors * len(kinds) + ids[:, 1]
    right = torch.isin(anchors[rows, None] * len(kinds) + candidates, pairs)
    own = torch.arange(len(known), device=known.device)[rows]
    right[torch.arange(len(own), device=known.device), own] = False
    return right


def cosent_loss(cosines: Tensor, scores: Tensor, temperature: float) -> Tensor:
    """Return log(1 + sum of exp((cosine_i - cosine_j) / temperature)), score_i below score_j.

    CoSENT (Su 2022), as ``CoSENTLoss`` of sentence-transformers.
    """
    differences = (cosines[:, None] - cosines) / temperature
    below = scores[:, None] < scores
    wrong = differences.masked_fill(~below, -math.inf).flatten()
    return torch.cat([wrong.new_zeros(1), wrong]).logsumexp(0)


def digest(text: str) -> int:
    """Return 63 bits that equal texts share."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
