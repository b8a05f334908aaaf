"""Learning rate as a part of its peak, by optimiser step; as in transformers where both have it."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from peftcore_train.schema import TrainSection

#: By how much, as a part of itself, a loss must be lower to count as lower.
_THRESHOLD = 1e-4


@dataclass(frozen=True)
class Plateau:
    """What ``plateau`` has seen; as torch's ``ReduceLROnPlateau`` with its defaults.

    Attributes:
        part: of the rate that is left.
        lowest: the lowest validation loss; None before the first.
        waited: epochs since then, or since the rate was lowered.
    """

    part: float = 1.0
    lowest: float | None = None
    waited: int = 0


def lowered(section: TrainSection, before: Plateau, loss: float) -> Plateau:
    """Return the plateau after one more epoch; the rate goes no lower than ``min_lr_ratio``."""
    if before.lowest is None or loss < before.lowest * (1 - _THRESHOLD):
        return Plateau(before.part, loss)
    waited = before.waited + 1
    if waited <= section.plateau_patience:
        return Plateau(before.part, before.lowest, waited)
    part = max(before.part * section.plateau_factor, section.min_lr_ratio)
    return Plateau(part, before.lowest)


def schedule(section: TrainSection, total: int) -> Callable[[int], float]:
    """Return the function from finished optimiser steps to the part of the peak rate.

    Args:
        section: the ``train`` section.
        total: number of optimiser steps.
    """
    warmup = math.ceil(section.warmup_ratio * total)
    floor = section.min_lr_ratio

    def shape(done: int) -> float:
        left = (done - warmup) / max(1, total - warmup)
        match section.lr_scheduler:
            case "linear":
                return 1 - left
            case "cosine":
                return (1 + math.cos(math.pi * left)) / 2
            case _:
                return 1.0

    def factor(done: int) -> float:
        if done < warmup:
            return done / warmup
        if section.lr_scheduler == "cosine_with_restarts":
            return _restarted(section, done - warmup)
        return floor + (1 - floor) * max(0.0, shape(done))

    return factor


def _restarted(section: TrainSection, done: int) -> float:
    """Return the part of the rate in cycles, each with a rise and half a cosine."""
    assert section.restart_steps is not None
    rise, length = section.restart_warmup_steps, section.restart_steps
    peak, floor = 1.0, section.min_lr_ratio
    while done >= length:
        done -= length
        length = int((length - rise) * section.restart_multiplier) + rise
        peak *= section.restart_decay
    if done < rise:
        share = done / rise
    else:
        share = (1 + math.cos(math.pi * (done - rise) / (length - rise))) / 2
    return floor + max(peak - floor, 0.0) * share
