"""Video retrieval: texts find their videos, and videos their texts, by CLIP's two towers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.schema import Split
from peftcore_train.task import Batch, Features, inner
from peftcore_train.tasks.embedding import digest
from peftcore_video.videos import Videos, VideosConfig, check_towers, pooled, spread

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_WORTH = {
    "recall@1": True, "recall@5": True, "recall@10": True, "median_rank": False, "mean_rank": False,
}  # fmt: skip
#: Names of the metrics, and whether greater is better.
METRICS = {f"{d}_{n}": up for d in ("text_to_video", "video_to_text") for n, up in _WORTH.items()}


class VideoRetrievalConfig(VideosConfig):
    """The ``task`` section of video retrieval."""

    similarity: Literal["mean", "fine"] = Field(
        "mean",
        description="Cosine of the text and the mean of the frames; or `fine`, half the mean over"
        " the words of the best frame of each and half that over the frames of the best word.",
    )


class VideoRetrieval(Videos):
    """InfoNCE in both directions over a batch, at CLIP's own temperature; a row is a pair.

    Frames are encoded one by one and know nothing of their order, as in CLIP4Clip's mean pooling
    (Luo et al. 2021). Another caption of the same video is no negative.
    """

    default_metric = "text_to_video_recall@1"
    metric_names = METRICS

    def columns(self) -> Columns:
        """Return the columns of the pair, which is no answer but what is looked at."""
        return Columns((self.config.video_column, self.config.caption_column))

    def arranged(self, rows: list[Row], split: Split) -> list[Row]:
        """Return a row for each caption of each video."""
        name = self.config.caption_column
        return [
            replace(row, values={**row.values, name: text})
            for row in rows
            for text in row.values[name]
        ]

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a text and a video that can be decoded."""
        for row in rows:
            row.text(self.config.caption_column)
            self.look(row)

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model, which must be the whole of CLIP."""
        check_towers(loaded, "video-retrieval")
        return super().build(loaded)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return where the video is, and the tokens of the text."""
        found = {
            **self.named(row, loaded),
            **self.tokens(row.text(self.config.caption_column), row, loaded),
        }
        return {**found, "known": digest(found["video"]), "length": len(found["input_ids"])}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Stack the frames of all videos, and pad the texts."""
        known = torch.tensor([row["known"] for row in rows])
        return {**self.pictures(rows), **self.padded(rows), "known": known}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean of both directions' cross-entropy of finding the other one of a pair."""
        network: Any = inner(model)
        found = self.vectors(model, batch)
        scale = network.logit_scale.exp().clamp(max=100)
        return contrastive_loss(scale * self.alike(found), batch["known"])

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the vectors of each row, as wide as any row of the task can be."""
        found = self.vectors(model, batch)
        if self.config.similarity == "mean":
            return {**found, "known": batch["known"]}
        most: Any = inner(model)
        words = most.config.text_config.max_position_embeddings
        frames = self.config.frames
        return {
            "frames": _wide(found["frames"], frames),
            "seen": _wide(found["seen"], frames),
            "words": _wide(found["words"], words),
            "read": _wide(found["read"], words),
            "known": batch["known"],
        }

    def metrics(self) -> "MetricCollection":
        """Return recall and ranks in both directions, among all videos and texts of the split."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_video.ranks import retrieval_metrics

        return retrieval_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the vectors of each pair, of length 1, and their cosine."""
        found = self.pooled(model, batch)
        frames, words = found["frames"][:, 0], found["words"][:, 0]
        rows = zip(frames, words, (frames * words).sum(-1), strict=True)
        return [
            {"similarity": float(s), "video_embedding": v.tolist(), "text_embedding": t.tolist()}
            for v, t, s in rows
        ]

    def vectors(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return what is compared, as :func:`peftcore_video.ranks.similarity` takes it."""
        if self.config.similarity == "mean":
            return self.pooled(model, batch)
        out = _run(model, batch)
        network: Any = inner(model)
        words = network.text_projection(out.text_model_output.last_hidden_state).float()
        return {
            "frames": spread(out.image_embeds.float(), batch["seen"]),
            "seen": batch["seen"],
            "words": F.normalize(words, dim=-1),
            "read": batch["attention_mask"].bool(),
        }

    def pooled(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return one vector for each video, the mean of its frames', and one for each text."""
        out = _run(model, batch)
        return as_pairs(spread(out.image_embeds.float(), batch["seen"]), out.text_embeds)

    @staticmethod
    def alike(found: Mapping[str, Tensor]) -> Tensor:
        """Return how alike all texts and videos of a batch are, [B, B]."""
        from peftcore_video.ranks import similarity

        return similarity(found["frames"], found["seen"], found["words"], found["read"])


def as_pairs(frames: Tensor, text_embeds: Tensor) -> dict[str, Tensor]:
    """Return one vector for each video, the mean of its frames', and one for each text.

    Args:
        frames: [B, T, D] of length 1; zero where there is none.
        text_embeds: [B, D] of length 1.
    """
    there = torch.ones(len(frames), 1, dtype=torch.bool, device=frames.device)
    words = text_embeds.float()[:, None]
    return {"frames": pooled(frames)[:, None], "seen": there, "words": words, "read": there}


def contrastive_loss(logits: Tensor, known: Tensor) -> Tensor:
    """Return InfoNCE of texts and videos, both directions halved (Radford et al. 2021).

    Args:
        logits: [B, B], texts by videos.
        known: [B], which rows of one video share; such pairs are no negatives of each other.
    """
    own = torch.arange(len(known), device=known.device)
    same = (known[:, None] == known) & (own[:, None] != own)
    logits = logits.masked_fill(same, -torch.inf)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _run(model: nn.Module, batch: Batch) -> Any:
    names = ("input_ids", "attention_mask", "pixel_values")
    return model(**{name: batch[name] for name in names})


def _wide(values: Tensor, width: int) -> Tensor:
    """Return values with a second axis of a width, filled up with zeros."""
    out = values.new_zeros(len(values), width, *values.shape[2:])
    out[:, : values.shape[1]] = values
    return out
