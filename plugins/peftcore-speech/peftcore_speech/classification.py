"""Audio classification: one label for a recording, from folders or a table of paths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from peftcore import ConfigError, DataError, Loaded, resolve_source
from peftcore_speech.recordings import heard, length_of
from peftcore_train.data import Row
from peftcore_train.task import Batch, Features
from peftcore_train.tasks.one_file import OneFile, OneFileConfig


class AudioClassificationConfig(OneFileConfig):
    """The ``task`` section of audio classification."""

    file_column: str = Field("audio", description="Column of the recording's path.")
    min_seconds: float = Field(0.25, gt=0, le=3600, description="A shorter recording is an error.")
    max_seconds: float = Field(
        30.0, gt=0, le=3600, description="A longer recording is an error, or is cut."
    )
    truncation: bool = Field(False, description="Cut recordings that are longer.")


class AudioClassification(OneFile):
    """Cross-entropy on the mean of a speech model's frames; files are read for each batch."""

    head = "audio-classification"
    length_unit = "samples"

    def __init__(self, config: AudioClassificationConfig):
        super().__init__(config)
        self._extractor: Any = None
        self._source = ""

    def look(self, row: Row) -> Path:
        """Hear the recording of a row, and return where it is."""
        path = row.path(self.config.file_column)
        samples, rate = heard(path, row.where)
        self._seconds(len(samples) / rate, row)
        return path

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the recording's path, its number of samples, and the index of the label."""
        if self._extractor is None or self._source != loaded.source:
            self._extractor, self._source = _extractor(loaded), loaded.source
        features = super().encode(row, loaded, labelled=labelled)
        rate = self._extractor.sampling_rate
        samples = length_of(Path(features["file"]), rate)
        return {**features, "length": min(samples, round(self.config.max_seconds * rate))}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return what the model's feature extractor makes of recordings, padded on the right."""
        made = self._extractor(
            [self._samples(row) for row in rows],
            sampling_rate=self._extractor.sampling_rate,
            return_tensors="pt",
            **({"padding": True} if _is_raw(self._extractor) else {}),
        )
        return {**made, **self.targets(rows)}

    def _samples(self, features: Features) -> Any:
        rate = self._extractor.sampling_rate
        samples, _ = heard(Path(features["file"]), features["where"], rate)
        return samples[: round(self.config.max_seconds * rate)]

    def _seconds(self, seconds: float, row: Row) -> None:
        config = self.config
        if seconds < config.min_seconds:
            raise DataError(
                f"{row.where}: {seconds:.3f} seconds, fewer than task.min_seconds:"
                f" {config.min_seconds:g}. Leave it out, or change that."
            )
        if seconds > config.max_seconds and not config.truncation:
            raise DataError(
                f"{row.where}: {seconds:.1f} seconds, more than task.max_seconds:"
                f" {config.max_seconds:g}. Cut it with task.truncation: true, or leave it out."
            )


def _is_raw(extractor: Any) -> bool:
    """Tell whether a model takes samples; log-mel frames are padded by their extractor itself."""
    return "input_values" in extractor.model_input_names


def _extractor(loaded: Loaded) -> Any:
    from transformers import AutoFeatureExtractor

    place = str(resolve_source(loaded.source, "model") or loaded.source)
    local = Path(place).expanduser().is_dir()
    if local and not (Path(place).expanduser() / "preprocessor_config.json").is_file():
        raise ConfigError(
            f"backbone.source {loaded.source}: no preprocessor_config.json there. Save the feature"
            " extractor beside the weights."
        )
    try:
        return AutoFeatureExtractor.from_pretrained(place, local_files_only=local)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        raise ConfigError(
            f"backbone.source {loaded.source}: its preprocessor_config.json cannot be read:"
            f" {reason}."
        ) from error
