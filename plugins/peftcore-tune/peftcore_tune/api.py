"""A search from Python."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftcore_train import recipes
from peftcore_train.api import Recipe, document_of
from peftcore_train.fitting import as_html, as_text
from peftcore_train.progress import Progress
from peftcore_tune import tuning


class Tuning:
    """A search.

    Attributes:
        folder: its directory.
        found: what ``tuning.json`` holds.
    """

    def __init__(self, folder: Path, found: dict[str, Any]):
        self.folder = folder
        self.found = found

    @property
    def best(self) -> dict[str, Any]:
        """The values of the best trial, by key."""
        values: dict[str, Any] = self.found["best"]["values"]
        return values

    @property
    def recipe(self) -> dict[str, Any]:
        """The best recipe, for :func:`peftcore.train`."""
        return recipes.read(self.folder / tuning.BEST).data

    @property
    def importance(self) -> dict[str, float]:
        """What part of the differences between trials each field explains."""
        importance: dict[str, float] = self.found["importance"]
        return importance

    def __repr__(self) -> str:
        tables = [as_text(tuning.columns_of(self.found), 100)]
        if self.importance:
            tables.append(as_text(tuning.importance_columns(self.found), 100))
        return "\n".join([f"Tuning in {self.folder}", *tables])

    def _repr_html_(self) -> str:
        shown = as_html(tuning.columns_of(self.found))
        return shown + as_html(tuning.importance_columns(self.found))


def tune(
    recipe: Recipe,
    /,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    parameters: Mapping[str, Any] | None = None,
    output: str | None = None,
    storage: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Tuning:
    """Search for the settings of a recipe that give the best validation score, in this process.

    Args:
        recipe: a file, or the recipe as a mapping.
        trials: trials of the whole search.
        minutes: minutes after which no further trial begins.
        parameters: key to range ``4..64:log``, to a list, or to None for what the schema allows.
        output: folder that the new directory goes into.
        storage: address of a database that workers share.
        quiet: say nothing on stderr.
        sections: changes of the recipe, as for :func:`peftcore.train`.

    Raises:
        PeftcoreError: the recipe, a range, the data or the model does not fit, or no trial came to
            an end.
    """
    given = {"trials": trials, "minutes": minutes, "storage": storage}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if parameters is not None:
        changes["parameters"] = dict(parameters)
    document = document_of(recipe, sections)
    folder, found = tuning.begin(document, changes, output, "in-process", 1, Progress(quiet=quiet))
    tuning.check(folder, found)
    return Tuning(folder, found)
