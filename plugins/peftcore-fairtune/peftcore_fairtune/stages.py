"""Both stages: the search for a mask, then training with the best one and testing it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftcore_fairtune import fairness, search
from peftcore_fairtune.search import BEST, FOUND, Search
from peftcore_train import recipes, rundir
from peftcore_train.fitting import Column
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, Origin, override
from peftcore_train.report import number
from peftcore_train.running import run
from peftcore_train.schema import job_of
from peftcore_train.signals import stop_on_signals

_SHOWN = 10
_SCORES = (
    "accuracy", "accuracy_min", "accuracy_gap", "auroc", "auroc_min", "auroc_gap",
    "equalized_odds_difference", "demographic_parity_difference", "demographic_parity_ratio",
)  # fmt: skip


def begin(
    document: Document, changes: Mapping[str, Any], output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Search for a mask in a new directory, and train with the best one.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit; nothing is trained.
    """
    folder = search.begin(document, changes, output)
    return folder, go_on(folder, {}, progress)


def go_on(folder: Path, changes: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Go on with the search of a directory, perhaps with more trials; then the second stage.

    Raises:
        TrainingError: no mask came to an end.
        Interrupted: the user asked to stop; what was done is kept.
    """
    rundir.check_run(folder)
    data = recipes.read(folder / rundir.CONFIG).data
    section = {**(data.get(search.SECTION) or {}), **changes}
    rundir.write_config(folder, {**data, search.SECTION: section})
    searching = Search(folder, progress)
    study = searching.run()
    best = search.best_of(study)
    recipe = searching.of_values(best["mask"], best["learning_rate"])
    rundir.write_text(folder / BEST, recipes.dump(recipe.data))
    progress.say(f"best mask {best['mask']}: validation {searching.metric} {best['value']:.4f}")
    runs = _retrained(folder, searching, recipe, best, progress)
    reports = [fairness.report(place) for place in runs]
    found = {
        "name": str(data["name"]),
        "metric": searching.metric,
        "direction": searching.direction,
        "best": best,
        "trials": search.trials_of(study),
        "test": {name: fairness.mean_of([one[name] for one in reports]) for name in reports[0]},
        "runs": [
            {"run": str(place.relative_to(folder)), "test": one}
            for place, one in zip(runs, reports, strict=True)
        ],
    }
    rundir.write_json(folder / FOUND, found)
    return found


def _retrained(
    folder: Path, searching: Search, recipe: Document, best: Mapping[str, Any], progress: Progress
) -> list[Path]:
    """Train with the best mask, once with each seed; what is there already is kept."""
    section, places = searching.section, []
    here = Origin(search.SECTION, 0)
    if section.retrain_epochs is not None:
        recipe = override(recipe, "train.epochs", section.retrain_epochs, here)
    with rundir.locked(folder), stop_on_signals() as stop:
        for seed in section.retrain_seeds:
            place = folder / "retrained" / f"{best['number']:04d}-seed-{seed}"
            places.append(place)
            if (place / rundir.RESULTS).is_file():
                continue
            mine = override(recipe, "seed", seed, here)
            place.mkdir(parents=True, exist_ok=True)
            rundir.write_config(place, mine.data)
            with rundir.locked(place):
                run(job_of(mine), place, stop, Progress(quiet=True))
            progress.say(f"trained with the best mask, seed {seed}")
    return places


def trial_columns(found: Mapping[str, Any]) -> list[Column]:
    """Return the best masks, a line for each."""
    done = [t for t in found["trials"] if t["state"] == "complete"]
    done.sort(key=lambda t: t["value"], reverse=found["direction"] == "maximize")
    shown = done[:_SHOWN]
    return [
        Column("trial", [str(t["number"]) for t in shown]),
        Column(f"validation {found['metric']}", [number(t["value"]) for t in shown]),
        Column("mask", [t["mask"] for t in shown]),
        Column("learning rate", [f"{t['learning_rate']:.2g}" for t in shown]),
    ]


def test_columns(found: Mapping[str, Any]) -> list[Column]:
    """Return the test scores of the second stage, a line for each, a column for each attribute."""
    names = [name for name in _SCORES if all(name in one for one in found["test"].values())]
    return [
        Column("test, mean over seeds", names),
        *(Column(a, [f"{one[n]:.3f}" for n in names]) for a, one in found["test"].items()),
    ]
