"""Comparisons: arms with settings and seeds, what failed, the tests of pairs, the table."""

import json
import posix
import signal
import time
from concurrent.futures import wait
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from statsmodels.stats.contingency_tables import mcnemar

import peftcore as face
from peftcore import ConfigError, UnknownName
from peftcore.testing import CommandContract
from peftcore_train import recipes, row_scores
from peftcore_train.comparing import paired
from peftcore_train.comparing.cells import cells_of
from peftcore_train.comparing.executors import Processes, room_for
from peftcore_train.errors import Interrupted, TrainingError
from peftcore_train.fitting import Column, fitting
from peftcore_train.schema import jobs_of, load_jobs


class TestCommand(CommandContract):
    command = "compare"


def comparing(recipe, seeds=(3, 5), train=None, **arms) -> Path:
    """Write the recipe with arms in place of its methods."""
    path = recipe(train={"max_steps": 4, **(train or {})})
    content = yaml.safe_load(path.read_text())
    del content["methods"]
    path.write_text(yaml.safe_dump({**content, "seeds": list(seeds), "compare": arms}, sort_keys=0))
    return path


GRID = {
    # a rate of nearly nothing learns nothing
    "methods": [{"method": "lora", "rank": 8, "targets": ["embeddings", "all-linear"]}],
    "grid": {"train.learning_rate": [1e-9, 0.01]},
}
#: Its schedule has no room in 4 steps, which it says when training begins.
DEAD = [{"method": "adalora", "tinit": 3, "tfinal": 3}]


def test_a_comparison_chooses_settings_goes_on_after_failures_and_resumes(
    recipe, peftcore, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "120")
    path = comparing(recipe, train={"metric_for_best": "loss"}, lora=GRID, dead=DEAD, head=[])
    done = peftcore("compare", path, "--executor", "in-process")
    assert done.exit_code == 1, done.output
    error = done.stderr.splitlines()[-1]
    assert error.startswith("error: 2 of 6 runs failed: dead, seed 3; dead, seed 5. peftcore compa")
    folder = Path(error.split("--resume ")[1].split(" tries")[0])
    found = json.loads((folder / "comparison.json").read_text())

    lora = found["arms"]["lora"]
    scores = [tried["validation"] for tried in lora["settings"]]
    assert (
        scores[1] < scores[0]
        and not found["greater_is_better"]
        and lora["setting"] == {"train.learning_rate": 0.01}
    )
    assert [run["run"] for run in lora["runs"]] == [
        f"lora/setting-2/seed-{seed}" for seed in (3, 5)
    ]
    assert not (folder / "lora/setting-1/seed-5/results.json").exists()
    tests = [
        json.loads((folder / run["run"] / "results.json").read_text())["test"]["loss"]
        for run in lora["runs"]
    ]
    assert lora["test"]["mean"] == pytest.approx(np.mean(tests))
    assert set(lora["parameters"]) >= {"percent_of_total", "percent_of_base", "percent_of_blocks"}
    assert lora["adapter_bytes"] > found["arms"]["head"]["adapter_bytes"]
    assert found["arms"]["dead"]["runs"] == []
    assert found["failed"]["dead, seed 3"].startswith("adalora.tinit and tfinal")
    (pair,) = found["pairs"]
    assert pair["arms"] == ["lora", "head"] and pair["p_rows"] == pair["p_rows_corrected"]
    assert found["rows_judged_by"] == "loss"
    assert done.stdout.count("lora") == 1 + done.stdout.count("method") - 1

    times = {p: p.stat().st_mtime_ns for p in folder.rglob("results.json")}
    assert len(times) == 5
    again = peftcore("compare", "--resume", folder, "--executor", "in-process", "--json", "-q")
    assert again.exit_code == 1
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("results.json")} == times
    shown = json.loads(again.stdout)
    assert shown["arms"]["lora"] == lora and shown["failed"] == found["failed"]


