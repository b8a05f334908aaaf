"""The outer level: masks and learning rates are drawn, each trains, and validation judges."""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from peftcore import ConfigError, PeftcoreError, backbone_of, nearest, survey
from peftcore_fairtune.section import OBJECTIVES, SECTION, FairtuneSection
from peftcore_fairtune.spaces import bits_of
from peftcore_train import building, recipes, rundir
from peftcore_train.comparing.executors import failure
from peftcore_train.errors import Interrupted, TrainingError
from peftcore_train.planning import rehearse
from peftcore_train.progress import Progress
from peftcore_train.pruning import Pruning
from peftcore_train.recipes import Document, Origin, check_single, override, parted
from peftcore_train.running import run
from peftcore_train.schema import anchored, job_of
from peftcore_train.signals import Stop, stop_on_signals

FOUND, BEST, STUDY = "fairtune.json", "best.yaml", "study.db"
RUN, MASK, FAILED = "run", "mask", "failed"
_RATE = "learning_rate"
_PRUNERS = {
    "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
    "median": optuna.pruners.MedianPruner,
    "hyperband": optuna.pruners.HyperbandPruner,
    "none": optuna.pruners.NopPruner,
}


class Failed(RuntimeError):
    """A mask that cannot be trained; the search goes on."""


def place_of_method(document: Document) -> int:
    """Return the place of ``fairtune`` among the methods of a recipe.

    Raises:
        ConfigError: it is not there, stands there twice, or its mask is already given.
    """
    check_single(document, "a search")
    methods = document.data.get("methods") or []
    names = [m if isinstance(m, str) else m.get("method") for m in methods]
    if names.count("fairtune") != 1:
        raise ConfigError(f"{document.file}: name the method fairtune once; its mask is searched.")
    place = names.index("fairtune")
    chosen = methods[place]
    if isinstance(chosen, Mapping) and chosen.get("mask") is not None:
        raise ConfigError(
            f"{document.file}: methods[{place}].mask is what is searched for; leave it out, or"
            " train the recipe as it is with peftcore train."
        )
    return place


def metric_of(document: Document, section: FairtuneSection) -> str:
    """Return the metric of the task by which masks are judged.

    Raises:
        ConfigError: the recipe has no such attribute.
    """
    name, _ = OBJECTIVES[section.objective]
    if section.overall:
        return name
    task = document.data.get("task") or {}
    groups = list(task.get("groups") or ())
    known = [*groups, " x ".join(groups)] if task.get("cross_groups") else groups
    attribute = section.attribute or (known[0] if len(known) == 1 else None)
    if attribute is None:
        columns = (
            "give the columns as task.groups of a task that has them, as image-classification, or"
            " judge by all rows, with fairtune.objective: overall_auc"
        )
        what = f"name one of {', '.join(known)}" if known else columns
        raise ConfigError(f"{document.file}: {SECTION}.attribute: whose groups? {what}.")
    if attribute not in known:
        raise ConfigError(
            f"{document.file}: {SECTION}.attribute: {attribute!r} is not among task.groups:"
            f" {', '.join(known) or 'there are none'}.{nearest(attribute, known)}"
        )
    return f"{name}.{attribute}"


def with_values(document: Document, place: int, mask: str, rate: float, metric: str) -> Document:
    """Return the recipe of one mask; where it has no 1 the head alone is trained."""
    here = Origin(SECTION, 0)
    methods = list(document.data["methods"])
    chosen = methods[place]
    fields = {"method": chosen} if isinstance(chosen, str) else dict(chosen)
    methods[place : place + 1] = [{**fields, MASK: mask}] if "1" in mask else []
    for key, value in (
        ("methods", methods), ("train.learning_rate", rate), ("train.metric_for_best", metric),
    ):  # fmt: skip
        document = override(document, key, value, here)
    return document


