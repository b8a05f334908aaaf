"""How the groups of a run fare on its test rows, by the definitions of fairlearn."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from fairlearn.metrics import (
    MetricFrame,
    count,
    demographic_parity_difference,
    demographic_parity_ratio,
    equalized_odds_difference,
)
from sklearn.metrics import accuracy_score, roc_auc_score

from peftcore import ConfigError
from peftcore_train import recipes, row_scores, rundir

_CROSS = " x "
Array = np.ndarray[Any, Any]


def report(run: Path) -> dict[str, dict[str, Any]]:
    """Return the scores of the groups of each attribute of a run's test rows.

    Raises:
        ConfigError: the run kept no groups.
        CheckpointError: what it kept is missing or damaged.
    """
    rows = row_scores.read(run / rundir.ROWS)
    if "groups" not in rows:
        raise ConfigError(f"{run} kept no groups; give their columns as task.groups.")
    task = recipes.read(run / rundir.CONFIG).data["task"]
    logits, target = rows["preds"].double().numpy(), rows["target"].numpy()
    columns = zip(group_names(task).items(), rows["groups"].numpy().T, strict=True)
    return {
        attribute: scores(logits, target, np.array(names, object)[column])
        for (attribute, names), column in columns
    }


def group_names(task: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the names of the groups of each attribute of a ``task`` section, in their order."""
    values = {name: [str(v) for v in task["group_values"][name]] for name in task["groups"]}
    if task.get("cross_groups") and len(values) > 1:
        crossed = [_CROSS.join(names) for names in product(*values.values())]
        return {**values, _CROSS.join(values): crossed}
    return values


def scores(logits: Array, target: Array, groups: Array) -> dict[str, Any]:
    """Return scores of all rows, of the worst group, gaps, and fairlearn's three for two labels.

    Args:
        logits: [N, labels].
        target: [N] labels, from 0; of two, 1 is the positive one.
        groups: [N] names.
    """
    chances = np.exp(logits - logits.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    predicted, two = logits.argmax(1), logits.shape[1] == 2
    by: dict[str, MetricFrame] = {
        "accuracy": _frame(accuracy_score, target, predicted, groups),
        "auroc": _frame(_auroc, target, chances, groups),
    }
    found: dict[str, Any] = {"rows": _frame(count, target, predicted, groups).by_group.to_dict()}
    for name, frame in by.items():
        found[name] = float(frame.overall)
        found[f"{name}_min"] = float(frame.by_group.min())
        found[f"{name}_gap"] = float(frame.by_group.max() - frame.by_group.min())
        found[f"{name}_by_group"] = {g: float(v) for g, v in frame.by_group.items()}
    if two:
        parts = {"y_true": target, "y_pred": predicted, "sensitive_features": groups}
        found["equalized_odds_difference"] = float(equalized_odds_difference(**parts))
        found["demographic_parity_difference"] = float(demographic_parity_difference(**parts))
        found["demographic_parity_ratio"] = float(demographic_parity_ratio(**parts))
    return found


def mean_of(reports: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean over runs of every score that is one number."""
    names = [name for name, value in reports[0].items() if isinstance(value, float)]
    return {name: float(np.mean([one[name] for one in reports])) for name in names}


def _frame(metric: Any, target: Array, predicted: Array, groups: Array) -> MetricFrame:
    rows = np.arange(len(target))
    # a frame splits columns of one axis, and chances have two: rows stand for them
    return MetricFrame(
        metrics=lambda y_true, y_pred: metric(target[y_true], predicted[y_pred]),
        y_true=rows,
        y_pred=rows,
        sensitive_features=groups,
    )


def _auroc(target: Array, chances: Array) -> float:
    """Return the AUROC; of several labels the mean over those that occur; one alone has none."""
    labels = [1] if chances.shape[1] == 2 else range(chances.shape[1])
    there = [label for label in labels if 0 < (target == label).sum() < len(target)]
    found = [roc_auc_score(target == label, chances[:, label]) for label in there]
    return float(np.mean(found)) if found else float("nan")
