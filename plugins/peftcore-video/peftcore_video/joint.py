"""Retrieval and captioning of videos at once: AGAdapter's two tasks, trained on one sum of losses.

A reconstruction: that one system is trained for both is the abstract's (Fang et al. 2023); the sum
and its weights are chosen here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from peftcore import ConfigError, Loaded
from peftcore_train.data import Row
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.embedding import digest
from peftcore_video.captioning import VideoCaptioning, VideoCaptioningConfig
from peftcore_video.retrieval import METRICS, as_pairs, contrastive_loss

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class VideoJointConfig(VideoCaptioningConfig):
    """The ``task`` section of both at once."""

    retrieval_weight: float = Field(
        1.0, ge=0, le=1e6, description="Factor of the contrastive loss of videos and captions."
    )
    caption_weight: float = Field(
        1.0, ge=0, le=1e6, description="Factor of the loss of a caption's tokens."
    )

    @model_validator(mode="after")
    def _trains_something(self) -> "VideoJointConfig":
        if not self.retrieval_weight and not self.caption_weight:
            raise ValueError("retrieval_weight and caption_weight are both 0; nothing would train")
        return self


class VideoJoint(VideoCaptioning):
    """The sum of InfoNCE on CLIP's two towers and of the cross-entropy of captions.

    Both read the same caption of a video; retrieval is scored on the first one of each.
    Instructions in text alone have no part in retrieval.
    """

    metric_names = {"caption_loss": False, **METRICS}
    default_metric = "text_to_video_recall@1"

    def __init__(self, config: VideoJointConfig):
        super().__init__(config)
        captions = {name: up for name, up in self.metric_names.items() if name != "loss"}
        self.metric_names = {**type(self).metric_names, **captions}

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return what captioning does, and each caption in the tokens of CLIP's text tower."""
        found = super().encode(row, loaded, labelled=labelled)
        if not labelled or "video" not in found:
            return found
        found["texts"] = [self.tokens(text, row, loaded) for text in found["references"]]
        return {**found, "known": digest(found["video"])}

    def of_towers(self, loaded: Loaded) -> Any:
        """Return the tokenizer of CLIP's text tower.

        Raises:
            ConfigError: it was loaded without one.
        """
        tokenizer = getattr(loaded.tokenizer, "towers", None)
        if tokenizer is None:
            raise ConfigError(
                f"backbone.source {loaded.source}: no tokenizer there. Save CLIP's beside the"
                " weights with tokenizer.save_pretrained."
            )
        return tokenizer

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return what captioning does, and the captions of videos for the text tower."""
        batch = super().collate(rows)
        videos = [i for i, row in enumerate(rows) if "texts" in row]
        if not videos:
            return batch
        texts = self.padded([rows[i]["texts"][rows[i].get("drawn", 0)] for i in videos])
        batch |= {"text_ids": texts["input_ids"], "text_mask": texts["attention_mask"]}
        batch["videos"] = torch.tensor(videos)
        batch["known"] = torch.tensor([rows[i]["known"] for i in videos])
        return batch

    def run(self, model: nn.Module, batch: Batch) -> Any:
        """Return what the model says of a batch with labels, and of texts for its text tower."""
        names = ("input_ids", "attention_mask", "pixel_values", "seen", "labels")
        texts = {name: batch[name] for name in ("text_ids", "text_mask") if name in batch}
        return model(**{name: batch[name] for name in names}, **texts)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the weighted sum of both losses."""
        out = self.run(model, batch)
        loss: Tensor = self.config.caption_weight * self.caption_loss(out, batch)
        if "videos" not in batch:
            return loss
        pairs = as_pairs(out.frames[batch["videos"]], out.text_embeds)
        logits = out.scale * pairs["words"][:, 0] @ pairs["frames"][:, 0].T
        return loss + self.config.retrieval_weight * contrastive_loss(logits, batch["known"])

    def scored(self, out: Any, batch: Batch) -> dict[str, Tensor]:
        """Return what captioning does, and the vectors of videos and captions."""
        pairs = as_pairs(out.frames[batch["videos"]], out.text_embeds)
        return {**super().scored(out, batch), **pairs, "known": batch["known"]}

    def metrics(self) -> "MetricCollection":
        """Return the metrics of both tasks; the loss is that of captions."""
        from peftcore_video.ranks import retrieval_metrics

        metrics = super().metrics()
        found = {name if name != "loss" else "caption_loss": m for name, m in metrics.items()}
        metrics = type(metrics)(found, compute_groups=False)
        metrics.add_metrics(dict(retrieval_metrics().items()))
        return metrics
