"""Curricula: the same rows and as many steps, with easy rows first, hard ones first, or neither.

Stages of which each takes in more rows, as in Bengio et al. 2009, Curriculum learning,
https://doi.org/10.1145/1553374.1553380. A stage begins with what the one before has learned.
"""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftcore_active import runs
from peftcore_active.section import CURRICULUM, CurriculumSection
from peftcore_train import building, recipes, row_scores, rundir
from peftcore_train.data import Row
from peftcore_train.fitting import Column
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, parted
from peftcore_train.report import number
from peftcore_train.running import Scorer, make_accelerator, reload
from peftcore_train.schema import Job, job_of
from peftcore_train.signals import Stop
from peftcore_train.trained import one_trained

FOUND = "curriculum.json"
#: Training in any order, in one stage, that all orders are held against.
PLAIN = "plain"


def begin(
    document: Document, changes: Mapping[str, Any], output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Train in each order, in a new directory.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit; nothing is trained.
    """
    document, bare, section = runs.checked(document, CURRICULUM, CurriculumSection, changes)
    task, _ = runs.rows_of(job_of(bare))
    runs.metric_of(CURRICULUM, section.metric, job_of(bare), task)
    folder = runs.begin(document, bare, output)
    return folder, go_on(folder, progress)


def go_on(folder: Path, progress: Progress) -> dict[str, Any]:
    """Go on with the curricula of a directory.

    Raises:
        Interrupted: the user asked to stop; what was done is kept.
    """
    rundir.check_run(folder)
    document = recipes.read(folder / rundir.CONFIG)
    bare, section = parted(document, CURRICULUM, CurriculumSection)
    task, rows = runs.rows_of(job_of(bare))
    bare = runs.with_values(bare, runs.labels_of(task))
    with runs.going_on(folder, CURRICULUM) as stop:
        ordering = Ordering(folder, bare, section, rows, task.columns().label, progress, stop)
        ordering.metric, _ = runs.metric_of(CURRICULUM, section.metric, job_of(bare), task)
        tests = ordering.run()
    found = {
        "name": str(bare.data["name"]),
        "metric": ordering.metric,
        "by": section.by,
        "stages": list(section.stages),
        "seeds": list(section.seeds),
        "orders": tests,
    }
    rundir.write_json(folder / FOUND, found)
    return found


class Ordering:
    """Training in every order, with every seed.

    Args:
        folder: the directory.
        document: the recipe without the section.
        section: the section.
        rows: the training rows.
        column: of the one label that a row has, whose proportions every stage keeps.
        progress: what to tell the user.
        stop: whether a stop was asked for.

    Attributes:
        metric: test metric that is told.
    """

    def __init__(
        self,
        folder: Path,
        document: Document,
        section: CurriculumSection,
        rows: Sequence[Row],
        column: str | None,
        progress: Progress,
        stop: Stop,
    ):
        self.folder, self.document, self.section = folder, document, section
        self.rows, self.column = rows, column
        self.progress, self.stop = progress, stop
        self.metric = "loss"

    def run(self) -> dict[str, dict[str, list[float]]]:
        """Return of each order the test scores of every seed, after each stage."""
        tests: dict[str, dict[str, list[float]]] = {PLAIN: {}}
        for seed in self.section.seeds:
            plain = self.folder / f"seed-{seed}" / PLAIN
            results = self._trained(plain, {"seed": seed}, f"seed {seed}, {PLAIN}")
            tests[PLAIN][str(seed)] = [results["test"][self.metric]]
            hard = self._hardness(plain)
            for order in self.section.orders:
                scores = self._stages(order, seed, hard, results["steps"])
                tests.setdefault(order, {})[str(seed)] = scores
        return tests

    def _stages(self, order: str, seed: int, hard: Sequence[float], steps: int) -> list[float]:
        """Return the test scores after each stage of an order."""
        shares, scores, before = self.section.stages, [], None
        for i, share in enumerate(shares):
            mine = steps // len(shares) + (i < steps % len(shares))
            values: dict[str, Any] = {
                "seed": seed,
                "data.picked": {"train": self._first(order, seed, hard, share)},
                "train.max_steps": max(1, mine),
                "train.epochs": max(1, mine),  # steps end it
            }
            if before is not None:
                values["from"] = str(before.resolve())
            before = self.folder / f"seed-{seed}" / f"{order}-{i + 1}"
            told = f"seed {seed}, {order} first, {share:.0%} of the rows"
            scores.append(self._trained(before, values, told)["test"][self.metric])
        return scores

    def _first(self, order: str, seed: int, hard: Sequence[float], share: float) -> list[int]:
        """Return the rows that come first in an order, of each label the same share."""
        kinds: dict[str, list[int]] = defaultdict(list)
        for i, row in enumerate(self.rows):
            kinds[str(row.values.get(self.column)) if self.column else ""].append(i)
        picked = []
        for kind, numbers in sorted(kinds.items()):
            ranked = sorted(numbers, key=lambda i: (hard[i], i), reverse=order == "hard")
            if order == "random":
                random.Random(f"{seed}-{kind}").shuffle(ranked)
            picked += ranked[: math.ceil(share * len(ranked))]
        return sorted(picked)

    def _trained(self, place: Path, values: Mapping[str, Any], told: str) -> dict[str, Any]:
        known = (place / rundir.RESULTS).is_file()
        results = runs.trained(place, runs.with_values(self.document, values), self.stop)
        if not known:
            test = results["test"][self.metric]
            self.progress.say(f"{told}: test {self.metric} {test:.4f}")
        return results

    def _hardness(self, plain: Path) -> list[float]:
        """Return how hard each row is, by its length or by its loss under a trained adapter."""
        trained = one_trained(plain)
        job: Job = trained.job
        task = building.make_task(job)
        model, _, loaded = reload(job, task, trained.adapter)
        features = [task.encode(row, loaded) for row in self.rows]
        if self.section.by == "length":
            return [float(row["length"]) for row in features]
        accelerator = make_accelerator(job.recipe.train)
        scorer = Scorer(task, model, accelerator, job.recipe.train, Progress(quiet=True))
        _, kept = scorer.score_rows(features, "train")
        losses: list[float] = row_scores.of_metric(kept, "loss")[2].tolist()
        return losses


def columns(found: Mapping[str, Any]) -> list[Column]:
    """Return a line for each order."""
    metric, orders = found["metric"], found["orders"]
    last = {name: [scores[-1] for scores in one.values()] for name, one in orders.items()}
    means = {name: sum(scores) / len(scores) for name, scores in last.items()}
    names = {PLAIN: "no curriculum", "random": "stages, any order"}
    return [
        Column(f"by {found['by']}", [names.get(name, f"{name} first") for name in orders]),
        Column(f"test {metric}", [number(means[name]) for name in orders]),
        Column("each seed", [" ".join(f"{s:.3f}" for s in last[name]) for name in orders]),
        Column("against none", [f"{means[name] - means[PLAIN]:+.4f}" for name in orders]),
    ]
