"""A composition from its recipe to an adapter that is scored on another task."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cma
import torch
from accelerate.utils import send_to_device

import peftcore
from peftcore import ConfigError
from peftcore_meta.arithmetic import Composition
from peftcore_meta.section import COMPOSE, ComposeSection
from peftcore_train import rundir
from peftcore_train.fitting import Column
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, Origin, check_single, override, parted
from peftcore_train.report import number
from peftcore_train.running import Prepared, Scorer, make_accelerator, prepare
from peftcore_train.schema import Job, anchored, job_of

FOUND = "composition.json"
#: How the sum with the weights that were fitted or given is called, and the one with equal ones.
_COMPOSED, _EVEN = "composed", "average"


def begin(
    document: Document, output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Add adapters up, score the sum and each of them, and write the sum into a new directory.

    Returns:
        The directory, and what ``composition.json`` holds.

    Raises:
        PeftcoreError: the recipe, an adapter, the data or the model does not fit.
    """
    if document.data.get(COMPOSE) is None:
        raise ConfigError(f"{document.file}: name the adapters to add up, as compose.adapters.")
    check_single(document, "compose")
    bare, section = parted(anchored(document), COMPOSE, ComposeSection)
    if section.shots is not None:
        origin = Origin(COMPOSE, 1 << 30)
        bare = override(bare, "data.limits.train", section.shots, origin)
    job = job_of(bare)
    places = {name: _place(name, path) for name, path in section.adapters.items()}
    prepared = prepare(job, progress)
    _check_labels(prepared, places)
    composition = Composition(prepared.model, places, section.add)
    composition.set([1 / len(places)] * len(places))
    folder = rundir.create(output or job.recipe.output, job.recipe.name)
    rundir.write_config(folder, document.data)
    tried = _Tried(prepared, composition, progress)
    if section.weights is None:
        weights = fitted(section, len(places), tried.loss, progress)
    else:
        weights = [section.weights[name] for name in places]
    found = {
        "name": job.recipe.name,
        "weights": dict(zip(places, weights, strict=True)),
        "fitted": section.weights is None,
        "scores": tried.scores(weights),
        "metric": prepared.task.chosen_metric(job.recipe.train.metric_for_best)[0],
    }
    _save(folder, job, prepared, composition, found)
    rundir.write_json(folder / FOUND, found)
    return folder, found


def fitted(
    section: ComposeSection,
    count: int,
    loss: Callable[[Sequence[float]], float],
    progress: Progress,
) -> list[float]:
    """Return weights whose loss is small, found without gradients (Huang et al. 2023, LoraHub).

    loss + l1 mean |w| is minimised from w = 0 within the bound, by CMA-ES, of which LoraHub's
    search is made; the best weights of all that were tried are returned.
    """
    options = {
        "bounds": [-section.bound, section.bound],
        "seed": section.seed + 1,  # 0 means the clock there
        "verbose": -9,
        "maxfevals": section.steps,
    }
    search = cma.CMAEvolutionStrategy([0.0] * count, section.bound / 3, options)
    best: tuple[float, list[float]] | None = None
    tried = 0

    def objective(weights: Sequence[float]) -> float:
        nonlocal best, tried
        w = [float(one) for one in weights]
        value = loss(w) + section.l1 * sum(map(abs, w)) / count
        tried += 1
        if best is None or value < best[0]:
            best = value, w
            progress.say(f"{tried}: loss {value:.4f}: {' '.join(f'{one:.2f}' for one in w)}")
        return value

    objective([0.0] * count)
    objective([1 / count] * count)
    while tried < section.steps:
        asked = search.ask()[: max(0, section.steps - tried)]
        values = [objective(one) for one in asked]
        if len(values) < search.popsize:
            break
        search.tell(asked, values)
    assert best is not None
    return best[1]


class _Tried:
    """Scores sums of adapters on the rows of a task."""

    def __init__(self, prepared: Prepared, composition: Composition, progress: Progress):
        self.prepared, self.composition = prepared, composition
        train = prepared.job.recipe.train
        accelerator = make_accelerator(train)
        quiet = Progress(quiet=True)
        self.scorer = Scorer(prepared.task, prepared.model, accelerator, train, quiet)
        task, size = prepared.task, train.eval_batch_size or train.batch_size
        rows = prepared.features["train"]
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        device = accelerator.device
        self.batches = [(len(p), send_to_device(task.collate(p), device)) for p in parts]

    @torch.no_grad()
    def loss(self, weights: Sequence[float]) -> float:
        """Return the mean loss of the training rows with these weights."""
        self.composition.set(weights)
        self.prepared.model.eval()
        task, model = self.prepared.task, self.prepared.model
        total = sum(n * task.loss(model, batch).item() for n, batch in self.batches)
        return total / sum(n for n, _ in self.batches)

    def scores(self, weights: Sequence[float]) -> dict[str, dict[str, dict[str, float]]]:
        """Return validation and test scores of each adapter, their average, and the sum."""
        names = self.composition.names
        count = len(names)
        single = {name: [float(i == j) for j in range(count)] for i, name in enumerate(names)}
        wanted = {**single, _EVEN: [1 / count] * count, _COMPOSED: list(weights)}
        found = {}
        for name, one in wanted.items():
            self.composition.set(one)
            found[name] = {
                split: self.scorer.score(self.prepared.features[split], split)
                for split in ("validation", "test")
            }
        return found


def _place(name: str, path: str) -> Path:
    for place in (Path(path), Path(path) / rundir.ADAPTER):
        if (place / "adapter.json").is_file():
            return place
    raise ConfigError(
        f"compose.adapters.{name}: {path} is neither an adapter nor a run directory with one."
    )


def _check_labels(prepared: Prepared, places: Mapping[str, Path]) -> None:
    """Refuse an adapter whose head has other labels than the task."""
    learned = prepared.task.learned()
    for name, place in places.items():
        before = peftcore.inspect(place).get("extra", {}).get("recipe", {}).get("task", {})
        for field, value in learned.items():
            if before.get(field, value) != value:
                raise ConfigError(
                    f"compose.adapters.{name} was trained with {field} {before[field]}, and the"
                    f" data has {value}; one head serves all. Give them the same."
                )


def _save(
    folder: Path, job: Job, prepared: Prepared, composition: Composition, found: Mapping[str, Any]
) -> None:
    adapter = composition.adapter
    methods = [{"method": m.name, **m.config.model_dump(mode="json")} for m in adapter.methods]
    recipe = {**job.resolved(**prepared.task.learned()), "methods": methods}
    extra = {"recipe": recipe, COMPOSE: {"weights": found["weights"], "add": composition.add}}
    peftcore.save(adapter, folder / rundir.ADAPTER, extra=extra)


def columns_of(found: Mapping[str, Any]) -> list[Column]:
    """Return a line for each adapter, their average and the sum."""
    scores, metric, weights = found["scores"], found["metric"], found["weights"]
    return [
        Column("adapter", list(scores)),
        Column("weight", [f"{weights[n]:.3f}" if n in weights else "" for n in scores]),
        Column(f"validation {metric}", [number(s["validation"][metric]) for s in scores.values()]),
        Column(f"test {metric}", [number(s["test"][metric]) for s in scores.values()]),
    ]