def test_a_comparison_in_python_is_an_object_and_rows_are_kept_in_order(recipe, data):
    path = comparing(recipe, [1, 2], head=[])
    found = face.compare(path, executor="in-process", quiet=True, seeds=[1])
    assert "test" in repr(found) and "1 seed;" in repr(found)
    assert found._repr_html_().startswith("<table>") and list(found.arms) == ["head"]
    assert found.run("head").test["accuracy"] == found.arms["head"]["test"]["mean"]
    (run,) = data.parent.glob("runs/*/head/seed-1")
    kept = row_scores.read(run / "test.safetensors")
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    labels = ["bad", "good"]
    assert kept["target"].tolist() == [labels.index(row["label"]) for row in rows]
    results = json.loads((run / "results.json").read_text())
    name, greater, right = row_scores.of_metric(kept, "mcc")
    assert (name, greater) == ("accuracy", True)
    assert float(right.mean()) == pytest.approx(results["test"]["accuracy"])
    assert float(row_scores.of_metric(kept, "loss")[2].mean()) == pytest.approx(
        results["test"]["loss"]
    )


def test_numbers_are_judged_by_how_far_they_are_off():
    rows = {"preds": torch.tensor([1.0, 2.0, 5.0]), "target": torch.tensor([1.0, 3.0, 3.0])}
    assert row_scores.of_metric(rows, "pearson")[2].tolist() == [0, 1, 2]
    name, greater, found = row_scores.of_metric(rows, "r2")
    assert (name, greater, found.tolist()) == ("squared error", False, [0, 1, 4])
    ragged = [
        {"a": torch.ones(2, 3), "b": torch.ones(2)},
        {"a": torch.ones(1, 4), "b": torch.zeros(1)},
    ]
    assert {k: v.tolist() for k, v in row_scores.in_order(ragged, [2, 0, 1]).items()} == {
        "b": [1, 0, 1]
    }


def test_the_test_over_rows_is_mcnemars_where_rows_are_right_or_wrong():
    chance = np.random.default_rng(0)
    first, second = (chance.random(200) < p for p in (0.8, 0.7))
    table = [[int((first == a)[second == b].sum()) for b in (1, 0)] for a in (1, 0)]
    expected = mcnemar(table, exact=True).pvalue
    assert paired.over_rows(first * 1.0, second * 1.0) == pytest.approx(expected)
    # the permutation of the same rows, whose sizes differ a little, comes to nearly the same
    shaken = first + 1e-6 * chance.random(200)
    assert paired.over_rows(shaken, second * 1.0) == pytest.approx(expected, abs=0.05)
    assert paired.over_rows(first * 1.0, first * 1.0) == 1


def test_p_values_are_corrected_by_holm_and_seeds_need_a_spread():
    assert paired.corrected([0.01, None, 0.04, 0.03]) == [0.03, None, 0.06, 0.06]
    assert paired.over_seeds([0.8, 0.9], [0.7, 0.7]) is None
    assert paired.over_seeds([0.75, 0.75, 0.75], [0.5, 0.5, 0.5]) is None
    assert paired.over_seeds([0.8, 0.9, 0.85], [0.7, 0.7, 0.8]) == pytest.approx(
        # Student's t of two degrees has a closed form; the differences are .1, .2 and .05
        1 - 7**0.5 / 3
    )
    found = paired.interval([0.8, 0.9, 0.85])
    assert found["mean"] == pytest.approx(0.85)
    assert found["high"] - found["mean"] == pytest.approx(4.3027 * 0.05 / 3**0.5, rel=1e-3)
    assert paired.interval([0.5]) == {"mean": 0.5, "low": None, "high": None}


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_table_fits_and_loses_nothing(width):
    titles = ["validation accuracy", "seconds", "peak memory", "trainable", "% of total"]
    columns = [Column("method", ["lora", "a-long-name-of-an-arm-" * 3])]
    columns += [Column(title, [f"{i}.1234 ±0.0123", f"{i}.5"]) for i, title in enumerate(titles)]
    console = Console(width=width, record=True, file=StringIO())
    for part in fitting(columns, width):
        console.print(part)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for i in range(len(titles)):
        assert f"{i}.1234 ±0.0123" in text and f"{i}.5" in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeds": [1, 1]}, "seeds names 1 twice."),
        ({"seeds": [1, -1]}, "seed: input should be greater than or equal to 0 (got -1)."),
        ({"seeds": 3}, "seeds: name at least one, as seeds: [0, 1, 2]."),
        ({"a": {"grid": {"train.learning_rat": [1]}}}, "train.learning_rat is not a field of"),
        ({"a": {"grid": {"train.epochs": [1, 0]}}}, "train.epochs: input should be greater than"),
        ({"a": {"grid": {"train.epochs": []}}}, "train.epochs has no values to choose from."),
        ({"a": {"grid": {"methods[3].rank": [1]}}}, "methods has 1 items."),
        ({"a": {"set": {"data.seed": 4}}}, "data of arm b is not that of a; what is compared has"),
    ],
)
def test_what_cannot_be_compared_is_named(recipe, change, expected):
    path = comparing(recipe, a=["lora"], b=[])
    content = yaml.safe_load(path.read_text())
    if "a" in change:
        content["compare"]["a"] = {"methods": ["lora"], **change["a"]}
    else:
        content.update(change)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        cells_of(recipes.read(path))
    assert expected in str(caught.value) and caught.value.exit_code == 2


