"""One worker of a search: it tries values until the budget is spent."""

from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from peftcore import ConfigError, PeftcoreError
from peftcore_train import building, processes, recipes, rundir
from peftcore_train.comparing.executors import failure
from peftcore_train.errors import Interrupted
from peftcore_train.progress import Progress
from peftcore_train.pruning import Pruning
from peftcore_train.reading import greater_is_better
from peftcore_train.recipes import Document, parted
from peftcore_train.running import run
from peftcore_train.schema import Job, job_of
from peftcore_train.signals import Stop, stop_on_signals
from peftcore_tune.section import SECTION, TuneSection
from peftcore_tune.space import Space, changed, space_of, suggested

#: Keys of a trial's notes: where it runs, what it tried, why it ended.
RUN, VALUES, FAILED = "run", "values", "failed"
STUDY = "study.db"
#: Trials that are drawn at random, and never pruned, before others are held against them. Nor is
#: any pruned for its first epoch.
_FREE = 5


class Failed(RuntimeError):
    """A trial that cannot be trained; the search goes on."""


def _judged(trial: Trial, score: float, epoch: int) -> bool:
    """Tell the study of an epoch; return whether the trial is not worth going on with."""
    trial.report(score, epoch)
    return trial.should_prune()


def opened(folder: Path, document: Document, section: TuneSection, worker: int = 0) -> Study:
    """Return the study of a directory, made where there is none.

    Raises:
        ConfigError: its database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    address = section.storage or f"sqlite:///{(folder / STUDY).resolve()}"
    try:
        study = optuna.create_study(
            study_name=str(document.data["name"]),
            storage=RDBStorage(address),
            direction="maximize" if greater_is_better(job_of(document)) else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=_FREE, n_warmup_steps=2),
            load_if_exists=True,
        )
    except (SQLAlchemyError, ImportError, StorageInternalError) as error:
        raise ConfigError(f"tune.storage {address}: {failure(error)}") from error
    # neither another worker nor one that goes on draws what was drawn before
    seed = section.seed + 1000 * worker + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_FREE)
    return study


def counted(study: Study) -> int:
    """Return how many trials ended by themselves."""
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False)
    return sum(trial.state in ended or FAILED in trial.user_attrs for trial in trials)


def again(study: Study, trial: Any) -> None:
    """Have the values of a trial that was stopped tried again, in the directory that it has."""
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={RUN: place_of(trial)})


def place_of(trial: Any) -> str:
    """Return the run directory of a trial, in that of the search."""
    return str(trial.user_attrs.get(RUN) or f"trials/{trial.number:04d}")


def work(folder: str, worker: str, quiet: str) -> dict[str, Any]:
    """Try values until the budget is spent; what an executor is given to do.

    Args:
        folder: directory of the search.
        worker: its number, from 0.
        quiet: ``quiet``, or empty to say how trials go.

    Raises:
        Interrupted: it was told to stop, and has saved.
    """
    place = Path(folder)
    document, section = parted(recipes.read(place / rundir.CONFIG), SECTION, TuneSection)
    space = space_of(document, section)
    study = opened(place, document, section, int(worker))
    progress = Progress(quiet=bool(quiet))
    with stop_on_signals() as stop:
        objective = Objective(place, document, space, study, stop, progress)
        if counted(study) < section.trials:
            study.optimize(
                objective,
                timeout=None if section.minutes is None else 60 * section.minutes,
                callbacks=[lambda s, _: s.stop() if counted(s) >= section.trials else None],
                catch=(Failed,),
            )
    return {}


class Objective:
    """Trains what a trial tries, and returns its validation score."""

    def __init__(
        self,
        folder: Path,
        document: Document,
        space: Space,
        study: Study,
        stop: Stop,
        progress: Progress,
    ):
        self.folder, self.document, self.space = folder, document, space
        self.study, self.stop, self.progress = study, stop, progress

    def __call__(self, trial: Trial) -> float:
        """Return the validation score of the best epoch.

        Raises:
            Failed: it cannot be trained.
            TrialPruned: it is not worth going on with.
            Interrupted: the user asked to stop.
        """
        values = suggested(trial, self.space)
        trial.set_user_attr(VALUES, values)
        shown = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
        self.progress.log = None
        try:
            results = self._results(trial, values)
        except PeftcoreError as error:
            if isinstance(error, Interrupted):
                again(self.study, trial)
                raise
            trial.set_user_attr(FAILED, failure(error))
            self.progress.say(f"trial {trial.number} failed: {shown}: {failure(error)}")
            raise Failed from error
        except optuna.TrialPruned:
            self.progress.say(f"trial {trial.number} pruned: {shown}")
            raise
        metric = results["metric"]
        value = float(results["validation"][metric])
        self.progress.say(f"trial {trial.number}: validation {metric} {value:.4f}: {shown}")
        return value

    def _results(self, trial: Trial, values: dict[str, Any]) -> dict[str, Any]:
        place = self.folder / place_of(trial)
        if (place / rundir.RESULTS).is_file():
            found: dict[str, Any] = rundir.read_json(place / rundir.RESULTS)
            return found
        job = job_of(changed(self.document, values))
        place.mkdir(parents=True, exist_ok=True)
        rundir.write_config(place, changed(self.document, values).data)
        stop = Pruning(partial(_judged, trial), place, metric_of(job), self.stop)
        processes.join(job.recipe.train)
        try:
            with rundir.locked(place):
                return run(job, place, stop, Progress(quiet=True))
        except Interrupted:
            if stop.pruned and not self.stop.asked:
                raise optuna.TrialPruned from None
            raise


def metric_of(job: Job) -> str:
    """Return the metric by which a recipe chooses its best epoch."""
    return building.make_task(job).chosen_metric(job.recipe.train.metric_for_best)[0]


def reset(study: Study) -> None:
    """Have trials tried again whose worker is gone; nobody else may be working."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        again(study, trial)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
