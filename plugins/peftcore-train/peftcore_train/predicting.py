"""Predicting for rows with a trained adapter, a window of rows at a time."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import ConfigError, argument_names
from peftcore_train import building
from peftcore_train.batches import lengths_of
from peftcore_train.data import Row
from peftcore_train.progress import Progress
from peftcore_train.running import make_accelerator, reload
from peftcore_train.task import Batch, Features
from peftcore_train.trained import Trained

#: Batches among which rows of similar length are put together.
_WINDOW = 8


class Predictor:
    """A trained adapter on its backbone, loaded once.

    Args:
        trained: the adapter.
        progress: where to say how it goes.
        embeddings: return the mean of each row's last hidden states in place of predictions.

    Raises:
        ConfigError: there are no embeddings of such a model.
        CheckpointError: the adapter is damaged or belongs to another base.
    """

    def __init__(self, trained: Trained, progress: Progress, *, embeddings: bool = False):
        job = trained.job
        self.progress = progress
        self.task = building.make_task(job)
        self.accelerator = make_accelerator(job.recipe.train)
        with progress.doing(f"loading {job.recipe.backbone.source}"):
            model, _, self.loaded = reload(job, self.task, trained.adapter)
        if embeddings and (
            model is not self.loaded.model or not hasattr(model, "base_model_prefix")
        ):
            raise ConfigError(
                f"--embeddings: the {type(model).__name__} of the task {job.task_type} is no model"
                " of transformers, whose last hidden states could be taken."
            )
        self.model: Any = self.accelerator.prepare_model(model, evaluation_mode=True).eval()
        self.size = job.recipe.train.eval_batch_size or job.recipe.train.batch_size
        self.embeddings = embeddings

    def check(self, rows: Sequence[Row]) -> None:
        """Encode every row once, so that what does not fit is said before the first prediction.

        Raises:
            DataError: a row does not fit the task or the model.
        """
        for row in self.progress.counted(rows, "encoding", len(rows)):
            self.task.encode(row, self.loaded, labelled=False)

    def predictions(self, rows: Sequence[Row]) -> Iterator[list[dict[str, Any]]]:
        """Yield the predictions of the next rows, in order, as soon as they are there."""
        batches = range(-(-len(rows) // self.size))
        ticks = self.progress.counted(batches, "predicting", len(batches), unit="batches")
        span = _WINDOW * self.size
        for start in range(0, len(rows), span):
            yield self._window(rows[start : start + span], ticks)
        next(ticks, None)

    def _window(self, rows: Sequence[Row], ticks: Iterator[int]) -> list[dict[str, Any]]:
        """Predict for some rows; those of similar length share a batch."""
        features = [self.task.encode(row, self.loaded, labelled=False) for row in rows]
        lengths = lengths_of(features)
        order = sorted(range(len(rows)), key=lambda place: -lengths[place])
        found: dict[int, dict[str, Any]] = {}
        for i in range(0, len(order), self.size):
            next(ticks)
            chosen = order[i : i + self.size]
            answers = self._predict([features[place] for place in chosen])
            found.update(zip(chosen, answers, strict=True))
        return [found[place] for place in range(len(rows))]

    def _predict(self, features: list[Features]) -> list[dict[str, Any]]:
        batch = {
            name: value.to(self.accelerator.device) if isinstance(value, Tensor) else value
            for name, value in self.task.collate(features).items()
        }
        with torch.no_grad(), self.accelerator.autocast():
            if self.embeddings:
                return [{"embedding": row.tolist()} for row in self._embedded(batch)]
            return self.task.predict(self.model, batch, self.loaded)

    def _embedded(self, batch: Batch) -> Tensor:
        """Return the mean of the last hidden states over the tokens of each row, [B, H]."""
        model: Any = self.loaded.model
        inputs = {name: value for name, value in batch.items() if name in argument_names(model)}
        network: nn.Module = model.base_model
        if getattr(model.config, "is_encoder_decoder", False):
            network = model.get_encoder()
            first = next(iter(inputs.values()))
            begin = model.config.decoder_start_token_id or 0
            inputs["decoder_input_ids"] = first.new_full((len(first), 1), begin, dtype=torch.long)
        seen: list[Tensor] = []
        hook = network.register_forward_hook(lambda module, args, out: seen.append(out[0]))
        try:
            model(**inputs)
        finally:
            hook.remove()
        hidden = seen[0].float()
        mask = batch.get("attention_mask")
        if mask is None:
            mask = torch.ones(hidden.shape[:2], device=hidden.device)
        if hidden.ndim != 3 or mask.shape != hidden.shape[:2]:
            raise ConfigError(
                f"--embeddings: hidden states of {type(model).__name__} have the shape"
                f" {tuple(hidden.shape)}, which is not that of the tokens of each row."
            )
        weights = mask[..., None].to(hidden.dtype)
        mean: Tensor = (hidden * weights).sum(1) / weights.sum(1)
        return mean.cpu()
