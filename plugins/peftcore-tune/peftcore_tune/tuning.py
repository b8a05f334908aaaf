"""A search from its recipe to the best one."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, wait
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from peftcore import ConfigError, installed
from peftcore_train import recipes, rundir
from peftcore_train.errors import Interrupted, TrainingError
from peftcore_train.fitting import Column
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, parted
from peftcore_train.report import number
from peftcore_train.schema import anchored, job_of
from peftcore_train.signals import stop_on_signals
from peftcore_tune.section import SECTION, TuneSection
from peftcore_tune.space import changed, space_of
from peftcore_tune.trials import FAILED, VALUES, metric_of, opened, place_of, reset, work

TUNING, BEST = "tuning.json", "best.yaml"
#: Trials that are shown.
_SHOWN = 10


def begin(
    document: Document,
    changes: Mapping[str, Any],
    output: str | None,
    executor: str,
    jobs: int,
    progress: Progress,
) -> tuple[Path, dict[str, Any]]:
    """Search for the settings of a recipe, in a new directory.

    Args:
        document: the recipe.
        changes: fields of its ``tune`` section.
        output: folder that the directory goes into.
        executor: where workers run.
        jobs: workers at a time.
        progress: what to tell the user.

    Returns:
        The directory, and what ``tuning.json`` holds.

    Raises:
        PeftcoreError: the recipe, a range, the data or the model does not fit; nothing is trained.
    """
    if "compare" in document.data or "seeds" in document.data:
        raise ConfigError(
            f"{document.file}: a search takes methods and one seed; peftcore compare takes compare"
            " and seeds."
        )
    document = _with(anchored(document), changes)
    make = _executor(executor, jobs)
    bare, section = parted(document, SECTION, TuneSection)
    first = job_of(bare).recipe
    space_of(bare, section)
    folder = rundir.create(output or first.output, first.name)
    rundir.write_config(folder, document.data)
    return folder, _run(folder, make, jobs, progress)


def resume(
    folder: Path, changes: Mapping[str, Any], executor: str, jobs: int, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Go on with a search, perhaps with another budget.

    Raises:
        ConfigError: the folder holds none.
    """
    rundir.check_run(folder)
    document = recipes.read(folder / rundir.CONFIG)
    if SECTION not in document.data:
        raise ConfigError(f"{folder} holds no search; name a directory that peftcore tune wrote.")
    make = _executor(executor, jobs)
    rundir.write_config(folder, _with(document, changes).data)
    return folder, _run(folder, make, jobs, progress)


def _with(document: Document, changes: Mapping[str, Any]) -> Document:
    """Return the recipe with fields of its ``tune`` section changed."""
    section = document.data.get(SECTION)
    if section is not None and not isinstance(section, dict):
        parted(document, SECTION, TuneSection)  # which says so
    data = {**document.data, SECTION: {**(section or {}), **changes}}
    return Document(document.file, data, document.origins)


def _executor(name: str, jobs: int) -> Callable[[int], Executor]:
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: at least one worker.")
    installed().find("executors", name)
    make: Callable[[int], Executor] = installed().resolve("executors", name, "executor")
    return make


def _run(
    folder: Path, make: Callable[[int], Executor], jobs: int, progress: Progress
) -> dict[str, Any]:
    document, section = parted(recipes.read(folder / rundir.CONFIG), SECTION, TuneSection)
    with rundir.locked(folder), stop_on_signals():
        study = opened(folder, document, section)
        if section.storage is None:
            reset(study)
        executor = make(jobs)
        try:
            quiet = "quiet" * progress.quiet
            futures = [executor.submit(work, str(folder), str(i), quiet) for i in range(jobs)]
            wait(futures)
            for future in futures:
                future.result()
        except (Interrupted, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted; every trial is saved. Go on with: peftcore tune --resume {folder}"
            ) from None
        finally:
            executor.shutdown(wait=True, cancel_futures=True)
            found = summary(folder, document, study)
            rundir.write_json(folder / TUNING, found)
            if found["best"] is not None:
                best = changed(document, found["best"]["values"])
                rundir.write_text(folder / BEST, recipes.dump(best.data))
    return found


def summary(folder: Path, document: Document, study: Study) -> dict[str, Any]:
    """Return what ``tuning.json`` holds."""
    trials = [_trial(trial) for trial in study.get_trials(deepcopy=False) if trial.params]
    done = [trial for trial in trials if trial["state"] == "complete"]
    better = max if study.direction == optuna.study.StudyDirection.MAXIMIZE else min
    return {
        "name": document.data["name"],
        "metric": metric_of(job_of(document)),
        "best": better(done, key=lambda trial: trial["value"]) if done else None,
        "importance": importance(study),
        "trials": trials,
    }


def importance(study: Study) -> dict[str, float]:
    """Return what part of the differences between trials each field explains; they add up to 1.

    Empty where too few trials differ to tell.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in done}) < 2:
        return {}
    try:
        found = optuna.importance.get_param_importances(study)
    except (ValueError, RuntimeError):
        return {}  # every trial tried the same, or no two of them the same fields
    return {name: float(value) for name, value in found.items()}


def _trial(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "values": trial.user_attrs.get(VALUES, {}),
        "epochs": trial.intermediate_values,
        "run": place_of(trial),
        "failed": trial.user_attrs.get(FAILED),
    }


def check(folder: Path, found: dict[str, Any]) -> None:
    """Raise TrainingError where no trial came to an end."""
    if found["best"] is None:
        failed = [trial["failed"] for trial in found["trials"] if trial["failed"]]
        why = f" The last one: {failed[-1]}" if failed else ""
        raise TrainingError(f"no trial came to an end; see {folder / TUNING}.{why}")


def columns_of(found: dict[str, Any]) -> list[Column]:
    """Return the best trials, a line for each."""
    done = [trial for trial in found["trials"] if trial["state"] == "complete"]
    best = found["best"]
    if best is not None:
        # the best one says which direction is up
        greater = all(trial["value"] <= best["value"] for trial in done)
        done.sort(key=lambda trial: trial["value"], reverse=greater)
    keys = list(best["values"]) if best is not None else []
    shown = done[:_SHOWN]
    return [
        Column("trial", [str(trial["number"]) for trial in shown]),
        Column(f"validation {found['metric']}", [number(trial["value"]) for trial in shown]),
        *(Column(key, [_short(trial["values"][key]) for trial in shown]) for key in keys),
    ]


def importance_columns(found: dict[str, Any]) -> list[Column]:
    """Return the importance of each field, a line for each."""
    return [
        Column("field", list(found["importance"])),
        Column("importance", [f"{value:.2f}" for value in found["importance"].values()]),
    ]


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
