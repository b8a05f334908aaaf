"""Both stages from Python."""

from pathlib import Path
from typing import Any

from peftcore_fairtune import stages
from peftcore_fairtune.search import BEST
from peftcore_train import recipes
from peftcore_train.api import Recipe, document_of
from peftcore_train.fitting import as_html, as_text
from peftcore_train.progress import Progress


class Fairness:
    """A search for a mask, and what training with the best one gave.

    Attributes:
        folder: its directory.
        found: what ``fairtune.json`` holds.
    """

    def __init__(self, folder: Path, found: dict[str, Any]):
        self.folder = folder
        self.found = found

    @property
    def mask(self) -> str:
        """The best mask."""
        mask: str = self.found["best"]["mask"]
        return mask

    @property
    def test(self) -> dict[str, dict[str, float]]:
        """Test scores of each attribute, mean over the seeds of the second stage."""
        test: dict[str, dict[str, float]] = self.found["test"]
        return test

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe with the best mask, for :func:`peftcore.train`."""
        return recipes.read(self.folder / BEST).data

    def __repr__(self) -> str:
        columns = (stages.trial_columns(self.found), stages.test_columns(self.found))
        return "\n".join([f"Fairness in {self.folder}", *(as_text(c, 100) for c in columns)])

    def _repr_html_(self) -> str:
        return as_html(stages.trial_columns(self.found)) + as_html(stages.test_columns(self.found))


def fairtune(
    recipe: Recipe,
    /,
    *,
    trials: int | None = None,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Fairness:
    """Search for the mask with which groups fare best, and train with it.

    Args:
        recipe: a file, or the recipe as a mapping.
        trials: masks that are tried.
        output: folder that the new directory goes into.
        quiet: say nothing on stderr.
        sections: changes of the recipe, as for :func:`peftcore.train`.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit, or no mask came to an end.
    """
    changes = {} if trials is None else {"trials": trials}
    document = document_of(recipe, sections)
    return Fairness(*stages.begin(document, changes, output, Progress(quiet=quiet)))
