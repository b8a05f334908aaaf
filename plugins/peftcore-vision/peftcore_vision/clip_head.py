"""A classifier on the projected image of CLIP, which may start from the words of its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import ConfigError, resolve_source

FeatureNorm = Literal["none", "l2"]


class ClipClassifier(nn.Module):
    """One linear layer on CLIP's image embedding, as in ELEVATER (Li et al. 2022).

    Args:
        tower: the image tower with its projection.
        labels: number of labels.
        norm: ``l2`` divides each embedding by its length.
    """

    def __init__(self, tower: nn.Module, labels: int, norm: FeatureNorm):
        super().__init__()
        self.tower = tower
        self.config: Any = tower.config
        self.norm = norm
        self.classifier = nn.Linear(int(self.config.projection_dim), labels)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return the logits, [B, labels]."""
        embeds: Tensor = self.tower(pixel_values=pixel_values).image_embeds
        return self.classifier(F.normalize(embeds, dim=-1) if self.norm == "l2" else embeds)  # type: ignore[no-any-return]

    def start_from(self, weight: Tensor) -> None:
        """Start the classifier from embeddings of the labels, [labels, projection], bias 0."""
        with torch.no_grad():
            self.classifier.weight.copy_(weight)
            self.classifier.bias.zero_()


def embeddings_of(source: str, names: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """Return the embedding of each label by CLIP's text tower, [labels, projection], of length 1.

    Of each label the embeddings of all prompts, each of length 1, are averaged.

    Args:
        source: a checkpoint of the whole of CLIP, with its tokenizer.
        names: the labels in words.
        prompts: texts in which ``{}`` stands for a label.

    Raises:
        ConfigError: the source has no text tower, or no tokenizer.
    """
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    place = str(resolve_source(source, "model") or source)
    local = {"local_files_only": Path(place).expanduser().is_dir()}
    read: Any = CLIPTextModelWithProjection.from_pretrained
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, **local)
        tower, info = read(place, output_loading_info=True, **local)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        raise ConfigError(
            f"task.prompts: {source}: its text tower cannot be read: {reason}."
        ) from error
    if info["missing_keys"]:
        raise ConfigError(
            f"task.prompts: {source} holds no text tower ({sorted(info['missing_keys'])[0]} is"
            " missing). Name a checkpoint of the whole of CLIP, or leave prompts out."
        )
    tower.eval()
    found = []
    with torch.no_grad():
        for name in names:
            texts = [prompt.replace("{}", name) for prompt in prompts]
            given = tokenizer(
                texts,
                padding=True,
                truncation=True,
                max_length=tower.config.max_position_embeddings,
                return_tensors="pt",
            )
            embeds = F.normalize(tower(**given).text_embeds.float(), dim=-1)
            found.append(F.normalize(embeds.mean(0), dim=0))
    return torch.stack(found)
