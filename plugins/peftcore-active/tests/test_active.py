"""A pool that is labelled round by round, rows that are asked for, and curricula."""

import csv
import json
import math
import shutil
import signal
from pathlib import Path

import pytest
import yaml

import peftcore
from peftcore.testing import CommandContract, run_in_process
from peftcore_active import labelling
from peftcore_active.pool import choose
from peftcore_train import building
from peftcore_train.loop import Loop
from peftcore_train.trained import one_trained


class TestActive(CommandContract):
    command = "active"


class TestQuery(CommandContract):
    command = "query"


class TestCurriculum(CommandContract):
    command = "curriculum"


#: Rounds that take no time.
SMALL = {"start": 8, "add": 4, "rounds": 1, "seeds": [0], "strategies": ["margin"]}
FAST = {"max_steps": 2, "batch_size": 8, "device": "cpu"}


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def experiment(recipe_in, tmp_path_factory):
    """Label a pool by covering it, once for all tests that look at it."""
    path = recipe_in(tmp_path_factory.mktemp("experiment"))
    section = {**SMALL, "start": 8, "add": 42, "strategies": ["k_centre"]}
    return peftcore.active(path, active=section, quiet=True)


def test_rows_that_cover_the_pool_teach_more_than_rows_at_random(experiment):
    found = experiment.found
    cover, chance = found["strategies"]["k_centre"], found["strategies"]["random"]
    assert found["labels"] == [8, 50] and found["greater_is_better"]
    assert cover["test"][0][0] == chance["test"][0][0], "both begin with the same rows"
    assert cover["area"] > chance["area"] and cover["against_random"][0] > 0
    assert cover["test"][0][1] > chance["test"][0][1] + 0.1
    assert (experiment.folder / "active.png").stat().st_size > 5000
    assert "k_centre" in repr(experiment) and "<table>" in experiment._repr_html_()


def test_each_round_has_the_rows_of_the_one_before_and_can_be_trained_again(experiment):
    runs = {(run["strategy"], run["round"]): run for run in experiment.found["runs"]}
    for strategy in ("random", "k_centre"):
        before, now = (runs[strategy, number]["picked"] for number in (0, 1))
        assert now[:8] == before and len(set(now)) == 50
    last = experiment.folder / runs["k_centre", 1]["run"]
    assert run_in_process("check", last / "config.yaml").exit_code == 0
    config = yaml.safe_load((last / "config.yaml").read_text())
    assert config["data"]["picked"]["train"] == runs["k_centre", 1]["picked"]
    assert json.loads((last / "results.json").read_text())["rows"]["train"] == 50


def test_an_experiment_that_was_stopped_ends_as_one_that_was_not(recipe, monkeypatch):
    path = recipe(train=FAST, active=SMALL)
    whole = run_in_process("active", path, "--json", "-q")
    assert whole.exit_code == 0, whole.output
    whole_found = json.loads(whole.stdout)

    inner, begun = Loop._step, []

    def interrupted(loop, *a):
        begun.append(loop.session.folder)
        if len(begun) == 4:  # within the second training
            signal.raise_signal(signal.SIGTERM)
        inner(loop, *a)

    monkeypatch.setattr(Loop, "_step", interrupted)
    done = run_in_process("active", path, "-q")
    assert done.exit_code == 130, done.output
    folder = max(path.parent.glob("runs/*"), key=lambda p: p.stat().st_mtime_ns)
    assert f"Go on with: peftcore active --resume {folder}" in done.stderr

    # and between two rounds, before the next rows are written down; not by a signal, which a suite
    # in the background may have been told to ignore
    def interrupts(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(labelling, "choose", interrupts)
    done = run_in_process("active", "--resume", folder, "-q")
    assert done.exit_code == 130, done.output
    assert not list(folder.glob("seed-0/margin-*"))
    monkeypatch.undo()
    done = run_in_process("active", "--resume", folder, "--json", "-q")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert {**found, "directory": ""} == {**whole_found, "directory": ""}


def test_what_is_least_sure_is_asked_for_and_chance_is_drawn_from_seeds_alone(experiment):
    run = experiment.folder / experiment.found["runs"][0]["run"]
    trained = one_trained(run)
    rows = building.make_task(trained.job).read(trained.job.recipe.data, "test")

    def chosen(strategy: str, seed: int = 0) -> tuple[list[int], list[float]]:
        return choose(strategy, run, rows, rows[:2], 5, 3, seed)

    (entropy, bits), (margin, _) = chosen("entropy"), chosen("margin")
    assert entropy == margin, "of two labels both say the same"
    assert bits == sorted(bits, reverse=True) and bits[0] <= math.log(2) + 1e-6
    assert chosen("bald") == chosen("bald") != chosen("bald", seed=1)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"active": {**SMALL, "rounds": 99}}, "404 labels, but the pool has 256 rows. Take fewer"),
        ({"active": {"strategies": ["margn"]}}, "should be 'entropy', 'margin', 'bald' or"),
        ({"active": {"seeds": [1, 1]}}, "seeds names one twice"),
        (
            {"active": {**SMALL, "metric": "acuracy"}},
            "active.metric: 'acuracy' is not a metric of this task. Did you mean accuracy?",
        ),
        ({"active": {"bold": 1}}, "active.bold is not a field of active."),
        ({"seeds": [0, 1]}, "peftcore active takes methods, and seeds under active"),
        (
            {"task": {"type": "sequence-classification", "label_column": "mood"}},
            "no column 'mood', which an experiment shows round by round",
        ),
        (
            {"task": {"type": "regression", "target_columns": ["number"]}, "active": SMALL},
            "margin asks how likely each label is, and regression of this recipe has no such",
        ),
    ],
)
def test_what_cannot_be_tried_is_named_before_anything_is_trained(recipe, changes, sentence):
    path = recipe(**changes)
    done = run_in_process("active", path)
    assert done.exit_code == 2 and sentence in done.stderr, done.stderr
    assert not list(path.parent.glob("runs/*"))


