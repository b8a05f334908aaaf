"""The training hooks of methods in transformers' Trainer, and in those that inherit from it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from peftcore import Adapter, AttachError, adapters


def add_training_hooks(trainer: Trainer) -> None:
    """Let a Trainer call every training hook of its model's active adapters.

    Call it once, between making the Trainer and ``train()``. It holds for trainers that inherit
    from transformers' own and leave backward passes to its accelerator, however they compute the
    loss. An optimiser that was given to the Trainer keeps the groups that it has.

    Raises:
        AttachError: no adapter of the model is active, or the hooks were added before.
    """
    name = type(trainer).__name__
    if any(isinstance(there, _Hooks) for there in trainer.callback_handler.callbacks):
        raise AttachError(f"this {name} calls training hooks already.")
    hooks = _Hooks(trainer)
    if not hooks.active():
        raise AttachError(
            f"the model of this {name} has no active adapter, so that there are no hooks to call:"
            " attach one before the Trainer is made."
        )
    trainer.add_callback(hooks)
    trainer.create_optimizer = hooks.create_optimizer
    trainer.accelerator.backward = hooks.backward


class _Hooks(TrainerCallback):
    """Stands where a Trainer makes its optimiser, calls backward, and steps."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self._create_optimizer = trainer.create_optimizer
        self._backward = trainer.accelerator.backward
        self._passes = 0
        self._ended = False

    def active(self) -> list[Adapter]:
        """Return the adapters that are trained."""
        return [adapter for adapter in adapters(self.trainer.model).values() if adapter.active]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        """Make the Trainer's optimiser, and split its groups by the methods' learning rates.

        Raises:
            AttachError: a parameter with a rate of its own is not among the optimiser's.
        """
        given = self.trainer.optimizer is not None
        optimizer: Optimizer = self._create_optimizer(*args, **kwargs)
        factors: dict[nn.Parameter, float] = {}
        for adapter in self.active():
            factors |= adapter.learning_rates()
        if factors and not given:
            _split(optimizer, factors)
        return optimizer

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Add what the methods add to the loss, a part for each batch of the step."""
        for adapter in self.active():
            extra = adapter.extra_loss()
            if isinstance(extra, Tensor):
                # the Trainer has divided its loss, or has taken a mean over the whole step
                parts = self.trainer.current_gradient_accumulation_steps
                loss = loss + extra.to(loss.device) / parts
        self._passes += 1
        self._backward(loss, **kwargs)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let the methods prepare for the run, or refuse it."""
        self._passes, self._ended = 0, False
        for adapter in self.active():
            adapter.before_run(state.max_steps)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let the methods act while the gradients are still there.

        Raises:
            AttachError: gradients came from elsewhere than the accelerator.
        """
        if not self._passes:
            raise AttachError(
                f"{type(self.trainer).__name__} computes gradients without its accelerator's"
                " backward, so that methods cannot add to the loss. Train in a loop of your own."
            )
        self._passes = 0
        if not self.trainer.accelerator.optimizer_step_was_skipped:
            for adapter in self.active():
                # the Trainer counts the step after this event
                adapter.after_step(state.global_step + 1, state.max_steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Let the methods act after the last step, before the Trainer scores and saves."""
        if control.should_training_stop:
            self._end()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Do the same for a run that a score has ended, if its last values are the ones to keep."""
        if not args.load_best_model_at_end:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            for adapter in self.active():
                adapter.after_run()


def _split(optimizer: Optimizer, factors: dict[nn.Parameter, float]) -> None:
    """Give parameters with a factor of their own a group with that multiple of the rate."""
    missing = set(factors) - {p for group in optimizer.param_groups for p in group["params"]}
    if missing:
        raise AttachError(
            f"{len(missing)} parameters with learning rates of their own are not among those of"
            f" {type(optimizer).__name__}. Give the Trainer an optimiser over"
            " adapter.parameter_groups(lr)."
        )
    groups = []
    for group in optimizer.param_groups:
        # the Trainer reports the rate of the first group
        parts: dict[float, list[nn.Parameter]] = {1.0: []}
        for parameter in group["params"]:
            parts.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        groups += [
            {**group, "params": params, "lr": group["lr"] * factor}
            for factor, params in parts.items()
            if params
        ]
    optimizer.param_groups[:] = groups
