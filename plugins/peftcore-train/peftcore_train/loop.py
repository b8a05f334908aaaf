"""The training loop: what fine-tuning an adapter needs, on accelerate, and nothing else."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

import peftcore
from peftcore import Adapter, CheckpointError
from peftcore_train.batches import TrainingBatches
from peftcore_train.errors import Interrupted, TrainingError
from peftcore_train.losses import Losses
from peftcore_train.progress import Progress, remaining, shown
from peftcore_train.rundir import ADAPTER, METRICS, Lines, unwritable, whole_run
from peftcore_train.schedules import lowered, schedule
from peftcore_train.schema import TrainSection
from peftcore_train.signals import Stop
from peftcore_train.state import Best, Position, save_state
from peftcore_train.task import Batch, Task


@dataclass
class Session:
    """What a run works with.

    Attributes:
        section: the ``train`` section.
        task: the task.
        adapter: what is trained.
        model: the model, prepared by the accelerator.
        optimizer: the optimiser, prepared by the accelerator.
        loader: the training batches, prepared by the accelerator.
        batches: their order.
        score: returns the validation metrics; calls its argument between batches.
        accelerator: where everything runs.
        folder: the run directory.
        description: the resolved recipe, to be stored with the adapter.
        stop: whether the user asked to stop.
        progress: what to tell the user.
    """

    section: TrainSection
    task: Task
    adapter: Adapter
    model: nn.Module
    optimizer: Optimizer
    loader: DataLoader[Any]
    batches: TrainingBatches
    score: Callable[[Callable[[], None]], dict[str, float]]
    accelerator: Accelerator
    folder: Path
    description: dict[str, Any]
    stop: Stop
    progress: Progress


def train_mode(model: nn.Module) -> None:
    """Switch a model to training; statistics of batch norms that nothing trains stay."""
    model.train()
    for module in model.modules():
        trained = any(p.requires_grad for p in module.parameters(recurse=False))
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not trained:
            module.eval()


def take_step(
    task: Task,
    model: nn.Module,
    adapter: Adapter,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float | None,
) -> float:
    """Take one plain optimiser step for a batch that is where the model is; return its loss.

    Raises:
        TrainingError: the loss is not finite.
    """
    loss = task.loss(model, batch)
    whole = loss + adapter.extra_loss()
    if not torch.isfinite(whole):
        raise TrainingError(f"the loss is {whole.item()}: lower train.learning_rate.")
    optimizer.zero_grad()
    whole.backward()
    if max_grad_norm is not None:
        nn.utils.clip_grad_norm_(adapter.parameters(), max_grad_norm)
    optimizer.step()
    return loss.item()


def total_steps(section: TrainSection, batches: int, accelerator: Accelerator) -> int:
    """Return the number of optimiser steps of a whole run."""
    mine = math.ceil(batches / int(accelerator.num_processes))
    steps = section.epochs * math.ceil(mine / section.gradient_accumulation_steps)
    return min(steps, section.max_steps or steps)


class Loop:
    """One training run, from its start or from a saved state.

    As in transformers the whole model is in training mode, so the base's dropout is active; only
    batch norms keep the statistics of the base.

    Attributes:
        position: how far the run has come.
    """

    def __init__(self, session: Session, position: Position):
        self.session = session
        self.section = session.section
        self.adapter = session.adapter
        self.accelerator = session.accelerator
        self.progress = session.progress
        self.position = position
        self.metric, self.greater = session.task.chosen_metric(self.section.metric_for_best)
        self.metrics = Lines(
            session.folder / METRICS,
            position.metrics_size,
            writes=session.accelerator.is_main_process,
        )
        self.total = total_steps(self.section, len(session.batches), self.accelerator)
        self.rate = schedule(self.section, self.total)
        self.started = time.monotonic() - position.seconds
        self.began = self.saved = time.monotonic()
        self.first_step = position.step
        self.losses = Losses()
        self.loss = math.nan
        self.checked = False

    def run(self) -> None:
        """Train until the last epoch or step, or until patience ends.

        Raises:
            Interrupted: a stop was asked for; the state has been saved.
            TrainingError: the loss or the validation score is not finite.
            DeadPieceError: something trainable got no gradient.
            PeftcoreError: a method refuses a run of so many steps.
        """
        self.adapter.before_run(self.total)
        self.progress.begin("training", self.total, self.position.step)
        try:
            with self.session.stop.waiting():
                while self.finished() is None:
                    self._epoch()
                    self._check_stop()
        finally:
            self.progress.end()

    def finished(self) -> str | None:
        """Return why the run is over, or None."""
        patience = self.section.early_stopping_patience
        if self.position.batch:
            return None  # within an epoch, which ends with a score
        if self.position.epoch >= self.section.epochs:
            return "epochs"
        if self._steps_done():
            return "max_steps"
        if patience is not None and self.position.waited >= patience:
            return "early_stopping"
        return None

    def _steps_done(self) -> bool:
        most = self.section.max_steps
        return most is not None and self.position.step >= most

    def _epoch(self) -> None:
        batches = self.session.batches
        batches.epoch, batches.start = self.position.epoch, self.position.batch
        train_mode(self.session.model)
        if not self._steps_done() and self.position.batch < len(batches):
            for batch in self.session.loader:
                try:
                    self._batch(batch)
                except (TrainingError, Interrupted):
                    raise
                except Exception:
                    self._settle()  # what a loss that is not finite leads to is not its cause
                    raise
                if self._steps_done():
                    break
        self._settle()
        if self._steps_done() or self.position.epoch + 1 == self.section.epochs:
            # an early stop is known only by the score, which comes too late for it
            self.adapter.after_run()
        scores = self.session.score(self._check_stop)
        self._keep(scores)
        self.position.epoch += 1
        self.position.batch, self.position.loss_sum = 0, 0.0
        self.save()

    def _batch(self, batch: Any) -> None:
        with self.accelerator.accumulate(self.session.model):
            with self.accelerator.autocast():
                loss = self.session.task.loss(self.session.model, batch)
            whole = loss + self.adapter.extra_loss()
            self.losses.add(self.position.step + 1, loss, whole)
            if not self.checked:
                self._settle()
                self.adapter.check_alive(loss)
                self.checked = True
            self.accelerator.backward(whole)
            self.position.batch += 1
            if self.accelerator.sync_gradients:
                self._step()
        self._after_batch()

    def _after_batch(self) -> None:
        if self.losses.full:
            self._settle()
        # between the batches of one step there is nothing that a state could hold
        if self.accelerator.sync_gradients:
            every = self.section.save_steps
            if every is not None and self.position.step % every == 0:
                self.save()
            elif self._save_is_due():
                # each process has a clock of its own, so that none waits for the others
                self.save(wait=False)
            self._check_stop()

    def _save_is_due(self) -> bool:
        minutes = self.section.save_minutes
        return minutes is not None and time.monotonic() - self.saved >= 60 * minutes

    def _step(self) -> None:
        part = self.rate(self.position.step) * self.position.plateau.part
        for group in self.session.optimizer.param_groups:
            group["lr"] = group["peak"] * part
        if self.section.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.adapter.parameters(), self.section.max_grad_norm)
        self.session.optimizer.step()
        self.position.step += 1
        if not self.accelerator.optimizer_step_was_skipped:  # for gradients that are not finite
            self.adapter.after_step(self.position.step, self.total)
        self.session.optimizer.zero_grad()
        self.progress.step(self.loss)
        if self.position.step % self.section.log_steps == 0:
            self._settle()
            self._log(self.loss, part * self.section.learning_rate)

    def _settle(self) -> None:
        """Read the losses that are still on the device; one that is not finite ends the run.

        Raises:
            TrainingError: one is not finite; nothing that came of it has been saved.
        """
        for step, loss, whole in self.losses.read():
            if not math.isfinite(whole):
                best = self.position.best
                kept = f" The adapter of epoch {best.epoch} is kept." if best else ""
                raise TrainingError(
                    f"the loss is {whole} at step {step} of epoch {self.position.epoch + 1}: lower"
                    f" train.learning_rate, or train in another precision.{kept}"
                )
            self.loss = loss
            self.position.loss_sum += loss

    def _log(self, loss: float, rate: float) -> None:
        record = {"step": self.position.step, "epoch": self.position.epoch + 1, "loss": loss}
        self.metrics.add({**record, "learning_rate": rate})
        self.accelerator.log({"train/loss": loss, "learning_rate": rate}, self.position.step)
        done, whole = self.position.step - self.first_step, self.total - self.first_step
        left = remaining(time.monotonic() - self.began, done, whole)
        self.progress.line(
            f"step {self.position.step}/{self.total}: loss {loss:.4f}, lr {rate:.3g}, {left} left"
        )

    def _keep(self, scores: dict[str, float]) -> None:
        position = self.position
        loss = position.loss_sum / max(1, position.batch)
        self.metrics.add(
            {"step": position.step, "epoch": position.epoch + 1, "train_loss": loss}
            | {f"validation_{name}": value for name, value in scores.items()}
        )
        tracked = {f"validation/{name}": value for name, value in scores.items()}
        self.accelerator.log(tracked, position.step)
        value = scores[self.metric]
        if math.isnan(value):
            raise TrainingError(
                f"the validation {self.metric} after epoch {position.epoch + 1} is not a number;"
                " choose another train.metric_for_best, or lower train.learning_rate."
            )
        if self.section.lr_scheduler == "plateau":
            position.plateau = lowered(self.section, position.plateau, scores["loss"])
        better = position.best is None or self._better(value, position.best.scores[self.metric])
        if better:
            position.best = Best(position.epoch + 1, position.step, scores)
            position.waited = 0
            if self.accelerator.is_main_process:
                self._save_adapter()
        else:
            position.waited += 1
        mark = " (best)" if better else ""
        self.progress.say(
            f"epoch {position.epoch + 1}: train loss {loss:.4f}, validation {shown(scores)}{mark}"
        )

    def _save_adapter(self) -> None:
        place = self.session.folder / ADAPTER
        try:
            peftcore.save(self.adapter, place, extra=self.extra())
        except CheckpointError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            raise unwritable(place, error.__cause__) from error

    def extra(self) -> dict[str, Any]:
        """Return what is stored with every adapter of the run."""
        return {"recipe": self.session.description}

    def _better(self, value: float, before: float) -> bool:
        return value > before if self.greater else value < before

    def save(self, *, wait: bool = True) -> None:
        """Write the state, from which the run can go on.

        Args:
            wait: let the other processes wait until it is written.

        Raises:
            TrainingError: the loss has become other than finite; nothing is written.
        """
        self._settle()
        self.saved = time.monotonic()
        self.position.seconds = time.monotonic() - self.started
        self.position.metrics_size = self.metrics.size
        if self.accelerator.is_main_process:
            save_state(
                self.session.folder,
                self.position,
                self.accelerator.unwrap_model(self.session.model),
                self.adapter,
                self.session.optimizer,
                self.accelerator,
                keep=self.section.save_total_limit,
                extra=self.extra(),
            )
        if wait:
            self.accelerator.wait_for_everyone()

    def _check_stop(self) -> None:
        if self.session.stop.asked:
            self.save()
            raise Interrupted(
                f"interrupted after step {self.position.step}; the state is saved. Go on with:"
                f" peftcore train --resume {whole_run(self.session.folder)}"
            )
