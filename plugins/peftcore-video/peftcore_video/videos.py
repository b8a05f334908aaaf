"""What tasks on videos share: reading rows, the frames of each, and the texts of CLIP's tower."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from peftcore import ConfigError, DataError, Loaded, resolve_source
from peftcore_train.data import Row, drawn, report
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features, Task
from peftcore_train.text import LengthConfig, tokenizer_of
from peftcore_video.cache import cached_frames
from peftcore_video.frames import Sampling, Wanted, check_video
from peftcore_video.layouts import CAPTION, VIDEO, Protocol, Release, is_release, rows_of

#: Mean and standard deviation of the colours that every released CLIP was trained with.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class VideosConfig(LengthConfig):
    """Fields of every task on videos."""

    video_column: str = Field(VIDEO, description="Column of the video: a path.")
    caption_column: str = Field(
        CAPTION, description="Column of what is seen: a text, or a list of several texts."
    )
    frames: int = Field(
        12, ge=1, le=4096, description="Most frames of a video; 12 for MSR-VTT, 64 for ActivityNet."
    )
    sampling: Sampling = Field(
        "uniform",
        description="Which frames: the middles of equal parts, so many a second (`fps`), or those"
        " that are coded by themselves (`keyframes`).",
    )
    fps: float = Field(1.0, gt=0, le=1000, description="Frames a second of `sampling: fps`.")
    cache: str | None = Field(
        None,
        description="Folder for decoded frames, which are then decoded once. It is filled before"
        " training, so that a damaged video is found there.",
    )
    protocol: Protocol = Field(
        "9k",
        description="Of MSR-VTT: `9k` or `7k`, training on so many videos and the test 1k-A; or the"
        " official parts, `captioning`.",
    )
    validation: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Share of the training videos that validates, where a release names none.",
    )
    leave_out_missing: bool = Field(
        False, description="Leave out videos of a release whose file is not there."
    )


class Videos(Task):
    """Reads rows of videos with captions, and makes frames of each."""

    def __init__(self, config: VideosConfig):
        super().__init__(config)
        self._tokenizer: Any = None
        self._seen: set[tuple[str, int]] = set()

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split of a release, or of a table with paths and captions.

        Raises:
            DataError: the data is missing or damaged, or captions have no video.
        """
        root = Path(resolve_source(data.source, "data") or data.source).expanduser()
        if not is_release(root):
            return super().read(data, split, problems)
        config = self.config
        release = Release(
            root, config.protocol, config.validation, data.seed, config.leave_out_missing
        )
        try:
            rows = self.arranged(rows_of(release, split), split)
        except DataError as error:
            release.problems.append(error)
            rows = []
        if not rows and not release.problems:
            release.problems.append(DataError(f"{data.source} has no video of the split {split}."))
        report(release.problems, problems)
        return drawn(rows, data, split)

    def arranged(self, rows: list[Row], split: Split) -> list[Row]:
        """Return what the rows of a release, one for each video, are for this task."""
        return rows

    # --- texts -------------------------------------------------------------------------------

    def captions(self, row: Row) -> list[str]:
        """Return the captions of a row.

        Raises:
            DataError: there is none, or it is no text.
        """
        column = self.config.caption_column
        value = row.column(column)
        if not isinstance(value, list):
            return [row.text(column)]
        if not value:
            raise DataError(f"{row.where}: column {column!r} is an empty list: no caption.")
        for text in value:
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"{row.where}: column {column!r} holds {text!r}, which is no text.")
        return value

    def tokens(self, text: str, row: Row, loaded: Loaded) -> dict[str, list[int]]:
        """Return the inputs of CLIP's text tower.

        Raises:
            DataError: the text is longer than the tower takes, and may not be cut.
            ConfigError: the recipe asks for more than it takes.
        """
        config: Any = loaded.model.config
        self._tokenizer = self.of_towers(loaded)
        most = config.text_config.max_position_embeddings
        limit = self.config.max_length or most
        if limit > most:
            raise ConfigError(f"task.max_length is {limit}, but CLIP's text tower takes {most}.")
        options: dict[str, Any] = {"verbose": False}
        if self.config.truncation:
            options |= {"truncation": True, "max_length": limit}
        found = self._tokenizer(text, **options)
        if len(found["input_ids"]) > limit:
            raise DataError(
                f"{row.where}: {len(found['input_ids'])} tokens are more than the {limit} of"
                " task.max_length. Leave it out, or write task.truncation: true."
            )
        return {name: found[name] for name in ("input_ids", "attention_mask")}

    def of_towers(self, loaded: Loaded) -> Any:
        """Return the tokenizer of CLIP's text tower.

        Raises:
            ConfigError: it was loaded without one.
        """
        return tokenizer_of(loaded)

    def padded(self, rows: Sequence[Features]) -> Batch:
        """Return ids and masks of texts, padded on the right, [B, L]."""
        width = max(len(row["input_ids"]) for row in rows)
        fill = {"input_ids": self._tokenizer.pad_token_id or 0, "attention_mask": 0}
        return {
            name: torch.tensor([row[name] + [pad] * (width - len(row[name])) for row in rows])
            for name, pad in fill.items()
        }

    # --- frames ------------------------------------------------------------------------------

    def look(self, row: Row) -> Path:
        """Return where the video of a row is, after looking whether it can be decoded.

        Raises:
            DataError: it is missing or damaged, or has no frames.
        """
        path = row.path(self.config.video_column)
        about = (str(path), path.stat().st_mtime_ns)
        if about not in self._seen:
            check_video(path, row.where)
            self._seen.add(about)
        return path

    def named(self, row: Row, loaded: Loaded) -> Features:
        """Return where a video is, whose frames are decoded for each batch, and of what size."""
        config: Any = loaded.model.config
        path = self.look(row)
        found = {"video": str(path), "size": config.vision_config.image_size, "where": row.where}
        if self.config.cache:
            self.decoded(found)
        return found

    def decoded(self, features: Features) -> Tensor:
        """Return the frames of a video, [T, 3, S, S] uint8."""
        config = self.config
        wanted = Wanted(config.frames, config.sampling, config.fps, features["size"])
        cache = Path(config.cache).expanduser() if config.cache else None
        frames = cached_frames(Path(features["video"]), features["where"], wanted, cache)
        return torch.from_numpy(frames)

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        """Decode the frames, in the worker that prepares the batch."""
        return {**features, "frames": self.decoded(features)}

    def pictures(self, rows: Sequence[Features]) -> Batch:
        """Return the frames of all rows, [N, 3, S, S], and which places of [B, T] they fill."""
        found = [row["frames"] if "frames" in row else self.decoded(row) for row in rows]
        counts = torch.tensor([len(frames) for frames in found])
        mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
        return {
            "pixel_values": (torch.cat(found).float() / 255 - mean) / std,
            "seen": torch.arange(int(counts.max())) < counts[:, None],
        }


def spread(values: Tensor, seen: Tensor) -> Tensor:
    """Return values of the frames of a batch, [N, D], at their places, [B, T, D]; else zero."""
    out = values.new_zeros(*seen.shape, values.shape[-1])
    return out.masked_scatter(seen[..., None], values)


def pooled(frames: Tensor) -> Tensor:
    """Return the mean of the frames of each video, [B, D] of length 1, from [B, T, D].

    Places without a frame are zero; a row without any stays so.
    """
    return F.normalize(frames.sum(1), dim=-1)


def check_towers(loaded: Loaded, task: str) -> None:
    """Check that a model is the whole of CLIP.

    Raises:
        ConfigError: it is not.
    """
    lacking = [n for n in ("text_projection", "visual_projection") if not hasattr(loaded.model, n)]
    if lacking:
        raise ConfigError(
            f"backbone.source {loaded.source}: {type(loaded.model).__name__} has no"
            f" {lacking[0]}; {task} needs both towers of CLIP. Write backbone.name:"
            f" vision-language, and the folder of a whole CLIP."
        )