class Search:
    """A search in its directory.

    Args:
        folder: the directory, with the recipe in ``config.yaml``.
        progress: what to tell the user.
    """

    def __init__(self, folder: Path, progress: Progress):
        self.folder, self.progress = folder, progress
        self.document, self.section = parted(
            recipes.read(folder / rundir.CONFIG), SECTION, FairtuneSection
        )
        self.place = place_of_method(self.document)
        self.metric = metric_of(self.document, self.section)
        self.length = mask_length(self.document, self.place)

    @property
    def direction(self) -> str:
        """Which way the objective goes."""
        return "maximize" if OBJECTIVES[self.section.objective][1] else "minimize"

    def of_values(self, mask: str, rate: float) -> Document:
        """Return the recipe of one mask."""
        return with_values(self.document, self.place, mask, rate, self.metric)

    def study(self) -> Study:
        """Return the study of the directory, made where there is none."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            study_name=str(self.document.data["name"]),
            storage=f"sqlite:///{(self.folder / STUDY).resolve()}",
            direction=self.direction,
            pruner=_PRUNERS[self.section.pruner](),
            load_if_exists=True,
        )
        # whoever goes on draws not what was drawn before
        seed = self.section.seed + len(study.get_trials(deepcopy=False))
        samplers = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
        study.sampler = samplers[self.section.sampler](seed=seed)
        return study

    def run(self) -> Study:
        """Try masks until as many as asked for have ended; a stopped search goes on.

        Raises:
            Interrupted: the user asked to stop; what was tried is kept.
        """
        study = self.study()
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={RUN: place_of(trial)})
        with rundir.locked(self.folder), stop_on_signals() as stop:
            while _ended(study) < self.section.trials:
                study.optimize(lambda t: self._objective(t, study, stop), 1, catch=(Failed,))
        return study

    def _objective(self, trial: Trial, study: Study, stop: Stop) -> float:
        bits = [trial.suggest_int(f"bit_{i}", 0, 1) for i in range(self.length)]
        mask = "".join(map(str, bits))
        rate = trial.suggest_float(_RATE, *self.section.learning_rate, log=True)
        trial.set_user_attr(MASK, mask)
        shown = f"mask {mask}, rate {rate:.2g}"
        try:
            found = self._results(trial, self.of_values(mask, rate), stop)
        except Interrupted:
            study.enqueue_trial(trial.params, user_attrs={RUN: place_of(trial)})
            raise Interrupted(
                "interrupted; every mask is saved. Go on with: peftcore fairtune --resume"
                f" {self.folder}"
            ) from None
        except PeftcoreError as error:
            trial.set_user_attr(FAILED, failure(error))
            self.progress.say(f"trial {trial.number} failed: {shown}: {failure(error)}")
            raise Failed from error
        except optuna.TrialPruned:
            self.progress.say(f"trial {trial.number} pruned: {shown}")
            raise
        value = float(found["validation"][self.metric])
        if math.isnan(value):
            trial.set_user_attr(FAILED, f"validation {self.metric} is not a number")
            raise Failed
        self.progress.say(f"trial {trial.number}: validation {self.metric} {value:.4f}: {shown}")
        return value

    def _results(self, trial: Trial, document: Document, stop: Stop) -> dict[str, Any]:
        place = self.folder / place_of(trial)
        if (place / rundir.RESULTS).is_file():
            return rundir.read_json(place / rundir.RESULTS)
        place.mkdir(parents=True, exist_ok=True)
        rundir.write_config(place, document.data)
        asking = Pruning(partial(_judged, trial), place, self.metric, stop)
        try:
            return run(job_of(document), place, asking, Progress(quiet=True))
        except Interrupted:
            if asking.pruned and not stop.asked:
                raise optuna.TrialPruned from None
            raise


def _judged(trial: Trial, value: float, epoch: int) -> bool:
    """Tell the study of an epoch; return whether the trial is not worth going on with."""
    trial.report(value, epoch)
    return trial.should_prune()


def mask_length(document: Document, place: int) -> int:
    """Return how many bits the mask of a recipe has; the model is planned, not loaded."""
    job = job_of(document)
    task = building.make_task(job)
    if task.needs_rows:
        task.learn(task.read(job.recipe.data, "train"))
    model, _ = building.load_model(job, task, on_meta=True)
    chosen = document.data["methods"][place]
    space = chosen.get("space", "auto_peft1") if isinstance(chosen, Mapping) else "auto_peft1"
    found = survey(model, backbone_of(model))
    roles = {site.path: site.role for site in found.sites if site.features is None}
    return len(bits_of(space, found.parameters, roles))


def begin(document: Document, changes: Mapping[str, Any], output: str | None) -> Path:
    """Check a recipe and write it into a new directory.

    Raises:
        PeftcoreError: the recipe, the data or the model does not fit; nothing was trained.
    """
    section = {**(document.data.get(SECTION) or {}), **changes}
    document = anchored(
        Document(document.file, {**document.data, SECTION: section}, document.origins)
    )
    bare, checked = parted(document, SECTION, FairtuneSection)
    place, metric = place_of_method(bare), metric_of(bare, checked)
    ones = "1" * mask_length(bare, place)
    rehearse([job_of(with_values(bare, place, ones, checked.learning_rate[0], metric))])
    first = job_of(bare).recipe
    folder = rundir.create(output or first.output, first.name)
    rundir.write_config(folder, document.data)
    return folder


def place_of(trial: Any) -> str:
    """Return the run directory of a trial, in that of the search."""
    return str(trial.user_attrs.get(RUN) or f"trials/{trial.number:04d}")


def trials_of(study: Study) -> list[dict[str, Any]]:
    """Return what was tried, as it is kept."""
    return [_plain(trial) for trial in study.get_trials(deepcopy=False) if MASK in trial.user_attrs]


def best_of(study: Study) -> dict[str, Any]:
    """Return the best trial.

    Raises:
        TrainingError: none came to an end.
    """
    if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        failed = [t["failed"] for t in trials_of(study) if t["failed"]]
        raise TrainingError(
            f"no mask came to an end.{f' The last one: {failed[-1]}' if failed else ''}"
        )
    return _plain(study.best_trial)


def _plain(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "mask": trial.user_attrs.get(MASK),
        "learning_rate": trial.params.get(_RATE),
        "run": place_of(trial),
        "failed": trial.user_attrs.get(FAILED),
    }


def _ended(study: Study) -> int:
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = study.get_trials(deepcopy=False)
    return sum(t.state in ended or FAILED in t.user_attrs for t in trials)