def test_training_leaves_seeds_and_grids_to_compare(recipe, peftcore):
    path = comparing(recipe, lora=GRID, head=[])
    done = peftcore("train", path)
    assert done.exit_code == 2
    assert f"seeds is for a comparison: peftcore compare {path} trains all of it" in done.stderr
    assert [job.arm for job in load_jobs(path)] == ["lora", "head"]
    content = yaml.safe_load(path.read_text())
    del content["seeds"]
    path.write_text(yaml.safe_dump(content))
    assert "compare.lora.grid is for a comparison" in peftcore("train", path).stderr
    assert len(jobs_of(recipes.read(path))) == 2


def test_an_executor_that_nobody_brings_is_named_before_anything_is_trained(recipe, peftcore):
    path = comparing(recipe, head=[])
    done = peftcore("compare", path, "--executor", "procesess")
    assert done.exit_code == UnknownName.exit_code
    assert "unknown executor 'procesess'. Did you mean processes?" in done.stderr
    assert peftcore("compare", path, "-j", "0").exit_code == 2
    assert not list(path.parent.glob("runs/*"))


def test_a_process_that_dies_takes_no_other_with_it():
    with Processes(2) as executor:
        dead, good, wrong = (
            executor.submit(posix.abort),
            executor.submit(posix.getcwd),
            executor.submit(posix.strerror, "x"),
        )
        wait([dead, good, wrong])
    with pytest.raises(TrainingError, match="signal 6 ended its process"):
        dead.result()
    assert good.result() == str(Path.cwd())
    with pytest.raises(TrainingError, match="its process ended: TypeError"):
        wrong.result()


def test_processes_are_told_to_stop_and_what_waits_does_not_begin():
    executor = Processes(1)
    running, waiting = (executor.submit(signal.pause) for _ in range(2))
    while not executor._running:
        time.sleep(0.01)
    executor.shutdown(cancel_futures=True)
    with pytest.raises((Interrupted, TrainingError)):
        running.result()
    assert waiting.cancelled()


def test_as_many_processes_run_as_memory_allows():
    assert room_for({"host": [10, 100]}, 1) == 9
    assert room_for({"host": [10, 100], "device": [30, 100]}, 1) == 3
    assert room_for({"host": [300, 100]}, 1) == 1
    assert room_for({}, 2) == 2


@pytest.mark.slow
def test_processes_give_what_one_process_gives(recipe, peftcore):
    path = comparing(recipe, lora=["lora"], dead=DEAD, head=[])
    found = []
    for options in (("-j", "2"), ("--executor", "in-process")):
        done = peftcore("compare", path, "-q", "--json", *options)
        assert done.exit_code == 1, done.output
        scores = json.loads(done.stdout)
        runs = {n: [run["test"] for run in arm["runs"]] for n, arm in scores["arms"].items()}
        found.append((runs, scores["pairs"], scores["failed"]))
    assert found[0] == found[1]