def test_bald_is_refused_where_nothing_is_dropped(recipe, base, tmp_path):
    shutil.copytree(base / "bert", tmp_path / "bert")
    config = json.loads((tmp_path / "bert/config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (tmp_path / "bert/config.json").write_text(json.dumps(config))
    section = {**SMALL, "strategies": ["bald"]}
    path = recipe(backbone={"source": str(tmp_path / "bert")}, active=section)
    done = run_in_process("active", path)
    assert done.exit_code == 2, done.output
    assert "nothing is dropped here: set methods[0].dropout=0.1" in done.stderr
    assert not list(tmp_path.glob("runs/*"))


def test_a_pool_is_asked_for_the_rows_to_label_and_keeps_its_columns(experiment, tmp_path):
    run = experiment.folder / experiment.found["runs"][0]["run"]
    pool = tmp_path / "pool.csv"
    pool.write_text("id,text\na,the film fine\nb,a story badb\nc,the story gooda\nd,was a dull\n")
    out = tmp_path / "to-label.csv"
    done = run_in_process("query", run, pool, "--count", "2", "--output", out)
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert list(rows[0]) == ["id", "text", "row", "margin"] and len(rows) == 2
    assert rows[0]["id"] == "abcd"[int(rows[0]["row"]) - 1]
    assert float(rows[0]["margin"]) >= float(rows[1]["margin"])
    done = run_in_process("predict", run, "--input", pool, "--probabilities", "-q")
    shares = [
        sorted(json.loads(line)["probabilities"].values()) for line in done.stdout.split("\n")[:4]
    ]
    leads = {name: low - high for name, (low, high) in zip("abcd", shares, strict=True)}
    assert [row["id"] for row in rows] == sorted(leads, key=leads.get, reverse=True)[:2]
    for options, sentence in (
        (["--count", "5"], "has 4 rows; take fewer."),
        (["--count", "0"], "--count is 1 at least"),
    ):
        failed = run_in_process("query", run, pool, *options, "--output", tmp_path / "b.csv")
        assert failed.exit_code == 2 and sentence in failed.stderr


def test_a_curriculum_goes_from_easy_rows_to_all_with_as_many_steps_as_none(recipe):
    section = {"by": "length", "orders": ["easy"], "stages": [0.5, 1.0], "seeds": [0]}
    train = {"epochs": 1, "batch_size": 64, "device": "cpu"}
    found = peftcore.curriculum(recipe(train=train, curriculum=section), quiet=True)
    assert list(found.found["orders"]) == ["plain", "easy"]
    assert "no curriculum" in repr(found)
    place = found.folder / "seed-0"
    steps = {p.name: json.loads((p / "results.json").read_text())["steps"] for p in place.iterdir()}
    assert steps == {"plain": 4, "easy-1": 2, "easy-2": 2}
    first, second = (yaml.safe_load((place / f"easy-{i}/config.yaml").read_text()) for i in (1, 2))
    assert second["from"] == str(place / "easy-1")
    assert len(second["data"]["picked"]["train"]) == 256
    rows = rows_of(Path(first["data"]["source"], "train.jsonl"))
    picked = first["data"]["picked"]["train"]
    for label in ("good", "bad"):
        mine, left = (
            [
                len(r["text"].split())
                for i, r in enumerate(rows)
                if r["label"] == label and (i in picked) == taken
            ]
            for taken in (True, False)
        )
        assert len(mine) == 64 and max(mine) <= min(left), "by words, which are tokens"
    again = run_in_process("curriculum", "--resume", found.folder, "--json", "-q")
    assert json.loads(again.stdout)["orders"] == found.found["orders"]


def test_rows_are_hard_by_their_loss_under_what_was_trained_on_all(recipe):
    section = {"orders": ["hard"], "stages": [0.5, 1.0], "seeds": [0]}
    train = {"max_steps": 2, "batch_size": 64, "device": "cpu"}
    found = peftcore.curriculum(recipe(train=train, curriculum=section), quiet=True)
    place = found.folder / "seed-0"
    picked = yaml.safe_load((place / "hard-1/config.yaml").read_text())["data"]["picked"]["train"]
    source = Path(yaml.safe_load((place / "plain/config.yaml").read_text())["data"]["source"])
    file = source / "train.jsonl"
    done = run_in_process("predict", place / "plain", "--input", file, "--probabilities", "-q")
    right = [
        answer["probabilities"][answer["label"]]
        for answer in map(json.loads, done.stdout.split("\n")[:-1])
    ]
    rows = rows_of(file)
    for label in ("good", "bad"):
        mine = [i for i, row in enumerate(rows) if row["label"] == label]
        taken = [right[i] for i in mine if i in picked]
        left = [right[i] for i in mine if i not in picked]
        assert len(taken) == 64 and max(taken) <= min(left) + 1e-6
    bad = run_in_process("curriculum", recipe(curriculum={"stages": [0.5, 0.4, 1]}))
    assert bad.exit_code == 2 and "stages are shares above 0 that rise" in bad.stderr
