"""The experiment: a pool is labelled round by round, and each round trains anew."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_active import curves, runs
from peftcore_active.pool import check_strategies, choose
from peftcore_active.section import ACTIVE, RANDOM, ActiveSection
from peftcore_train import recipes, rundir
from peftcore_train.data import Row
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, parted
from peftcore_train.schema import job_of
from peftcore_train.signals import Stop

FOUND, PICTURE = "active.json", "active.png"


def begin(
    document: Document, changes: Mapping[str, Any], output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Label a pool by each strategy, in a new directory.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit; nothing is trained.
    """
    document, bare, section = runs.checked(document, ACTIVE, ActiveSection, changes)
    task, rows = runs.rows_of(job_of(bare))
    _check_budget(section, len(rows))
    runs.metric_of(ACTIVE, section.metric, job_of(bare), task)
    check_strategies(section.strategies, job_of(bare), task)
    folder = runs.begin(document, bare, output)
    return folder, go_on(folder, {}, progress)


def _check_budget(section: ActiveSection, pool: int) -> None:
    if section.budget > pool:
        raise ConfigError(
            f"active: {section.start} rows at first and {section.rounds} rounds of {section.add}"
            f" are {section.budget} labels, but the pool has {pool} rows. Take fewer, or raise"
            " data.limits.train."
        )


def go_on(folder: Path, changes: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Go on with the experiment of a directory, perhaps with more rounds.

    Raises:
        Interrupted: the user asked to stop; what was done is kept.
    """
    rundir.check_run(folder)
    data = recipes.read(folder / rundir.CONFIG).data
    data = {**data, ACTIVE: {**(data.get(ACTIVE) or {}), **changes}}
    document = Document(str(folder / rundir.CONFIG), data, {})
    bare, section = parted(document, ACTIVE, ActiveSection)
    task, rows = runs.rows_of(job_of(bare))
    _check_budget(section, len(rows))
    metric, greater = runs.metric_of(ACTIVE, section.metric, job_of(bare), task)
    rundir.write_config(folder, data)
    with runs.going_on(folder, ACTIVE) as stop:
        labelling = Labelling(folder, bare, section, rows, runs.labels_of(task), progress, stop)
        labelling.column, labelling.metric = task.columns().label, metric
        runs_found = labelling.run()
    found = curves.summed_up(str(data["name"]), section, greater, runs_found)
    rundir.write_json(folder / FOUND, found)
    curves.picture(found).savefig(folder / PICTURE, dpi=150, metadata={"Software": None})
    return found


class Labelling:
    """A pool that is labelled, by every strategy with every seed.

    Args:
        folder: the directory of the experiment.
        document: the recipe without the section.
        section: the section.
        rows: the pool, whose labels are shown to what was chosen alone.
        labels: the labels, as a value of the recipe.
        progress: what to tell the user.
        stop: whether a stop was asked for.

    Attributes:
        column: of the one label that a row has.
        metric: test metric that is told.
    """

    column: str | None = None
    metric: str = "loss"

    def __init__(
        self,
        folder: Path,
        document: Document,
        section: ActiveSection,
        rows: Sequence[Row],
        labels: Mapping[str, Any],
        progress: Progress,
        stop: Stop,
    ):
        self.folder, self.document, self.section = folder, document, section
        self.rows, self.labels = rows, labels
        self.progress, self.stop = progress, stop

    def run(self) -> list[dict[str, Any]]:
        """Return the results of every run, with its seed, strategy, round and labels."""
        found = []
        for seed in self.section.seeds:
            first = self._round(seed, RANDOM, 0, self._first(seed))
            for strategy in (RANDOM, *self.section.strategies):
                found.append({**first, "strategy": strategy})
                place, picked = self._place(seed, RANDOM, 0), first["picked"]
                for number in range(1, self.section.rounds + 1):
                    mine = self._place(seed, strategy, number)
                    picked = runs.picked_in(mine) or [
                        *picked, *self._chosen(strategy, place, picked, seed, number),
                    ]  # fmt: skip
                    found.append(self._round(seed, strategy, number, picked))
                    place = mine
        return found

    def _place(self, seed: int, strategy: str, number: int) -> Path:
        name = f"{strategy}-{number:03d}" if number else "start"
        return self.folder / f"seed-{seed}" / name

    def _first(self, seed: int) -> list[int]:
        """Return the rows that are labelled at first: at random, but of two labels at least."""
        order = list(range(len(self.rows)))
        random.Random(f"{seed}-start").shuffle(order)
        picked, rest = order[: self.section.start], order[self.section.start :]
        label = {i: str(self.rows[i].values.get(self.column)) for i in order} if self.column else {}
        if label and len({label[i] for i in picked}) == 1:
            picked[-1] = next(i for i in rest if label[i] != label[picked[0]])
        return picked

    def _chosen(
        self, strategy: str, before: Path, picked: Sequence[int], seed: int, number: int
    ) -> list[int]:
        """Return the numbers of the rows that are labelled next."""
        have = set(picked)
        left = [i for i in range(len(self.rows)) if i not in have]
        if strategy == RANDOM:
            return random.Random(f"{seed}-{number}").sample(left, self.section.add)
        pool, labelled = ([self.rows[i] for i in numbers] for numbers in (left, picked))
        section = self.section
        places, _ = choose(
            strategy, before, pool, labelled, section.add, section.passes, f"{seed}-{number}"
        )  # fmt: skip
        return [left[place] for place in places]

    def _round(self, seed: int, strategy: str, number: int, picked: list[int]) -> dict[str, Any]:
        values = {"seed": seed, "data.picked": self._picks(picked), **self.labels}
        place = self._place(seed, strategy, number)
        known = (place / rundir.RESULTS).is_file()
        results = runs.trained(place, runs.with_values(self.document, values), self.stop)
        metric = self.metric
        if not known:
            self.progress.say(
                f"seed {seed}, {strategy if number else 'start'}, {len(picked)} labels: test"
                f" {metric} {results['test'][metric]:.4f}"
            )
        return {
            "seed": seed,
            "strategy": strategy,
            "round": number,
            "picked": picked,
            "metric": metric,
            "test": results["test"][metric],
            "run": str(place.relative_to(self.folder)),
        }

    def _picks(self, picked: list[int]) -> dict[str, list[int]]:
        others = (self.document.data["data"].get("picked")) or {}
        return {**others, "train": picked}
