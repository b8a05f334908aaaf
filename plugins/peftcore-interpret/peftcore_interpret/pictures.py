"""The pictures: numbers of tokens, of residues, of blocks, of singular values."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

#: Tokens of a line of bars; more are drawn without their names.
_NAMED = 60
_UP, _DOWN, _BASE = "#0072B2", "#D55E00", "#999999"


def of_tokens(
    tokens: Sequence[str], lines: Mapping[str, Sequence[float]], title: str, *, signed: bool
) -> Figure:
    """Return bars over the tokens of a row, a panel for each line.

    Args:
        tokens: the tokens.
        lines: their numbers, by the name of the panel.
        title: what is drawn.
        signed: numbers may be below 0.
    """
    width = min(12.0, max(5.0, 0.28 * len(tokens)))
    figure = Figure(figsize=(width, 0.6 + 1.3 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), sharex=True, squeeze=False)[:, 0]
    places = np.arange(len(tokens))
    highest = max(abs(value) for line in lines.values() for value in line) or 1.0
    for axes, (name, line) in zip(panels, lines.items(), strict=True):
        values = np.array(line)
        axes.bar(places, values, color=np.where(values < 0, _DOWN, _UP))
        axes.set_ylim(-1.08 * highest if signed else 0, 1.08 * highest)
        axes.axhline(0, color="#666666", lw=0.6)
        axes.set_title(name, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    if len(tokens) <= _NAMED:
        one = all(len(token) == 1 for token in tokens if token.isalpha())
        panels[-1].set_xticks(places, tokens, rotation=0 if one else 60, fontsize=8)
    else:
        panels[-1].set_xlabel("token")
    panels[-1].margins(x=0.01)
    figure.suptitle(title, fontsize=11)
    return figure


def of_mutants(found: Mapping[str, Any], name: str) -> Figure:
    """Return a map of residues by places, coloured by the change; a dot is what is there."""
    change, sequence = np.array(found["change"]), found["sequence"]
    width = min(14.0, max(5.0, 0.2 * len(sequence)))
    figure = Figure(figsize=(width, 4.4), layout="constrained")
    axes = figure.subplots()
    highest = float(np.abs(change).max()) or 1.0
    image = axes.imshow(change, cmap="PuOr", vmin=-highest, vmax=highest, aspect="auto")
    rows = [found["residues"].index(residue) for residue in sequence]
    axes.scatter(range(len(sequence)), rows, s=6, color="black")
    axes.set_yticks(range(len(found["residues"])), list(found["residues"]), fontsize=7)
    if len(sequence) <= _NAMED:
        axes.set_xticks(range(len(sequence)), list(sequence), fontsize=7)
    axes.set_xlabel("residue of the sequence; the dot is what is there")
    axes.set_ylabel("exchanged for")
    figure.colorbar(image, label=f"change of the logit of {name}")
    return figure


def of_blocks(found: Mapping[str, Any]) -> Figure:
    """Return the scores with the adapter off in one block after another."""
    blocks, shown = found["blocks"], list(found["tuned"])
    figure = Figure(figsize=(4.2 * len(shown), 3.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        values = [one[name] for one in blocks.values()]
        axes.plot(range(1, len(values) + 1), values, "o-", color=_UP, label="off in one block")
        axes.axhline(found["tuned"][name], color="black", lw=1, label="on everywhere")
        axes.axhline(found["base"][name], color=_BASE, ls="--", lw=1, label="off everywhere")
        axes.set_xlabel("block")
        axes.set_ylabel(name)
        axes.set_xticks(range(1, len(values) + 1))
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def of_spectra(found: Mapping[str, Any]) -> Figure:
    """Return the singular values of all changes, by the kind of weight."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    kinds = list(dict.fromkeys(name.split(".")[-2] for name in found["weights"]))
    colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
    for name, one in found["weights"].items():
        kind = kinds.index(name.split(".")[-2])
        values = one["singular_values"]
        axes.plot(
            range(1, len(values) + 1), values, "o-", ms=3, lw=0.8, alpha=0.7,
            color=colours[kind % len(colours)],
        )  # fmt: skip
    for kind, name in enumerate(kinds):
        axes.plot([], [], "o-", color=colours[kind % len(colours)], label=name)
    axes.set_yscale("log")
    axes.set_xlabel("singular value")
    axes.set_ylabel("size")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure
