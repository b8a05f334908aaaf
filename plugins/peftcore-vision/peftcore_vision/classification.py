"""Image classification: one label for an image, from folders or a table of paths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import Loaded
from peftcore_train.data import Row
from peftcore_train.task import Batch, Features, inner
from peftcore_train.tasks.one_file import OneFile, OneFileConfig
from peftcore_vision.pictures import Views, opened


class ImageClassificationConfig(OneFileConfig):
    """The ``task`` section of image classification."""

    file_column: str = Field("image", description="Column of the image's path.")
    flip: bool = Field(
        True, description="Mirror every second image of training; not for digits and letters."
    )
    random_crop: bool = Field(
        True, description="Train on a random part of each image, in full size."
    )
    crop_scale: float = Field(
        0.35, gt=0, le=1, description="Least share of the image that a random part has."
    )


class ImageClassification(OneFile):
    """Cross-entropy on the classifier of an image model; images are decoded for each batch."""

    head = "image-classification"

    def __init__(self, config: ImageClassificationConfig):
        super().__init__(config)
        self._views: Views | None = None
        self._processor: Any = None
        self._source = ""

    def look(self, row: Row) -> Path:
        """Decode the image of a row, and return where it is."""
        path = row.path(self.config.file_column)
        opened(path, row.where, small=True)
        return path

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the image's path and the index of the label."""
        if self._processor is not loaded.tokenizer:
            self._processor, self._source, self._views = loaded.tokenizer, loaded.source, None
        return super().encode(row, loaded, labelled=labelled)

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Decode an image, and change it at random."""
        config = self.config
        if not (config.flip or config.random_crop):
            return features
        image = opened(Path(features["file"]), features["where"])
        scale = config.crop_scale if config.random_crop else None
        pixels = self.views.changed(image, generator, scale=scale, flip=config.flip)
        return {**features, "pixels": pixels}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Stack images, [B, C, H, W]; those that are not decoded yet are now."""
        return {"pixels": torch.stack([self._pixels(row) for row in rows]), **self.targets(rows)}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the classifier's outputs, [B, C], in single precision."""
        named = "pixel_values" if hasattr(inner(model), "config") else "x"
        return super().logits(model, {named: batch["pixels"]})

    @property
    def views(self) -> Views:
        """How the network looks at images; made when the first one is decoded."""
        if self._views is None:
            self._views = Views(self._processor, self._source)
        return self._views

    def _pixels(self, row: Features) -> Tensor:
        if "pixels" in row:
            pixels: Tensor = row["pixels"]
            return pixels
        return self.views.plain(opened(Path(row["file"]), row["where"]))
