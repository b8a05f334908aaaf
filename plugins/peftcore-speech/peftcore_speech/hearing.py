"""How recordings become a batch: what a recipe says of them, distortion, a model's own features."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from peftcore import ConfigError, DataError, Loaded, Strict, resolve_source
from peftcore_speech.distortions import masked, noisy
from peftcore_speech.recordings import heard, length_of
from peftcore_train.data import Row
from peftcore_train.task import Batch, Features

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What Whisper hears of a recording, in seconds, and how far it can be narrowed.
_WHOLE, _LEAST = 30.0, 1.0


class RecordingConfig(Strict):
    """Fields of every task on recordings."""

    file_column: str = Field("audio", description="Column of the recording's path.")
    min_seconds: float = Field(0.25, gt=0, le=3600, description="A shorter recording is an error.")
    max_seconds: float = Field(
        30.0, gt=0, le=3600, description="A longer recording is an error, or is cut."
    )
    truncation: bool = Field(
        False, description="Cut recordings that are longer, so that their beginning is left."
    )
    sampling_rate: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Samples a second that every file must have; another rate is an error. If not"
        " given, files may have any: all are resampled to the model's.",
    )
    window_seconds: float | None = Field(
        None,
        ge=_LEAST,
        le=_WHOLE,
        description="Seconds that a Whisper hears, in place of its 30: its positions behind them"
        " are cut off, as PEFT-SER does, and a step takes that much less time.",
    )
    noise_snr: tuple[float, float] | None = Field(
        None,
        description="White noise in training, so many dB below the recording, drawn between the"
        " two: `[10, 30]` in PEFT-SER.",
    )
    time_mask: tuple[float, float] | None = Field(
        None,
        description="Part of a recording that is silent in training, drawn between the two:"
        " `[0.1, 0.15]` in PEFT-SER.",
    )

    @model_validator(mode="after")
    def _ranges_go_up(self) -> "RecordingConfig":
        for name, (least, most) in (("noise_snr", (-20, 100)), ("time_mask", (0, 0.9))):
            given = getattr(self, name)
            if given is not None and not least <= given[0] <= given[1] <= most:
                raise ValueError(
                    f"{name} is {list(given)}; give two numbers from {least} to {most}, the smaller"
                    " one first"
                )
        return self

    @property
    def longest(self) -> tuple[str, float]:
        """The field that limits a recording's length, and its seconds."""
        if self.window_seconds is not None and self.window_seconds < self.max_seconds:
            return "window_seconds", self.window_seconds
        return "max_seconds", self.max_seconds


class Hearing:
    """Reads the recordings of rows, and makes of them what a model takes.

    Args:
        config: the ``task`` section.
    """

    def __init__(self, config: RecordingConfig):
        self.config = config
        self._extractor: Any = None
        self._source = ""

    def look(self, row: Row) -> Path:
        """Hear the recording of a row, and return where it is.

        Raises:
            DataError: it is missing, damaged, silent, of another rate, or too short or long.
        """
        path = row.path(self.config.file_column)
        samples, rate = heard(path, row.where)
        wanted = self.config.sampling_rate
        if wanted is not None and rate != wanted:
            raise DataError(
                f"{row.where}: {path.name} has {rate:,} samples a second, not the"
                f" {wanted:,} of task.sampling_rate. Resample it, or leave that field out."
            )
        self._check_seconds(len(samples) / rate, row)
        return path

    def learn_model(self, loaded: Loaded) -> None:
        """Read the feature extractor of a model, once.

        Raises:
            ConfigError: there is none, or it cannot be read.
        """
        if self._extractor is None or self._source != loaded.source:
            self._extractor, self._source = _extractor(loaded), loaded.source

    def length(self, path: Path, row: Row) -> int:
        """Return how many samples of a recording the model hears.

        Raises:
            DataError: it hears fewer than there are, and would leave the rest out in silence.
        """
        rate, config = self.rate, self.config
        samples = min(length_of(path, rate), round(config.longest[1] * rate))
        most = samples if self.is_raw or config.window_seconds else self._extractor.n_samples
        if samples > most:
            raise DataError(
                f"{row.where}: {samples / rate:.1f} seconds, more than the {most / rate:g} that"
                f" {self._source} hears. Cut it with task.max_seconds and task.truncation."
            )
        return samples

    def distort(self, features: Features, generator: torch.Generator) -> Features:
        """Return features with a seed of what happens to their recording in training."""
        if self.config.noise_snr is None and self.config.time_mask is None:
            return features
        seed = int(torch.randint(2**62, (), generator=generator))
        return {**features, "distortion": seed}

    def batch(self, rows: Sequence[Features]) -> Batch:
        """Return what the model's feature extractor makes of recordings, padded on the right."""
        if self.is_raw:
            options: dict[str, Any] = {"padding": True}
        else:
            window = self.config.window_seconds
            options = {} if window is None else {"max_length": round(window * self.rate)}
        made = self._extractor(
            [self._samples(row) for row in rows],
            sampling_rate=self.rate,
            return_tensors="pt",
            **options,
        )
        return dict(made)

    @property
    def rate(self) -> int:
        """Samples a second that the model hears."""
        return int(self._extractor.sampling_rate)

    @property
    def hop(self) -> int:
        """Samples from one log-mel frame to the next."""
        return int(self._extractor.hop_length)

    @property
    def is_raw(self) -> bool:
        """Whether the model takes samples; log-mel frames are padded by their extractor itself."""
        return "input_values" in self._extractor.model_input_names

    def _samples(self, features: Features) -> "NDArray[Any]":
        rate = self.rate
        samples, _ = heard(Path(features["file"]), features["where"], rate)
        samples = samples[: round(self.config.longest[1] * rate)]
        if "distortion" not in features:
            return samples
        chance = np.random.default_rng(features["distortion"])
        if self.config.noise_snr is not None:
            samples = noisy(samples, self.config.noise_snr, chance)
        if self.config.time_mask is not None:
            samples = masked(samples, self.config.time_mask, rate, chance)
        return samples

    def _check_seconds(self, seconds: float, row: Row) -> None:
        config = self.config
        if seconds < config.min_seconds:
            raise DataError(
                f"{row.where}: {seconds:.3f} seconds, fewer than task.min_seconds:"
                f" {config.min_seconds:g}. Leave it out, or change that."
            )
        field, most = config.longest
        if seconds > most and not config.truncation:
            raise DataError(
                f"{row.where}: {seconds:.1f} seconds, more than task.{field}:"
                f" {most:g}. Cut it with task.truncation: true, or leave it out."
            )


def narrow(encoder: nn.Module, seconds: float | None, source: str) -> None:
    """Let an encoder of Whisper hear fewer seconds: its positions behind them are cut off.

    Raises:
        ConfigError: the model hears recordings of any length, or fewer seconds already.
    """
    if seconds is None:
        return
    table, config = getattr(encoder, "embed_positions", None), getattr(encoder, "config", None)
    if config is None or not isinstance(table, nn.Embedding):
        raise ConfigError(
            f"task.window_seconds: {type(encoder).__name__} of {source} hears a recording as long"
            " as it is. Leave it out; task.max_seconds and task.truncation cut recordings."
        )
    count = round(config.max_source_positions * seconds / _WHOLE)
    if not 0 < count <= len(table.weight):
        raise ConfigError(
            f"task.window_seconds: {seconds:g} seconds are {count} positions of {source}, which has"
            f" {len(table.weight)}."
        )
    config.max_source_positions = count
    encoder.embed_positions = nn.Embedding.from_pretrained(table.weight[:count].detach().clone())


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
