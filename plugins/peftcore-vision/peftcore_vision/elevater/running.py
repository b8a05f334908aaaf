"""The benchmark from a recipe to its score: of each data set a sweep, then the last run."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_train import recipes, rundir
from peftcore_train.errors import TrainingError
from peftcore_train.fitting import Column
from peftcore_train.planning import rehearse
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, Origin, override, parted
from peftcore_train.running import run
from peftcore_train.schema import anchored, job_of
from peftcore_train.signals import Stop, stop_on_signals
from peftcore_vision.elevater.benchmark import (
    Best,
    benchmark_score,
    best_rate,
    performance_efficiency,
)
from peftcore_vision.elevater.catalogue import DATA_SETS, METRICS
from peftcore_vision.elevater.section import SECTION, ElevaterSection

FOUND, SWEEP = "elevater.json", "sweep.json"


def begin(
    document: Document, output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Run the benchmark in a new directory.

    Raises:
        PeftcoreError: the recipe, a data set or the model does not fit; nothing is trained.
    """
    document = anchored(document)
    bare, section = parted(document, SECTION, ElevaterSection)
    if (bare.data.get("task") or {}).get("type") != "elevater":
        raise ConfigError(f"{document.file}: task.type is elevater for the benchmark.")
    jobs = {name: job_of(_of(bare, {"task.dataset": name})) for name in section.datasets}
    for name, job in jobs.items():
        with progress.doing(f"rehearsing {name}"):
            rehearse([job])
    first = next(iter(jobs.values())).recipe
    folder = rundir.create(output or first.output, first.name)
    rundir.write_config(folder, document.data)
    return folder, go_on(folder, progress)


def go_on(folder: Path, progress: Progress) -> dict[str, Any]:
    """Go on with the benchmark of a directory; what was scored is not trained again.

    Raises:
        Interrupted: the user asked to stop; what was done is kept.
    """
    rundir.check_run(folder)
    bare, section = parted(recipes.read(folder / rundir.CONFIG), SECTION, ElevaterSection)
    runs = []
    with rundir.locked(folder), stop_on_signals() as stop:
        for name in section.datasets:
            for seed in section.seeds:
                values = {"task.dataset": name, "task.shots_seed": seed, "seed": seed}
                place = folder / name / f"seed-{seed}"
                one = _Cell(place, _of(bare, values), section, stop, progress)
                runs.append({"dataset": name, "seed": seed, **one.run()})
    found = {"name": str(bare.data["name"]), **summary(runs)}
    rundir.write_json(folder / FOUND, found)
    return found


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return scores by data set, their mean, and performance efficiency.

    Args:
        runs: of each run ``dataset``, ``score`` in [0, 1] and ``parameters``, head included.
    """
    names = list(dict.fromkeys(run["dataset"] for run in runs))

    def mean(name: str, key: str) -> float:
        return benchmark_score({str(i): r[key] for i, r in enumerate(runs) if r["dataset"] == name})

    scores = {name: mean(name, "score") for name in names}
    parameters = benchmark_score({name: mean(name, "parameters") for name in names})
    score = benchmark_score(scores)
    return {
        "score": score,
        "parameters": parameters,
        "performance_efficiency": performance_efficiency(score, parameters),
        "whole": len(names) == len(DATA_SETS),
        "datasets": scores,
        "runs": runs,
    }


class _Cell:
    """One data set with one draw."""

    def __init__(
        self,
        place: Path,
        document: Document,
        section: ElevaterSection,
        stop: Stop,
        progress: Progress,
    ):
        self.place, self.document, self.section = place, document, section
        self.stop, self.progress = stop, progress
        self.metric = METRICS[DATA_SETS[document.data["task"]["dataset"]].metric]
        self.shown = "/".join(place.parts[-2:])

    def run(self) -> dict[str, Any]:
        """Return the test score of the last run, and with what it was trained."""
        rate, best = self._swept()
        values: dict[str, Any] = {
            "train.learning_rate": rate,
            "train.weight_decay": best.value,
            "train.epochs": self.section.final_epochs,
            # every epoch of validation is one of training now: the loss takes the last good one
            "train.metric_for_best": "loss",
            "task.whole": True,
            "data.accept": [*(self.document.data["data"].get("accept") or ()), "leak"],
        }
        found = self._trained("final", values)
        counts = found["parameters"]
        score = found["test"][self.metric]
        self.progress.say(f"{self.shown}: {self.metric} {score:.4f}, rate {rate:g}")
        return {
            "score": score,
            "metric": self.metric,
            "parameters": counts["trainable"] + counts["head"],
            "learning_rate": rate,
            "weight_decay": best.value,
            "validation": best.score,
        }

    def _swept(self) -> tuple[float, Best]:
        rates, given = self.section.learning_rates, self.section.weight_decay
        if given is None:
            return best_rate(self._score, rates)
        scores = {rate: self._score(rate, given) for rate in rates}
        rate = max(scores, key=lambda one: scores[one])
        return rate, Best(given, scores[rate])

    def _score(self, rate: float, strength: float) -> float:
        """Return the validation score of a run of the sweep; of one that cannot be, 0."""
        key = f"{rate:g} {strength:.6g}"
        file = self.place / SWEEP
        known: dict[str, float] = rundir.read_json(file) if file.is_file() else {}
        if key not in known:
            values = {
                "train.learning_rate": rate,
                "train.weight_decay": strength,
                "train.epochs": self.section.sweep_epochs,
                "train.metric_for_best": self.metric,
                "data.limits": {**(self.document.data["data"].get("limits") or {}), "test": 1},
            }
            known[key] = self._of_sweep(values)
            rundir.write_json(file, known)
            self.progress.say(f"{self.shown}: validation {known[key]:.4f} at {key}")
        return known[key]

    def _of_sweep(self, values: Mapping[str, Any]) -> float:
        try:
            score = self._trained("trial", values)["validation"][self.metric]
            return float(score) if score == score else 0.0
        except TrainingError:  # too high a rate, as in the benchmark's toolkit
            return 0.0
        finally:
            if not self.stop.asked:
                shutil.rmtree(self.place / "trial", ignore_errors=True)

    def _trained(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        place, document = self.place / name, _of(self.document, values)
        if (place / rundir.RESULTS).is_file():
            found: dict[str, Any] = rundir.read_json(place / rundir.RESULTS)
            return found
        place.mkdir(parents=True, exist_ok=True)
        rundir.write_config(place, document.data)
        with rundir.locked(place):
            return run(job_of(document), place, self.stop, Progress(quiet=True))


def _of(document: Document, values: Mapping[str, Any]) -> Document:
    """Return a recipe with values by their keys."""
    for key, value in values.items():
        document = override(document, key, value, Origin(SECTION, 0))
    return document


def columns_of(found: Mapping[str, Any]) -> list[Column]:
    """Return the table: a line for each data set, and the mean."""
    scores = dict(found["datasets"])
    metrics = {run["dataset"]: run["metric"] for run in found["runs"]}
    mean = "mean of 20" if found["whole"] else f"mean of {len(scores)}, not of 20"
    return [
        Column("data set", [*scores, mean]),
        Column("metric", [*(metrics[name] for name in scores), ""]),
        Column("score", [f"{100 * value:.2f}" for value in (*scores.values(), found["score"])]),
    ]
