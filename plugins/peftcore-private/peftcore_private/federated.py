"""Federated training from its recipe to an adapter."""

import random
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

import peftcore
from peftcore import Adapter, ConfigError
from peftcore_private.client import Site
from peftcore_private.section import FEDERATED, FederatedSection
from peftcore_train import building, rundir
from peftcore_train.data import Row
from peftcore_train.fitting import Column
from peftcore_train.progress import Progress
from peftcore_train.recipes import Document, check_single, parted
from peftcore_train.report import number
from peftcore_train.running import Prepared, Scorer, make_accelerator, prepare
from peftcore_train.schema import anchored, job_of
from peftcore_train.task import Features

FOUND = "federated.json"
#: Clients that SecAgg+ needs at least.
_LEAST_SECURE = 3
_FROZEN = "lora_A"


def begin(
    document: Document, output: str | None, progress: Progress
) -> tuple[Path, dict[str, Any]]:
    """Train an adapter on the rows of several clients, in a new directory.

    Returns:
        The directory, and what ``federated.json`` holds.

    Raises:
        PeftcoreError: Flower is not installed, or the recipe, the data or the model does not fit.
    """
    if find_spec("flwr") is None:
        raise ConfigError(
            "federated training needs Flower, which wants older versions of some packages: pip"
            " install 'peftcore-private[federated]', best in an environment of its own."
        )
    check_single(document, "federated training")
    bare, section = parted(anchored(document), FEDERATED, FederatedSection)
    job = job_of(bare)
    prepared = prepare(job, progress)
    rows = prepared.task.read(job.recipe.data, "train")
    names, clients = dealt(rows, prepared.features["train"], section, job.recipe.seed)
    _check_secure(section, len(clients))
    set_seed(job.recipe.seed)
    adapter = building.attach(
        job, prepared.task, prepared.model, prepared.loaded, prepared.features["train"]
    )
    _check_methods(adapter)
    if section.freeze_A:
        freeze(adapter)
    folder = rundir.create(output or job.recipe.output, job.recipe.name)
    rundir.write_config(folder, document.data)
    found = {
        "name": job.recipe.name,
        "clients": {name: len(part) for name, part in zip(names, clients, strict=True)},
        **_trained(prepared, adapter, clients, section, progress),
    }
    _save(folder, prepared, adapter, section)
    rundir.write_json(folder / FOUND, found)
    return folder, found


def _trained(
    prepared: Prepared,
    adapter: Adapter,
    clients: Sequence[Sequence[Features]],
    section: FederatedSection,
    progress: Progress,
) -> dict[str, Any]:
    """Train in rounds, and return what is known of each and of the end."""
    recipe, quiet = prepared.job.recipe, Progress(quiet=True)
    accelerator = make_accelerator(recipe.train)
    scorer = Scorer(prepared.task, prepared.model, accelerator, recipe.train, quiet)
    site = Site(prepared.task, prepared.model, adapter, recipe.train, accelerator)
    metric, _ = prepared.task.chosen_metric(recipe.train.metric_for_best)
    rounds: list[dict[str, Any]] = []

    def after(which: int, sent: dict[str, int]) -> None:
        scores = scorer.score(prepared.features["validation"], "validation")
        rounds.append({"round": which, "bytes": sent, "validation": scores})
        progress.say(
            f"round {which}: validation {metric} {scores[metric]:.4f}; sent {sent['down']:,} bytes"
            f" to clients, {sent['up']:,} back"
        )

    # an optional dependency, which may not be there
    from peftcore_private.rounds import train

    train(site, clients, section, recipe.seed, after)
    return {
        "sent": sum(p.numel() for p in site.parameters),
        "metric": metric,
        "rounds": rounds,
        "test": scorer.score(prepared.features["test"], "test"),
    }


def dealt(
    rows: Sequence[Row], features: Sequence[Features], section: FederatedSection, seed: int
) -> tuple[list[str], list[list[Features]]]:
    """Return the names of the clients, and the rows of each.

    Raises:
        ConfigError: there are fewer than two, or fewer rows than clients.
    """
    if section.column is not None:
        found: dict[str, list[Features]] = {}
        for row, one in zip(rows, features, strict=True):
            found.setdefault(str(row.column(section.column)), []).append(one)
        if len(found) < 2:
            raise ConfigError(
                f"{FEDERATED}.column {section.column}: all rows are of {next(iter(found))}; two"
                " clients are needed at least."
            )
        return list(found), list(found.values())
    count = section.clients
    if count > len(features):
        raise ConfigError(f"{FEDERATED}.clients: {count} share {len(features)} rows; name fewer.")
    order = random.Random(f"{seed}-clients").sample(range(len(features)), len(features))
    parts = [[features[i] for i in order[start::count]] for start in range(count)]
    return [str(i) for i in range(count)], parts


def freeze(adapter: Adapter) -> None:
    """Train B of LoRA alone (Sun et al. 2024, FFA-LoRA, https://arxiv.org/abs/2403.12313).

    Raises:
        ConfigError: the adapter has no A.
    """
    named = dict(adapter.named_parameters())
    frozen = [p for name, p in named.items() if name.rpartition(".")[2] == _FROZEN]
    if not frozen:
        raise ConfigError(f"{FEDERATED}.freeze_A: no method here has an A; it is for LoRA.")
    for parameter in frozen:
        parameter.requires_grad_(False)


def _check_secure(section: FederatedSection, clients: int) -> None:
    drawn = max(2, int(clients * section.fraction))
    if section.secure_aggregation and drawn < _LEAST_SECURE:
        raise ConfigError(
            f"{FEDERATED}.secure_aggregation: {drawn} clients take part in a round; of two each"
            f" could take its own part from the sum. {_LEAST_SECURE} are needed at least."
        )


def _check_methods(adapter: Adapter) -> None:
    """Refuse methods that act between the steps of one run, of which each client has many."""
    for hook in ("peftcore_before_run", "peftcore_after_step", "peftcore_after_run"):
        for method, _ in adapter.methods.each(hook):
            raise ConfigError(
                f"{method.label} acts between the steps of a run, and clients train in many short"
                " ones. Take another method."
            )


def _save(folder: Path, prepared: Prepared, adapter: Adapter, section: FederatedSection) -> None:
    recipe = prepared.job.resolved(**prepared.task.learned())
    extra = {"recipe": recipe, FEDERATED: section.model_dump(mode="json")}
    peftcore.save(adapter, folder / rundir.ADAPTER, extra=extra)


def columns_of(found: Mapping[str, Any]) -> list[Column]:
    """Return a line for each round."""
    rounds, metric = found["rounds"], found["metric"]
    return [
        Column("round", [str(r["round"]) for r in rounds]),
        Column("bytes to clients", [f"{r['bytes']['down']:,}" for r in rounds]),
        Column("bytes back", [f"{r['bytes']['up']:,}" for r in rounds]),
        Column(f"validation {metric}", [number(r["validation"][metric]) for r in rounds]),
    ]
