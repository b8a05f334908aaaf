"""The page about a run or a comparison."""

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from peftcore import CheckpointError, ConfigError
from peftcore_report import pictures
from peftcore_report.rows import Seen, seen
from peftcore_report.tables import Cell, Table, arms_table, classes_table, pairs_table, worst_table
from peftcore_train import rundir
from peftcore_train.comparing.comparison import COMPARISON
from peftcore_train.comparing.table import best_arm, notes
from peftcore_train.experiment import jobs_in
from peftcore_train.report import number
from peftcore_train.rundir import read_json, write_text


def facts_of(directory: Path) -> dict[str, Any]:
    """Return all that a page shows of a run or a comparison.

    Raises:
        ConfigError: the directory is neither, or has no results yet.
        CheckpointError: a file in it is damaged.
    """
    describe = _comparison if (directory / COMPARISON).is_file() else _run
    return describe(directory)


def write(facts: dict[str, Any], directory: Path, output: Path) -> list[Path]:
    """Write the page, and beside it its first picture as a PNG.

    Args:
        facts: what the page shows.
        directory: what it is about, to which its links lead.
        output: the page.

    Returns:
        What was written.

    Raises:
        CheckpointError: the disk refuses.
    """
    environment = Environment(
        loader=PackageLoader("peftcore_report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assets = files("peftcore_report") / "templates"
    text = environment.get_template("page.html").render(
        **facts,
        style=Markup((assets / "page.css").read_text("utf-8")),
        script=Markup((assets / "page.js").read_text("utf-8")),
        base=_relative(directory, output.parent),
    )
    write_text(output, text)
    if not facts["pictures"]:
        return [output]
    png = output.with_suffix(".png")
    try:
        facts["pictures"][0].write_png(png)
    except OSError as error:
        raise CheckpointError(f"{png} cannot be written: {error.strerror or error}.") from error
    return [output, png]


def _comparison(directory: Path) -> dict[str, Any]:
    found = read_json(directory / COMPARISON)
    best = best_arm(found)
    shown = best_run(found, best) if best else None
    lines = _validation_curves(directory, found)
    drawn = [
        pictures.over_parameters(found),
        pictures.curves(
            f"Validation {found['metric']}, first seed", f"validation {found['metric']}", lines
        ),
    ]
    details = _details(directory / shown["run"], found["metric"]) if shown else Seen()
    return {
        "title": f"{found['name']}: comparison",
        "facts": {
            "task": found["task"],
            "backbone": found["backbone"],
            "metric": f"{found['metric']} ({'greater' if found['greater_is_better'] else 'smaller'}"
            " is better)",
            "seeds": ", ".join(map(str, found["seeds"])),
            "best by validation": best or "none",
        },
        "tables": [arms_table(found), pairs_table(found)],
        "notes": notes(found),
        "failed": found["failed"],
        "pictures": [picture for picture in drawn if picture],
        "details_of": f"{best}, seed {shown['seed']}" if shown else "",
        "details": details,
        "detail_tables": [classes_table(details), worst_table(details)],
        "links": {
            f"{name}, seed {run['seed']}": run["run"]
            for name, arm in found["arms"].items()
            for run in arm["runs"]
        },
        **_origin(directory, directory / shown["run"] if shown else directory),
    }


def best_run(found: dict[str, Any], arm: str) -> dict[str, Any]:
    """Return the run of an arm with the best validation score."""
    better = max if found["greater_is_better"] else min
    runs: list[dict[str, Any]] = found["arms"][arm]["runs"]
    return better(runs, key=lambda run: run["validation"][found["metric"]])


def _run(directory: Path) -> dict[str, Any]:
    rundir.check_run(directory)
    if not (directory / rundir.RESULTS).is_file():
        raise ConfigError(
            f"{directory} has no results yet: peftcore train --resume {directory} ends the run."
        )
    results = read_json(directory / rundir.RESULTS)
    if "metric" not in results:
        places = ", ".join(str(directory / arm) for arm in results.get("arms", {}))
        raise ConfigError(
            f"{directory} holds several runs: name one of {places}; peftcore compare makes"
            " comparisons that have a page of their own."
        )
    metric = results["metric"]
    details = _details(directory, metric)
    loss, scores = _curves(directory, metric)
    drawn = [
        pictures.curves("Loss in training", "loss", {"batch": loss[0], "mean of epoch": loss[1]}),
        pictures.curves(f"Validation {metric}", f"validation {metric}", {metric: scores}),
    ]
    methods = "+".join(method["method"] for method in results["methods"]) or "head alone"
    return {
        "title": f"{results['name']}: {methods}",
        "facts": {
            "task": results["task"],
            "backbone": results["backbone"],
            "seed": results["seed"],
            "best epoch": f"{results['best']['epoch']} (step {results['best']['step']} of"
            f" {results['steps']}), by validation {metric}",
            "trainable": f"{results['parameters']['trainable']:,} of the methods,"
            f" {results['parameters']['head']:,} of the head",
            "rows": ", ".join(f"{count:,} {split}" for split, count in results["rows"].items()),
            "time": f"{results['time']['total_seconds']:.0f} s",
        },
        "tables": [_scores_table(results)],
        "notes": [],
        "failed": {},
        "pictures": [picture for picture in drawn if picture],
        "details_of": "",
        "details": details,
        "detail_tables": [classes_table(details), worst_table(details)],
        "links": {"this run": "."},
        **_origin(directory, directory),
    }


def _scores_table(results: dict[str, Any]) -> Table:
    names = [name for name in results["test"] if "." not in name]
    lines = [
        [Cell(name), *(Cell(number(results[s].get(name)), results[s].get(name)) for s in _SPLITS)]
        for name in names
    ]
    return Table("Scores", ["metric", *_SPLITS], lines)


_SPLITS = ("validation", "test")


def _details(place: Path, metric: str) -> Seen:
    (found,) = jobs_in(place)
    return seen(found[0], place, metric)


def _curves(place: Path, metric: str) -> tuple[list[Any], Any]:
    """Return the losses of batches and epochs, and the validation scores, each over steps."""
    file = place / rundir.METRICS
    lines = [json.loads(x) for x in file.read_text("utf-8").splitlines()] if file.is_file() else []
    ends = [line for line in lines if "train_loss" in line]
    batches = [line for line in lines if "loss" in line]
    loss = [
        ([x["step"] for x in found], [x[name] for x in found])
        for found, name in ((batches, "loss"), (ends, "train_loss"))
    ]
    return loss, ([x["step"] for x in ends], [x.get(f"validation_{metric}") for x in ends])


def _validation_curves(directory: Path, found: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _curves(directory / arm["runs"][0]["run"], found["metric"])[1]
        for name, arm in found["arms"].items()
        if arm["runs"]
    }


def _origin(directory: Path, run: Path) -> dict[str, Any]:
    """Return the recipe, and what the (first) run ran on."""
    file = run / rundir.ENVIRONMENT
    found = read_json(file) if file.is_file() else {}
    flat: dict[str, str] = {}
    for name, value in found.items():
        shown = (
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        flat[name] = str(shown)
    return {"recipe": (directory / rundir.CONFIG).read_text("utf-8"), "environment": flat}


def _relative(directory: Path, start: Path) -> str:
    """Return how a page in a folder names a directory, as a part of an address."""
    from os.path import relpath
    from urllib.parse import quote

    return quote(Path(relpath(directory.resolve(), start.resolve())).as_posix())
