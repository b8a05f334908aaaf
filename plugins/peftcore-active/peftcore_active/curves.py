"""Label-efficiency curves: the test metric over the number of labels."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from peftcore_active.section import RANDOM, ActiveSection
from peftcore_train.fitting import Column
from peftcore_train.report import number

#: Colours of Okabe and Ito, which the colour-blind can tell apart; markers tell them once more.
_COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def summed_up(
    name: str, section: ActiveSection, greater: bool, runs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the curves of all strategies, and how each stands against the random choice.

    Args:
        name: of the recipe.
        section: the section.
        greater: whether a greater metric is better.
        runs: of each seed, strategy and round.
    """
    strategies = (RANDOM, *section.strategies)
    tests = {
        strategy: np.array(
            [
                [run["test"] for run in runs if (run["seed"], run["strategy"]) == (seed, strategy)]
                for seed in section.seeds
            ],
            float,
        )
        for strategy in strategies
    }
    labels = [section.start + i * section.add for i in range(section.rounds + 1)]
    base = tests[RANDOM]
    goal = float(base.mean(0)[-1])
    return {
        "name": name,
        "metric": runs[0]["metric"],
        "greater_is_better": greater,
        "seeds": list(section.seeds),
        "labels": labels,
        "strategies": {
            strategy: {
                "test": test.tolist(),
                "mean": test.mean(0).tolist(),
                "area": float(area(test).mean()),
                "against_random": (area(test) - area(base)).tolist(),
                "labels_to_random": _first(test.mean(0), goal, greater, labels),
            }
            for strategy, test in tests.items()
        },
        "runs": [dict(run) for run in runs],
    }


def area(test: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mean height of curves [seeds, rounds] between their ends, by trapezes."""
    return np.asarray((test[:, 1:] + test[:, :-1]).mean(1) / 2)


def _first(
    means: np.ndarray[Any, Any], goal: float, greater: bool, labels: Sequence[int]
) -> int | None:
    """Return the labels with which a mean first is as good as a goal."""
    there = means >= goal if greater else means <= goal
    return labels[int(there.argmax())] if there.any() else None


def columns(found: Mapping[str, Any]) -> list[Column]:
    """Return a line for each strategy."""
    metric, several = found["metric"], found["strategies"]
    last = [number(one["mean"][-1]) for one in several.values()]
    spread = [
        "" if name == RANDOM else _spread(one["against_random"]) for name, one in several.items()
    ]
    reached = [str(one["labels_to_random"] or "not") for one in several.values()]
    return [
        Column("strategy", list(several)),
        Column(f"mean {metric} of the curve", [number(one["area"]) for one in several.values()]),
        Column("against random (each seed)", spread),
        Column(f"test {metric} at {found['labels'][-1]} labels", last),
        Column("labels to random's last", reached),
    ]


def _spread(differences: Sequence[float]) -> str:
    mean = f"{np.mean(differences):+.4f}"
    return f"{mean} ({', '.join(f'{one:+.3f}' for one in differences)})"


def picture(found: Mapping[str, Any]) -> Figure:
    """Return the mean curves, with the least and the greatest of the seeds."""
    labels = found["labels"]
    lines = {name: one["test"] for name, one in found["strategies"].items()}
    return drawn(labels, lines, "labels", f"test {found['metric']}")


def drawn(
    places: Sequence[float],
    lines: Mapping[str, Sequence[Sequence[float]]],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Return mean curves over seeds, each with bars from the least to the greatest seed.

    Args:
        places: along the axis.
        lines: of each name the values of each seed, [seeds, places].
        xlabel: what is along the axis.
        ylabel: what is drawn.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd")
    step = (max(places) - min(places)) / max(1, len(places) - 1)
    looks = zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)
    for at, ((name, values), (colour, marker)) in enumerate(
        zip(lines.items(), looks, strict=False)
    ):
        test = np.array(values, float)
        mean = test.mean(0)
        # a little aside, so that the bars of several curves can be told apart
        aside = np.array(places, float) + (at - len(lines) / 2) * step * 0.03
        ends = np.stack([mean - test.min(0), test.max(0) - mean])
        axes.errorbar(
            aside, mean, yerr=ends, color=colour, marker=marker, ms=5, capsize=2, lw=1.5,
            elinewidth=0.7, ls="--" if name == RANDOM else "-", label=name,
        )  # fmt: skip
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.set_xticks(list(places))
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
