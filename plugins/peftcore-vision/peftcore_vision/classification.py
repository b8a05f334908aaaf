"""Image classification: one label for an image, from folders or a table of paths."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor, nn

from peftcore import ConfigError, Loaded
from peftcore_train.data import Columns, Row, located
from peftcore_train.task import Batch, Features, inner
from peftcore_train.tasks.labels import LabelsConfig
from peftcore_train.tasks.one_file import OneFile
from peftcore_vision.answers import OneImageLabel, SeveralImageLabels
from peftcore_vision.clip_head import ClipClassifier, embeddings_of
from peftcore_vision.groups import Cuts, Groups
from peftcore_vision.pictures import Views, opened


class ImageClassificationConfig(LabelsConfig):
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
    window: tuple[float, float] | None = Field(
        None,
        description="Centre and width of the values of a DICOM image that are shown from black to"
        " white, such as [40, 400] Hounsfield units for soft tissue; each file's own if not given.",
    )
    groups: dict[str, Cuts] = Field(
        {},
        description="Columns of sensitive attributes, whose groups are scored apart. Each value is"
        " a group, `{sex: []}`, or numbers are cut into groups, `{age: [40, 60]}`.",
    )
    cross_groups: bool = Field(
        False, description="Score the groups of all attributes together as well: `sex x age`."
    )
    group_values: dict[str, tuple[str, ...]] = Field(
        {}, description="Names of the groups; without cuts they are found in the training rows."
    )
    prompts: tuple[str, ...] = Field(
        (),
        description="With CLIP: texts in which `{}` stands for a label. The classifier starts from"
        " the mean of their embeddings, of length 1.",
    )

    @model_validator(mode="after")
    def _fit_together(self) -> "ImageClassificationConfig":
        if self.window is not None and self.window[1] < 1:
            raise ValueError("window is centre and width; a width is at least 1")
        for prompt in self.prompts:
            if "{}" not in prompt:
                raise ValueError(f"prompts: {prompt!r} has no {{}} for the label")
        for name, cuts in self.groups.items():
            if list(cuts) != sorted(set(cuts)):
                raise ValueError(f"groups.{name}: the numbers to cut at rise")
        if self.groups and self.multi_label:
            raise ValueError("groups are scored where an image has one label")
        return self


class ImageClassification(OneFile):
    """Cross-entropy on the classifier of an image model; images are decoded for each batch."""

    head = "image-classification"
    kind: OneImageLabel | SeveralImageLabels

    def __init__(self, config: ImageClassificationConfig):
        super().__init__(config)
        self.groups = Groups(config.groups, crossed=config.cross_groups, given=config.group_values)
        self.kind = (
            SeveralImageLabels(config, self.labels)
            if config.multi_label
            else OneImageLabel(config, self.labels, self.groups)
        )
        self.default_metric = self.kind.default_metric
        self.metric_names = self.kind.metric_names
        self._views: Views | None = None
        self._processor: Any = None
        self._source = ""

    def columns(self) -> Columns:
        """Return the columns of the image and of what is known of it."""
        found = super().columns()
        label = None if self.config.multi_label else found.label
        return Columns(found.inputs, (*found.answers, *self.groups.columns), label, files=True)

    @property
    def needs_rows(self) -> bool:
        """Whether labels or groups are still to be learned."""
        return super().needs_rows or not self.groups.columns.keys() <= self.groups.values.keys()

    def learned(self) -> dict[str, Any]:
        """Return the labels, and the names of the groups."""
        return {**super().learned(), "group_values": dict(self.groups.values)}

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model; of CLIP, with the classifier that its text tower gives.

        Raises:
            ConfigError: there are prompts, but no text tower.
        """
        if not self.config.prompts:
            return loaded.model
        if not isinstance(loaded.model, ClipClassifier):
            raise ConfigError(
                f"task.prompts: {loaded.source} is not CLIP, so it has no text tower; leave prompts"
                " out."
            )
        if not loaded.model.classifier.weight.is_meta:
            weight = embeddings_of(loaded.source, self.labels.names, self.config.prompts)
            loaded.model.start_from(weight)
        return loaded.model

    def look(self, row: Row) -> str:
        """Decode the image of a row, and return where it is."""
        place = located(row, self.config.file_column)
        opened(place, row.where, small=True, window=self.config.window)
        return place

    def check(self, rows: Sequence[Row]) -> None:
        """Check labels, groups and images."""
        for row in rows:
            self.groups.of(row)
        super().check(rows)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the image's place, the index of the label, and those of the groups."""
        if self._processor is not loaded.tokenizer:
            self._processor, self._source, self._views = loaded.tokenizer, loaded.source, None
        if not labelled:
            return {"file": self.look(row), "where": row.where}
        found = {
            "file": located(row, self.config.file_column),
            "where": row.where,
            "answer": self.kind.answer(row),
        }
        return {**found, "groups": self.groups.of(row)} if self.groups.columns else found

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Decode an image, and change it at random."""
        config = self.config
        if not (config.flip or config.random_crop):
            return features
        image = self._opened(features)
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

    def targets(self, rows: Sequence[Features]) -> Batch:
        """Return answers and groups of some rows, where they have any."""
        found = super().targets(rows)
        if "groups" in rows[0]:
            found["groups"] = torch.tensor([row["groups"] for row in rows])
        return found

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return predictions, targets, the loss of each row, and its groups."""
        scores = super().score(model, batch)
        return {**scores, "groups": batch["groups"]} if "groups" in batch else scores

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
        return self.views.plain(self._opened(row))

    def _opened(self, row: Features) -> Image.Image:
        return opened(row["file"], row["where"], window=self.config.window)
