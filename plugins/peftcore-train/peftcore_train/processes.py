"""The processes of a run: one, or those that accelerate or torchrun started."""

import os
from collections.abc import Callable
from typing import TypeVar

from accelerate import PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import broadcast_object_list

from peftcore_train.errors import TrainingError
from peftcore_train.schema import TrainSection

T = TypeVar("T")


def join(section: TrainSection) -> None:
    """Meet the other processes of this run, if there are any.

    accelerate keeps its settings for the whole process; a run alone starts from none.

    Raises:
        TrainingError: there are others, but not on the device that the recipe asks for.
    """
    AcceleratorState._reset_state()
    GradientState._reset_state()
    state = PartialState(cpu=section.device == "cpu")
    if state.use_distributed:
        return
    PartialState._reset_state()
    if (started := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        raise TrainingError(
            f"{started} processes were started, but no accelerators for them were found;"
            " set train.device: cpu, or start one process."
        )


def is_main() -> bool:
    """Tell whether this process is the one that writes."""
    return bool(PartialState().is_main_process)


def on_main(make: Callable[[], T]) -> T:
    """Call a function in the first process alone, and give its result to all of them."""
    value = [make() if is_main() else None]
    broadcast_object_list(value)
    result: T = value[0]  # type: ignore[assignment]
    return result
