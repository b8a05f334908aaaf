"""Sizes of networks on point clouds, and the file that holds them beside weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from peftcore import ConfigError, nearest


@dataclass
class PointConfig:
    """What a network is built from; what ``config.json`` holds.

    Attributes:
        model_type: ``point-mae``, ``point-bert`` or ``point-m2ae``.
        widths: width of the tokens, of each scale.
        depths: number of blocks, of each scale.
        heads: heads of attention.
        groups: G, number of groups, of each scale.
        group_sizes: M, points or tokens in a group, of each scale.
        radii: of each scale, how far a token sees; 0 is everywhere.
        encoder_dims: width of what Point-BERT's PointNet returns.
        drop_path_rate: share of dropped branches in the last block, in training.
        wide_head: Point-M2AE's head sees mean and maximum side by side, not their sum.
        decoder_depth: blocks of the decoder of masked reconstruction, of each of its scales.
        num_labels: classes; 0 without a classifier.
        labels: names of the classes, where a task has told them.
    """

    model_type: str = "point-mae"
    widths: tuple[int, ...] = (384,)
    depths: tuple[int, ...] = (12,)
    heads: int = 6
    groups: tuple[int, ...] = (64,)
    group_sizes: tuple[int, ...] = (32,)
    radii: tuple[float, ...] = (0.0,)
    encoder_dims: int = 384
    drop_path_rate: float = 0.1
    wide_head: bool = False
    decoder_depth: int = 4
    num_labels: int = 0
    labels: list[str] = field(default_factory=list)

    def update(self, values: Mapping[str, Any]) -> None:
        """Take the names of labels from what a task says for the ``config.json`` of its model."""
        self.labels = list(values.get("id2label", {}).values())

    def with_(self, **changes: Any) -> Self:
        """Return the same with other values."""
        return replace(self, **changes)

    def save(self, folder: Path) -> None:
        """Write ``config.json``."""
        (folder / "config.json").write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


def read_config(folder: Path) -> PointConfig:
    """Read the ``config.json`` of a folder.

    Raises:
        ConfigError: it is missing, or no such file.
    """
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text("utf-8"))
        known = [f.name for f in fields(PointConfig)]
        if spare := [name for name in found if name not in known]:
            raise ConfigError(
                f"{path}: {spare[0]!r} is no field of a point network.{nearest(spare[0], known)}"
            )
        given = {
            k: tuple(v) if k != "labels" and isinstance(v, list) else v for k, v in found.items()
        }
        return PointConfig(**given)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Save the checkpoint anew.") from error
