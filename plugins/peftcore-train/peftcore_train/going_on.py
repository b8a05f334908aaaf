"""More epochs for a run: which fields of its recipe may be other ones, and opening it again."""

from collections.abc import Sequence
from pathlib import Path

from peftcore import ConfigError, nearest
from peftcore_train import recipes, rundir
from peftcore_train.recipes import Document

#: What may be changed of a run that has begun: how long it goes on, and what is kept of it.
FIELDS = (
    "train.epochs", "train.max_steps", "train.early_stopping_patience", "train.save_steps",
    "train.save_minutes", "train.save_total_limit",
)  # fmt: skip


def changed(document: Document, folder: Path, overrides: Sequence[str]) -> Document:
    """Return the recipe of a run with changes.

    Raises:
        ConfigError: one is of a field that says what the run is, or ends it before it ended.
    """
    for text in overrides:
        key = text.partition("=")[0]
        if key not in FIELDS:
            raise ConfigError(
                f"--set {text}: a run that has begun goes on with {', '.join(FIELDS)} changed, and"
                f" nothing else.{nearest(key, FIELDS)} Train another run for {key}."
            )
    found = recipes.changed(document, overrides)
    ended = folder / rundir.RESULTS
    epochs = found.at(("train", "epochs"))
    if ended.is_file() and isinstance(epochs, int):
        results = rundir.read_json(ended)
        arms = results.get("arms", {"": results})
        done = max((r["best"]["epoch"] for r in arms.values() if "best" in r), default=0)
        if epochs < done:
            raise ConfigError(
                f"--set train.epochs={epochs}: the adapter of {folder} is that of epoch {done};"
                " give more epochs than that."
            )
    return found


def reopen(folder: Path, document: Document, arms: Sequence[str]) -> None:
    """Let a run that has ended be one that goes on.

    A kill in between leaves the run as it was or as it is to be, less its results, which are made
    again.
    """
    for place in {folder, *(folder / arm for arm in arms)}:
        (place / rundir.RESULTS).unlink(missing_ok=True)
    rundir.write_config(folder, document.data)
