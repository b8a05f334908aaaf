"""Learning rate as a part of its peak, by optimiser step; as in transformers where both have it."""

import math
from collections.abc import Callable

from peftcore_train.schema import TrainSection


def schedule(section: TrainSection, total: int) -> Callable[[int], float]:
    """Return the function from finished optimiser steps to the part of the peak rate.

    Args:
        section: the ``train`` section.
        total: number of optimiser steps.
    """
    warmup = math.ceil(section.warmup_ratio * total)
    floor = section.min_lr_ratio
    restart = section.restart_steps or 1

    def shape(done: int) -> float:
        left = (done - warmup) / max(1, total - warmup)
        match section.lr_scheduler:
            case "linear":
                return 1 - left
            case "cosine":
                return (1 + math.cos(math.pi * left)) / 2
            case "cosine_with_restarts":
                return (1 + math.cos(math.pi * ((done - warmup) % restart) / restart)) / 2
            case _:
                return 1.0

    def factor(done: int) -> float:
        if done < warmup:
            return done / warmup
        return floor + (1 - floor) * max(0.0, shape(done))

    return factor
