"""Searches: what is tried, what is pruned, what goes on, and what comes out."""

import json
import signal
from pathlib import Path

import pytest
import yaml

import peftcore
from peftcore.testing import CommandContract, run_in_process
from peftcore_train import recipes
from peftcore_train.loop import Loop
from peftcore_train.recipes import parted
from peftcore_tune.section import Choice, Range, TuneSection, parsed
from peftcore_tune.space import guesses, space_of


class TestCommand(CommandContract):
    command = "tune"


RATES = {"train.learning_rate": "1e-7..0.1:log"}


def test_a_search_prunes_what_is_worse_and_writes_the_best_recipe(recipe):
    path = recipe({"epochs": 3, "batch_size": 8, "metric_for_best": "loss"})
    found = peftcore.tune(path, trials=7, parameters=RATES, quiet=True)
    trials = found.found["trials"]
    states = [trial["state"] for trial in trials]
    assert len(states) == 7 and {*states} == {"complete", "pruned"}
    assert states[:5] == ["complete"] * 5, "there is nothing yet to hold them against"
    pruned = next(trial for trial in trials if trial["state"] == "pruned")
    assert 2 <= len(pruned["epochs"]) < 4
    assert not (found.folder / pruned["run"] / "results.json").exists()
    values = [trial["value"] for trial in trials if trial["value"] is not None]
    assert found.found["best"]["value"] == min(values)
    results = json.loads((found.folder / found.found["best"]["run"] / "results.json").read_text())
    assert results["validation"]["loss"] == min(values)
    assert found.importance == {"train.learning_rate": 1.0}
    assert found.recipe["train"]["learning_rate"] == found.best["train.learning_rate"]
    assert f"{min(values):.4f}" in repr(found) and "<table>" in found._repr_html_()
    assert run_in_process("check", found.folder / "best.yaml").exit_code == 0


def test_a_search_that_was_stopped_goes_on_where_it_was(recipe, monkeypatch):
    path = recipe(
        {"epochs": 2, "batch_size": 8},
        tune={"parameters": {"methods[0].rank": [1, 2, 4, 8]}, "trials": 3},
    )
    inner, steps = Loop._step, []

    def interrupted(loop, *a):
        steps.append(loop.session.folder)
        if len(steps) == 6:  # of 4 steps in each trial
            signal.raise_signal(signal.SIGTERM)
        inner(loop, *a)

    monkeypatch.setattr(Loop, "_step", interrupted)
    done = run_in_process("tune", path)
    assert done.exit_code == 130, done.output + str(done.exception)
    (folder,) = path.parent.glob("runs/*")
    assert f"Go on with: peftcore tune --resume {folder}" in done.stderr
    assert (folder / "best.yaml").is_file(), "the first trial is the best so far"
    done = run_in_process("tune", "--resume", folder, "--json", "-q")
    assert done.exit_code == 0, done.output
    trials = json.loads(done.stdout)["trials"]
    assert [t["state"] for t in trials] == ["complete", "fail", "complete", "complete"]
    assert trials[1]["run"] == trials[2]["run"] and trials[1]["values"] == trials[2]["values"]
    # it went on from its state: of its four steps none was done twice
    assert [place.name for place in steps].count("0001") == 4
    again = run_in_process("tune", "--resume", folder, "--trials", "4", "-q")
    assert again.exit_code == 0 and len(steps) > 12
    assert yaml.safe_load((folder / "config.yaml").read_text())["tune"]["trials"] == 4


def test_ranges_come_from_the_schema_where_none_are_given(recipe):
    document = recipes.read(recipe())
    found = guesses(document)
    assert found["methods[0].rank"] == Range(1, 32, True, True, True)
    assert found["methods[0].use_rslora"] == Choice((False, True))
    assert found["methods[0].dropout"].low == 0 and found["methods[0].dropout"].high < 1
    assert found["train.learning_rate"] == Range(1e-3 / 8, 8e-3, True, False, True)
    assert "methods[0].targets" not in found and "methods[0].alpha" not in found
    _, section = parted(document, "tune", TuneSection)
    # hidden states have 16 features, so no rank can be 32
    assert space_of(document, section)["methods[0].rank"].high == 16


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--param", "methods[0].rank=4..64"], "methods[0].rank 4..64: "),
        (["--param", "methods[0].rank=0..4"], "should be greater than or equal to 1 (got 0)"),
        (["--param", "methods[0].rank=8..4"], "8..4: the first is not the least."),
        (["--param", "methods[0].rank=0..4:log"], "a logarithm needs numbers above 0."),
        (["--param", "methods[0].rank=some"], "'some' is no range; write 4..64, 1e-4..1e-2:log"),
        (["--param", "methods[0].rnk"], "needs a range: its schema has none. Did you mean"),
        (["--param", "methods[0].rnk=1..2"], "methods[0].rnk is not a field of lora."),
        (["--param", "methods[0].rank=[]"], "has no values to choose from."),
        (["--trials", "0"], "tune.trials: input should be greater than or equal to 1"),
        (["--storage", "nonsense"], "tune.storage nonsense: "),
        (["--executor", "process"], "unknown executor 'process'. Did you mean processes?"),
        (["--resume", "x"], "--resume goes on with the recipe of its directory; only the budget"),
    ],
)
def test_what_cannot_be_searched_is_named_before_anything_is_trained(recipe, options, expected):
    path = recipe()
    done = run_in_process("tune", path, *options)
    assert done.exit_code in (2, 3) and expected in done.stderr, done.stderr
    assert not list(path.parent.glob("runs/*/trials/*"))


def test_a_search_takes_no_arms_and_training_takes_no_search(recipe):
    path = recipe(tune={"trial": 3})
    done = run_in_process("tune", path)
    assert done.exit_code == 2 and "tune.trial is not a field of tune. Did you mean" in done.stderr
    assert run_in_process("check", path).exit_code == 0, "the section is no part of a run"
    content = yaml.safe_load(path.read_text())
    content["compare"] = {"lora": content.pop("methods")}
    path.write_text(yaml.safe_dump(content))
    assert "a search takes methods and one seed" in run_in_process("tune", path).stderr


def test_a_search_whose_trials_all_fail_says_why(recipe):
    weights = {"type": "sequence-classification", "class_weights": {"good": 3e38, "bad": 3e38}}
    done = run_in_process(
        "tune", recipe(task=weights), "--trials", "2", "--param", "seed=0..9", "-q"
    )
    assert done.exit_code == 1
    assert "error: no trial came to an end; see " in done.stderr
    assert "The last one: the loss is nan" in done.stderr


def test_lists_and_ranges_are_read():
    assert parsed("a", "1e-4..1e-2:log") == Range(1e-4, 1e-2, True, False)
    assert parsed("a", "4 .. 64") == Range(4, 64, False, True)
    assert parsed("a", [["x"], None]) == Choice((["x"], None))


@pytest.mark.slow
def test_workers_in_processes_share_the_trials(recipe):
    path = recipe()
    done = run_in_process(
        "tune", path, "--trials", "4", "-j", "2", "--json", "--param", "seed=0..99"
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    seeds = [trial["values"]["seed"] for trial in found["trials"]]
    assert 4 <= len(seeds) <= 5 and len({*seeds}) > 2, "no two workers draw the same"
    assert Path(found["directory"], "study.db").is_file()
