"""Making a memory bank from the training clouds of a recipe."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from peftcore import ConfigError
from peftcore_pointpeft.bank import encoder_digest, feature_of, write_bank
from peftcore_pointpeft.method import network_of
from peftcore_train.progress import Progress
from peftcore_train.running import make_accelerator, prepare
from peftcore_train.schema import Job


def make_bank(job: Job, place: Path, progress: Progress) -> dict[str, Any]:
    """Write the bank, and return its file, the number of clouds, and the checksum of the file.

    Args:
        job: the recipe; its clouds are seen as they are when they are scored, without change.
        place: the file.
        progress: where to say how it goes.

    Raises:
        ConfigError: the backbone is no network that Point-PEFT knows, or the task gives no points.
    """
    prepared = prepare(job, progress)
    network = network_of(prepared.model)
    if network is None:
        raise ConfigError(
            f"backbone.source {job.recipe.backbone.source}: no network that groups points around"
            " centres of one scale; Point-PEFT makes no bank of it."
        )
    section, rows = job.recipe.train, prepared.features["train"]
    accelerator = make_accelerator(section)
    prepared.model.to(accelerator.device).eval()
    size = section.eval_batch_size or section.batch_size

    def features() -> Iterator[Tensor]:
        batches = [rows[i : i + size] for i in range(0, len(rows), size)]
        for part in progress.counted(batches, "remembering", len(batches), unit="batches"):
            batch = prepared.task.collate(part)
            if not isinstance(batch.get("points"), Tensor):
                raise ConfigError(f"task {job.task_type} gives no points, of which a bank is made.")
            yield feature_of(network, batch["points"].to(accelerator.device))

    clouds = write_bank(place, features(), encoder_digest(network), str(job.recipe.data.source))
    checksum = hashlib.sha256(place.read_bytes()).hexdigest()
    return {"file": str(place), "clouds": clouds, "sha256": checksum}
