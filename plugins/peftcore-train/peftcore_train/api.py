"""Training and comparing from Python: what the commands do, with objects that show themselves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from peftcore import PeftcoreError, installed
from peftcore_train import experiment, recipes, rundir
from peftcore_train.comparing import comparison
from peftcore_train.comparing.table import columns_of, notes
from peftcore_train.fitting import Column, as_html, as_text
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, Origin
from peftcore_train.report import number
from peftcore_train.schema import read_recipe

#: Columns of a table where there is no terminal to ask.
_WIDTH = 100
Recipe = str | PathLike[str] | Mapping[str, Any]


class Shown:
    """Something with a table, and with a picture where peftcore-report is installed.

    Attributes:
        folder: its directory.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def columns(self) -> Sequence[Column]:
        """Return the columns of its table."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__} in {self.folder}\n{as_text(self.columns(), _WIDTH)}"

    def _repr_html_(self) -> str:
        try:
            picture = self.plot()._repr_html_()
        except PeftcoreError:
            picture = ""  # no plugin draws, or there is nothing to draw yet
        return as_html(self.columns()) + picture

    def plot(self) -> Any:
        """Return its picture, which notebooks show; ``figure`` is matplotlib's.

        Raises:
            UnknownName: peftcore-report is not installed.
            ConfigError: there is nothing to draw.
        """
        draw = installed().resolve("commands", "report", "function")
        return draw(self.folder, write=False).picture


class Run(Shown):
    """One trained set of methods.

    Attributes:
        folder: the run directory.
        results: what ``results.json`` holds.
    """

    def __init__(self, folder: Path, results: dict[str, Any]):
        super().__init__(folder)
        self.results = results

    @property
    def validation(self) -> dict[str, float]:
        """The validation scores of the best epoch."""
        found: dict[str, float] = self.results["validation"]
        return found

    @property
    def test(self) -> dict[str, float]:
        """The test scores."""
        found: dict[str, float] = self.results["test"]
        return found

    @property
    def adapter(self) -> Path:
        """The adapter, for :func:`peftcore.load`."""
        return self.folder / rundir.ADAPTER

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``: losses of steps, scores of epochs."""
        text = (self.folder / rundir.METRICS).read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def columns(self) -> Sequence[Column]:
        """Return the scores, a line for each metric."""
        names = [name for name in self.test if "." not in name]
        return [
            Column("metric", names),
            Column("validation", [number(self.validation.get(name)) for name in names]),
            Column("test", [number(self.test[name]) for name in names]),
        ]


class Runs(Shown, Mapping[str, Run]):
    """The arms of a recipe that trained; a mapping from their names.

    Attributes:
        folder: the directory of all.
        failed: the sentence of each arm that failed.
    """

    def __init__(self, folder: Path, results: experiment.Results):
        super().__init__(folder)
        self.failed = experiment.failures(results)
        self._runs = {
            arm: Run(folder / arm, found)
            for arm, found in results.items()
            if arm not in self.failed
        }

    def __getitem__(self, arm: str) -> Run:
        return self._runs[arm]

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def columns(self) -> Sequence[Column]:
        """Return a line for each arm."""
        metric = next((run.results["metric"] for run in self.values()), "")
        shown = {
            arm: [f"{run.results['parameters']['trainable']:,}"]
            + [number(scores[metric]) for scores in (run.validation, run.test)]
            for arm, run in self.items()
        }
        shown |= {arm: ["failed"] * 3 for arm in self.failed}
        titles = ("trainable", f"validation {metric}", f"test {metric}")
        columns = zip(*shown.values(), strict=True)
        return [
            Column("method", list(shown)),
            *(Column(t, list(c)) for t, c in zip(titles, columns, strict=True)),
        ]


class Comparison(Shown):
    """Methods by settings by seeds.

    Attributes:
        folder: the directory of the comparison.
        found: what ``comparison.json`` holds.
    """

    def __init__(self, folder: Path, found: dict[str, Any]):
        super().__init__(folder)
        self.found = found

    @property
    def arms(self) -> dict[str, Any]:
        """What was found of each arm."""
        arms: dict[str, Any] = self.found["arms"]
        return arms

    @property
    def pairs(self) -> list[dict[str, Any]]:
        """The tests of every two arms."""
        pairs: list[dict[str, Any]] = self.found["pairs"]
        return pairs

    @property
    def failed(self) -> dict[str, str]:
        """The sentence of each run that failed."""
        failed: dict[str, str] = self.found["failed"]
        return failed

    def run(self, arm: str, seed: int | None = None) -> Run:
        """Return a run of an arm, the first one unless a seed is given."""
        runs = [r for r in self.arms[arm]["runs"] if seed is None or r["seed"] == seed]
        place = self.folder / runs[0]["run"]
        return Run(place, rundir.read_json(place / rundir.RESULTS))

    def columns(self) -> Sequence[Column]:
        """Return a line for each arm."""
        return columns_of(self.found)

    def __repr__(self) -> str:
        return "\n".join([super().__repr__(), *notes(self.found)])


def train(
    recipe: Recipe, /, *, output: str | None = None, quiet: bool = False, **sections: Any
) -> Run | Runs:
    """Train what a recipe says.

    Args:
        recipe: a file, or the recipe as a mapping.
        output: folder that the run directory goes into.
        quiet: say nothing on stderr.
        sections: changes of the recipe, as ``seed=1`` or ``train={"epochs": 2}``; keys as the
            messages write them are taken too: ``**{"methods[0].rank": 16}``.

    Returns:
        The run; for a recipe with ``compare``, a mapping from each arm to its run.

    Raises:
        PeftcoreError: the recipe, the data, the model or the methods do not fit.
    """
    folder, results = experiment.begin(document_of(recipe, sections), output, Progress(quiet=quiet))
    return Runs(folder, results) if any(results) else Run(folder, results[""])


def compare(
    recipe: Recipe,
    /,
    *,
    output: str | None = None,
    jobs: int = 1,
    executor: str = "processes",
    quiet: bool = False,
    **sections: Any,
) -> Comparison:
    """Train all that a recipe compares; what failed is told by the result.

    Args:
        recipe: a file, or the recipe as a mapping.
        output: folder that the new directory goes into.
        jobs: runs at a time, as far as memory allows.
        executor: where they run.
        quiet: say nothing on stderr.
        sections: changes of the recipe, as for :func:`train`.

    Raises:
        PeftcoreError: the recipe, the data, a model or the methods do not fit.
    """
    options = comparison.Options(executor, jobs)
    document = document_of(recipe, sections)
    return Comparison(*comparison.begin(document, output, options, Progress(quiet=quiet)))


def document_of(recipe: Recipe, sections: Mapping[str, Any]) -> Document:
    """Return a recipe with changes; those of a section are merged into it.

    Raises:
        ConfigError: the recipe cannot be read, or a change does not fit.
    """
    whole = isinstance(recipe, Mapping)
    document = recipes.from_data(recipe) if whole else read_recipe(fspath(recipe))
    for key, value in sections.items():
        inside = value if isinstance(value, Mapping) else {"": value}
        for name, one in inside.items():
            path = f"{key}.{name}" if name else key
            document = recipes.override(document, path, one, Origin(path, 1 << 30))
    return document
