"""Trackers of accelerate: whether they are there, and how a run begins in them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from peftcore import ConfigError, nearest

#: Trackers that this distribution has an extra for.
EXTRAS = ("tensorboard", "wandb", "trackio", "mlflow")


def check(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker that is unknown or not installed; accelerate skips those."""
    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    ready = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            raise ConfigError(f"train.trackers: no tracker {name!r}.{nearest(name, known)}")
        if name not in ready:
            package = f"'peftcore-train[{name}]'" if name in EXTRAS else name
            raise ConfigError(f"train.trackers: {name} is not installed: pip install {package}")


def begin(
    accelerator: Accelerator, name: str, folder: Path, recipe: Mapping[str, Any], step: int
) -> None:
    """Begin a run in the trackers of an accelerator, or go on with it.

    Args:
        accelerator: made with the names of the trackers.
        name: of the experiment or project: that of the recipe.
        folder: the run directory, whose name is that of the run.
        recipe: the resolved recipe.
        step: optimiser steps that are done; what a killed run told of later ones is told anew.
    """
    run = folder.resolve().name
    accelerator.init_trackers(
        name,
        config=_flat(recipe),
        init_kwargs={
            "tensorboard": {"purge_step": step + 1} if step else {},
            "wandb": {"name": run, "id": run, "resume": "allow", "dir": str(folder)},
            "trackio": {"name": run, "resume": "allow"},
            "mlflow": {"run_name": run},
        },
    )


def end(accelerator: Accelerator) -> None:
    """Let the trackers write what they hold of a run that ends before its time."""
    for tracker in accelerator.trackers:
        tracker.finish()


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return settings by their dotted names, as trackers take them: numbers and texts."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}.")
        elif isinstance(value, int | float | str):
            found[f"{before}{name}"] = value
        else:
            found[f"{before}{name}"] = json.dumps(value)
    return found
