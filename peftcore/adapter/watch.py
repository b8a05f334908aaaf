"""What a loop leaves out without an error is found while it runs, whoever wrote it.

Pieces that get no gradient are found after the first backward pass, training hooks that nobody
calls after some steps.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftcore.adapter.state import Attached

#: Optimiser steps after which hooks that were not called are told of.
STEPS = 20
#: Hooks that a loop calls, with what it calls on the adapter.
_CALLS = {
    "peftcore_learning_rates": "parameter_groups(lr)",
    "peftcore_before_run": "before_run(steps)",
    "peftcore_extra_loss": "extra_loss()",
    "peftcore_after_step": "after_step(step, steps)",
}


class DeadPieceWarning(UserWarning):
    """A piece got no gradient in the first backward pass."""


class UncalledHookWarning(UserWarning):
    """A method has hooks of training, and the loop does not call them."""


class Watch:
    """Sees which trained tensors get a gradient in the first backward pass.

    It is called whenever a piece runs with gradients, until it has reported: at the next forward,
    because a backward pass that recomputes checkpointed parts has ends within it.
    """

    def __init__(self, adapter: Attached):
        self.adapter = adapter
        self._waiting: dict[str, Any] | None = None
        self._all = 0

    def __call__(self) -> bool:
        """Begin, or report once a backward pass is over; tell whether that is done."""
        if self._waiting is None:
            self._begin()
        if len(self._waiting or ()) == self._all or torch._C._current_graph_task_id() != -1:
            return False
        self.report()
        return True

    def _begin(self) -> None:
        waiting: dict[str, Any] = {}
        self._waiting = waiting
        for name, parameter in self.adapter.named_parameters():

            def seen(_: Tensor, name: str = name) -> None:
                if (handle := waiting.pop(name, None)) is not None:
                    handle.remove()

            waiting[name] = parameter.register_post_accumulate_grad_hook(seen)
        self._all = len(waiting)

    def report(self) -> None:
        """Warn of what got no gradient, if a backward pass has been there."""
        dead = dict(self._waiting or {})
        if self._waiting is None or len(dead) == self._all:
            return
        for handle in dead.values():
            handle.remove()
        self._waiting.clear()
        alive = (p for name, p in self.adapter.named_parameters() if name not in dead)
        _await_hooks(self.adapter, next(alive))
        if not dead:
            return
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        warnings.warn(
            f"{next(iter(dead))}{more} of adapter {self.adapter.name!r} got no gradient in the"
            " first backward pass. If the model uses that place in other passes, all is well; if"
            " not, it trains nothing: leave it out with exclude (adapter.check_alive() raises).",
            DeadPieceWarning,
            stacklevel=2,
        )


def _await_hooks(adapter: Attached, parameter: nn.Parameter) -> None:
    """Count the steps of a loop, and warn once of the training hooks that it does not call.

    Args:
        adapter: what is trained.
        parameter: one of its parameters, which gets gradients.
    """
    if not any(adapter.methods.each(hook) for hook in _CALLS):
        return
    steps, version, gathered = 0, parameter._version, _reference(parameter.grad)

    def passed(_: Tensor) -> None:
        nonlocal steps, version, gathered
        # a loop may gather gradients for as long as it likes; fused optimisers count no version
        if parameter._version == version and gathered() is parameter.grad:
            return
        steps, version, gathered = steps + 1, parameter._version, _reference(parameter.grad)
        if steps == STEPS:
            handle.remove()
            _tell_uncalled(adapter)

    handle = parameter.register_post_accumulate_grad_hook(passed)


def _reference(grad: Tensor | None) -> Callable[[], Tensor | None]:
    return (lambda: None) if grad is None else weakref.ref(grad)


def _tell_uncalled(adapter: Attached) -> None:
    missing = {
        hook: [method.label for method, _ in adapter.methods.each(hook)]
        for hook in _CALLS
        if hook not in adapter.called and adapter.methods.each(hook)
    }
    if "peftcore_learning_rates" in missing and not adapter.learning_rates():
        del missing["peftcore_learning_rates"]  # every factor is 1
    if not missing:
        return
    calls = ", ".join(_CALLS[hook] for hook in missing)
    whose = ", ".join(dict.fromkeys(label for labels in missing.values() for label in labels))
    warnings.warn(
        f"adapter {adapter.name!r} was trained for {STEPS} steps without {calls}, where {whose} has"
        " hooks: what they do is left out. Call them as in docs/how-to/own-loop.md; a Trainer of"
        " transformers does so after add_training_hooks(trainer) of peftcore-transformers.",
        UncalledHookWarning,
        stacklevel=2,
    )
