"""Experiments from Python."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftcore_active import curves, labelling, ordering
from peftcore_train.api import Recipe, document_of
from peftcore_train.fitting import Column, as_html, as_text
from peftcore_train.progress import Progress


class Experiment:
    """An experiment.

    Attributes:
        folder: its directory.
        found: what its file of results holds.
    """

    def __init__(self, folder: Path, found: dict[str, Any], columns: Sequence[Column]):
        self.folder = folder
        self.found = found
        self._columns = columns

    def __repr__(self) -> str:
        return f"Experiment in {self.folder}\n{as_text(self._columns, 100)}"

    def _repr_html_(self) -> str:
        return as_html(self._columns)


def active(
    recipe: Recipe,
    /,
    *,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Experiment:
    """Label a pool round by round, by several strategies and at random.

    Args:
        recipe: a file, or the recipe as a mapping.
        output: folder that the new directory goes into.
        quiet: say nothing on stderr.
        sections: changes of the recipe, as for :func:`peftcore.train`.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit.
    """
    document = document_of(recipe, sections)
    folder, found = labelling.begin(document, {}, output, Progress(quiet=quiet))
    return Experiment(folder, found, curves.columns(found))


def curriculum(
    recipe: Recipe,
    /,
    *,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Experiment:
    """Train on easy rows first, on hard ones first, and in any order.

    Args:
        recipe: a file, or the recipe as a mapping.
        output: folder that the new directory goes into.
        quiet: say nothing on stderr.
        sections: changes of the recipe, as for :func:`peftcore.train`.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit.
    """
    document = document_of(recipe, sections)
    folder, found = ordering.begin(document, {}, output, Progress(quiet=quiet))
    return Experiment(folder, found, ordering.columns(found))
