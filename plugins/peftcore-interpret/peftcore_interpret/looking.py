"""Looking into a run: what was asked for, what of it can be, and where it is written."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from peftcore import ConfigError
from peftcore_interpret import pictures
from peftcore_interpret.ablation import ablation
from peftcore_interpret.gradients import integrated_gradients
from peftcore_interpret.mutagenesis import mutagenesis
from peftcore_interpret.opened import Opened, Subject, check_tokens, opened, subject
from peftcore_interpret.rollout import rollout
from peftcore_interpret.spectrum import spectrum
from peftcore_interpret.views import OF_ROWS, VIEWS
from peftcore_train import rundir
from peftcore_train.data import Row, read_rows
from peftcore_train.fitting import Column
from peftcore_train.progress import Progress
from peftcore_train.report import number

FOUND = "interpret.json"
_OF_ROW: dict[str, Callable[[Opened, Subject], dict[str, Any]]] = {
    "gradients": integrated_gradients,
    "rollout": rollout,
    "mutagenesis": mutagenesis,
}


@dataclass(frozen=True)
class Asked:
    """What is to be shown.

    Attributes:
        what: views; all that the run has if none.
        rows: file of rows; the test rows of the run if none.
        numbers: which rows are explained, from 1.
        label: whose logit is explained.
        at: the word that is explained.
        limit: rows that ablation scores.
        overrides: changes of the recipe.
    """

    what: tuple[str, ...] = ()
    rows: Path | None = None
    numbers: tuple[int, ...] = (1,)
    label: str | None = None
    at: int | None = None
    limit: int = 500
    overrides: tuple[str, ...] = ()


@dataclass
class Look:
    """What was found, and how it is drawn.

    Attributes:
        found: what ``interpret.json`` holds.
        drawn: pictures by the names of their files.
        left_out: why a view is not there, by its name.
    """

    found: dict[str, Any]
    drawn: dict[str, Figure] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def look(run: Path, asked: Asked, progress: Progress) -> Look:
    """Look into a run.

    Raises:
        ConfigError: the run has not what is asked for by name, or there is no such row.
        DataError: a row does not fit the task.
    """
    with progress.doing(f"loading {run}"):
        one = opened(run, asked.overrides)
    rows = _rows(one, asked)
    what = asked.what or VIEWS
    seen = Look({"run": str(run), "adapter": [m["method"] for m in one.job.recipe.methods]})
    if of_rows := [name for name in what if name in OF_ROWS]:
        _of_rows(one, rows, of_rows, asked, seen, progress)
    if "ablation" in what:
        with _or_left_out(asked, seen, "ablation"):
            seen.found["ablation"] = found = ablation(one, rows[: asked.limit], progress)
            seen.drawn["ablation.png"] = pictures.of_blocks(found)
    if "spectrum" in what:
        with _or_left_out(asked, seen, "spectrum"), progress.doing("decomposing the update"):
            seen.found["spectrum"] = found = spectrum(one)
            if found["weights"]:
                seen.drawn["spectrum.png"] = pictures.of_spectra(found)
    return seen


@contextmanager
def _or_left_out(asked: Asked, seen: Look, *names: str) -> Iterator[None]:
    """Note why views are not there, where nobody asked for them by name."""
    try:
        yield
    except ConfigError as error:
        if set(names) & set(asked.what):
            raise
        seen.left_out |= dict.fromkeys(names, str(error))


def _rows(one: Opened, asked: Asked) -> list[Row]:
    rows = (
        one.task.read(one.job.recipe.data, "test") if asked.rows is None else read_rows(asked.rows)
    )
    for number_ in asked.numbers:
        if not 1 <= number_ <= len(rows):
            raise ConfigError(f"--row {number_}: there are {len(rows)} rows, counted from 1.")
    return rows


def _of_rows(
    one: Opened, rows: Sequence[Row], what: Sequence[str], asked: Asked, seen: Look,
    progress: Progress,
) -> None:  # fmt: skip
    subjects: dict[int, Subject] = {}
    with _or_left_out(asked, seen, *what):
        check_tokens(one)
        subjects = {n: subject(one, rows[n - 1], asked.label, asked.at) for n in asked.numbers}
    for number_, about in subjects.items():
        told: dict[str, Any] = {
            "row": number_,
            "where": about.row.where,
            "tokens": about.tokens,
            "special": [i for i, special in enumerate(about.special) if special],
            "explained": about.output.name,
            "logits": about.logits,
        }
        seen.found.setdefault("rows", []).append(told)
        for name in what:
            with _or_left_out(asked, seen, name), progress.doing(f"row {number_}: {name}"):
                told[name] = _OF_ROW[name](one, about)
                seen.drawn[f"{name}-{number_}.png"] = _drawn(name, told)


def _drawn(name: str, told: dict[str, Any]) -> Figure:
    found, of = told[name], told["explained"]
    if name == "mutagenesis":
        return pictures.of_mutants(found, of)
    if name == "rollout":
        # where it is read and what frames the row would dwarf the others
        hidden = {found["read_at"], *told["special"]}
        lines = {
            panel: [0.0 if i in hidden else v for i, v in enumerate(found[panel]["tokens"])]
            for panel in ("tuned", "base")
        }
        title = f"attention roll-out to {told['tokens'][found['read_at']]}, which is not drawn"
        return pictures.of_tokens(told["tokens"], lines, title, signed=False)
    titles = {
        "tuned": "tuned",
        "base": "base, under the trained head",
        "difference": "tuned - base",
    }
    lines = {title: found[panel]["tokens"] for panel, title in titles.items()}
    title = f"integrated gradients of the logit of {of}"
    return pictures.of_tokens(told["tokens"], lines, title, signed=True)


def write(seen: Look, folder: Path) -> list[Path]:
    """Write what was found and its pictures; return the files.

    Raises:
        ConfigError: the folder's own cannot be made there.
        CheckpointError: the disk refuses.
    """
    if folder.is_file() or not folder.parent.is_dir():
        raise ConfigError(f"{folder}: name a folder, in one that is there, for the output.")
    folder.mkdir(exist_ok=True)
    rundir.write_json(folder / FOUND, {**seen.found, "left_out": seen.left_out})
    for name, figure in seen.drawn.items():
        try:
            figure.savefig(folder / name, dpi=150, metadata={"Software": None})
        except OSError as error:
            raise rundir.unwritable(folder / name, error) from error
    return [folder / FOUND, *(folder / name for name in seen.drawn)]


def tables(seen: Look) -> list[list[Column]]:
    """Return the tables: the tokens that say most, the blocks, the weights."""
    out = []
    for told in seen.found.get("rows", ()):
        out += _token_tables(told)
    if "ablation" in seen.found:
        found = seen.found["ablation"]
        lines = {
            "on everywhere": found["tuned"],
            **{f"off in {p}": s for p, s in found["blocks"].items()},
        }
        lines["off everywhere"] = found["base"]
        names = list(found["tuned"])
        out.append(
            [
                Column("adapter", list(lines)),
                *(Column(n, [number(scores[n]) for scores in lines.values()]) for n in names),
            ]
        )
    if "spectrum" in seen.found:
        weights = seen.found["spectrum"]["weights"]
        out.append(
            [
                Column("weight", list(weights)),
                Column("rank", [str(one["rank"]) for one in weights.values()]),
                Column("effective", [f"{one['effective_rank']:.1f}" for one in weights.values()]),
                Column("of its norm", [f"{one['relative_norm']:.2%}" for one in weights.values()]),
            ]
        )
    return out


_SHOWN = 8


def _token_tables(told: dict[str, Any]) -> list[list[Column]]:
    out = []
    if "gradients" in told:
        found = told["gradients"]
        values = found["difference"]["tokens"]
        order = sorted(range(len(values)), key=lambda i: -abs(values[i]))[:_SHOWN]
        out.append(
            [
                Column(
                    f"row {told['row']}, {told['explained']}", [told["tokens"][i] for i in order]
                ),
                *(
                    Column(title, [f"{found[panel]['tokens'][i]:+.4f}" for i in order])
                    for panel, title in (
                        ("tuned", "tuned"),
                        ("base", "base"),
                        ("difference", "tuned - base"),
                    )
                ),
            ]
        )
    if "mutagenesis" in told:
        found = told["mutagenesis"]
        changes = [
            (change, f"{found['sequence'][place]}{place + 1}{residue}")
            for residue, line in zip(found["residues"], found["change"], strict=True)
            for place, change in enumerate(line)
        ]
        changes.sort(key=lambda one: -abs(one[0]))
        out.append(
            [
                Column(f"row {told['row']}: mutant", [name for _, name in changes[:_SHOWN]]),
                Column(
                    f"logit of {told['explained']}",
                    [f"{change:+.4f}" for change, _ in changes[:_SHOWN]],
                ),
            ]
        )
    return out
