"""The pictures of a page, by matplotlib: scalable, with colours that everyone can tell apart."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO, StringIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

#: Colours of Okabe and Ito, which the colour-blind can tell apart; markers tell them once more.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
#: Text stays text, so that it is found and is small; ids do not depend on chance.
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "peftcore",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "axes.axisbelow": True,
}


@dataclass(frozen=True)
class Picture:
    """A picture and what it shows, in words.

    Attributes:
        title: its title.
        alternative: what it shows, for those who do not see it.
        figure: the drawing.
    """

    title: str
    alternative: str
    figure: Figure

    @property
    def address(self) -> str:
        """The picture itself, as an address that needs no network."""
        text = StringIO()
        with rc_context(_STYLE):
            self.figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        encoded = base64.b64encode(text.getvalue().encode()).decode()
        return f"data:image/svg+xml;base64,{encoded}"

    def _repr_html_(self) -> str:
        return f'<img src="{self.address}" alt="{escape(self.alternative)}">'

    def png(self) -> bytes:
        """Return the picture as pixels."""
        found = BytesIO()
        with rc_context(_STYLE):
            self.figure.savefig(found, format="png", dpi=150, metadata={"Software": None})
        return found.getvalue()

    def write_png(self, path: Path) -> None:
        """Write the picture as pixels."""
        path.write_bytes(self.png())


def over_parameters(found: Mapping[str, Any]) -> Picture | None:
    """Return the test metric of the arms over their trainable parameters; None if all failed."""
    arms = {name: arm for name, arm in found["arms"].items() if arm["runs"]}
    if not arms:
        return None
    metric = found["metric"]
    figure, axes = _drawing(0.24 * (len(arms) + 1) // 2)
    counts = [arm["parameters"]["trainable"] for arm in arms.values()]
    # the head alone trains none of the methods' parameters, which a plain logarithm cannot show
    least = min((count for count in counts if count), default=1)
    axes.set_xscale("symlog", linthresh=least) if 0 in counts else axes.set_xscale("log")
    if 0 not in counts:
        # of less than two powers of ten the marks between them are what is read
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
    said = []
    for (name, arm), count, (colour, marker) in zip(arms.items(), counts, _looks(), strict=False):
        test = arm["test"]
        if test["mean"] is None:
            continue
        spread = None
        if test["low"] is not None:
            spread = [[test["mean"] - test["low"]], [test["high"] - test["mean"]]]
        axes.errorbar(
            count, test["mean"], yerr=spread, fmt=marker, color=colour, capsize=3, label=name
        )
        said.append(f"{name} {test['mean']:.4f} with {count:,}")
    axes.set_xlabel("trainable parameters of the methods")
    axes.set_ylabel(f"test {metric}")
    _legend(axes)
    return Picture(
        f"Test {metric} over trainable parameters",
        f"Test {metric} over trainable parameters on a logarithmic axis: {'; '.join(said)}.",
        figure,
    )


def curves(
    title: str, ylabel: str, lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
) -> Picture | None:
    """Return curves over optimiser steps.

    Args:
        title: of the picture.
        ylabel: what is drawn.
        lines: steps and values by name; values that are no numbers are left out.
    """
    there = {
        name: [(x, y) for x, y in zip(steps, values, strict=True) if y is not None]
        for name, (steps, values) in lines.items()
    }
    there = {name: points for name, points in there.items() if points}
    if not there:
        return None
    figure, axes = _drawing(0.24 * ((len(there) + 1) // 2))
    said = []
    for (name, points), (colour, marker) in zip(there.items(), _looks(), strict=False):
        steps, values = zip(*points, strict=True)
        few = len(points) < 30
        axes.plot(steps, values, color=colour, marker=marker if few else None, ms=4, label=name)
        said.append(f"{name} from {values[0]:.4g} to {values[-1]:.4g}")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel(ylabel)
    _legend(axes)
    return Picture(title, f"{title} over optimiser steps: {'; '.join(said)}.", figure)


def confusion(counts: np.ndarray, labels: Sequence[str]) -> Picture:
    """Return how often each label [true, predicted] was taken for which."""
    figure, axes = _drawing(0.1 * len(labels))
    axes.grid(False)
    axes.imshow(counts / np.maximum(1, counts.sum(1, keepdims=True)), cmap="Blues", vmin=0, vmax=1)
    names = [label if len(label) <= 14 else f"{label[:13]}…" for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(labels) <= 12:
        shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.55 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    right = int(np.trace(counts))
    return Picture(
        "Confusion matrix",
        f"Confusion matrix: {right} of {int(counts.sum())} rows have the right label. The numbers"
        " are in the tables.",
        figure,
    )


def calibration(shares: np.ndarray, sure: np.ndarray, error: float) -> Picture:
    """Return how often predictions are right against how sure they are.

    Args:
        shares: [b] share of right predictions in each bin.
        sure: [b] mean probability of the predicted label in each bin.
        error: expected calibration error.
    """
    figure, axes = _drawing()
    axes.plot([0, 1], [0, 1], color="#666666", linestyle="--", label="as sure as right")
    axes.plot(sure, shares, color=_COLOURS[0], marker="o", label="predictions")
    axes.set(xlabel="probability of the predicted label", ylabel="share that is right")
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes)
    points = "; ".join(f"{a:.2f} sure, {b:.2f} right" for a, b in zip(sure, shares, strict=True))
    return Picture("Calibration", f"Calibration, expected error {error:.4f}: {points}.", figure)


def scatter(target: np.ndarray, predicted: np.ndarray) -> Picture:
    """Return predicted numbers over true ones."""
    figure, axes = _drawing()
    axes.scatter(target, predicted, s=14, alpha=0.6, color=_COLOURS[0])
    ends = [min(target.min(), predicted.min()), max(target.max(), predicted.max())]
    axes.plot(ends, ends, color="#666666", linestyle="--")
    axes.set(xlabel="true", ylabel="predicted")
    return Picture(
        "Predicted over true",
        f"Predicted over true values of {len(target)} rows; the line is where both are equal.",
        figure,
    )


def spread(values: np.ndarray, name: str) -> Picture:
    """Return how a number is spread over the rows."""
    figure, axes = _drawing()
    axes.hist(values, bins="auto", color=_COLOURS[0])
    axes.set(xlabel=f"{name} of a row", ylabel="rows")
    middle, high = np.quantile(values, [0.5, 0.95])
    return Picture(
        f"{name.capitalize()} of the rows",
        f"{name} of {len(values)} rows: median {middle:.4g}, 95 % below {high:.4g}.",
        figure,
    )


def _drawing(more: float = 0.0) -> tuple[Figure, Axes]:
    """Return an empty drawing, small enough that its letters can be read on a telephone."""
    with rc_context(_STYLE):
        figure = Figure(figsize=(5, 3.4 + more), layout="constrained")
        return figure, figure.subplots()


def _looks() -> Any:
    return zip(cycle(_COLOURS), cycle(_MARKERS), strict=False)


def _legend(axes: Axes) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
