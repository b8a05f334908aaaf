"""Runs that go on after their end: more epochs, and states that are kept."""

import json

import pytest

import peftcore as core
from peftcore_train import rundir
from peftcore_train.loop import Loop

CONSTANT = {"epochs": 1, "lr_scheduler": "constant", "log_steps": 1}


@pytest.fixture
def run(recipe, peftcore, tmp_path):
    """Return a function that trains a recipe and gives the run directory."""

    def train(name, **changes):
        output = tmp_path / name
        done = peftcore("train", recipe(f"{name}.yaml", output=str(output), **changes), "-q")
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        (folder,) = output.iterdir()
        return folder

    return train


def test_more_epochs_at_a_constant_rate_are_those_of_a_longer_run(run, peftcore):
    short, long = run("short", train=CONSTANT), run("long", train={**CONSTANT, "epochs": 2})
    done = peftcore("train", "--resume", short, "--set", "train.epochs=2")
    assert done.exit_code == 0, done.output
    tensors = [core.read(folder / "adapter")[1] for folder in (short, long)]
    assert all(bool((tensors[0][name] == t).all()) for name, t in tensors[1].items())
    results = [rundir.read_json(folder / rundir.RESULTS) for folder in (short, long)]
    for found in results:
        del found["time"]
    assert results[0] == results[1]
    assert (short / "metrics.jsonl").read_text() == (long / "metrics.jsonl").read_text()
    assert rundir.recipes.read(short / "config.yaml").data["train"]["epochs"] == 2


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.learning_rate=1", "a run that has begun goes on with train.epochs, train.max"),
        ("train.epoch=3", "Did you mean train.epochs?"),
        ("train.epochs=0", "is that of epoch"),
    ],
)
def test_nothing_else_of_a_run_can_be_changed(change, sentence, trained, peftcore):
    before = (trained / "config.yaml").read_bytes()
    done = peftcore("train", "--resume", trained, "--set", change, "-q")
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.splitlines()
    assert sentence in line
    assert (trained / "config.yaml").read_bytes() == before and (trained / "results.json").exists()


def test_the_last_states_are_kept_each_with_its_adapter(run):
    folder = run("kept", train={"epochs": 4, "save_total_limit": 2})
    states = sorted(folder.glob("state-*"))
    assert [state.name for state in states] == ["state-000000024-000003", "state-000000032-000004"]
    for state in states:
        assert core.inspect(state / "adapter")["extra"]["recipe"]["name"] == "toy"
    assert core.inspect(folder / "adapter")


def test_a_state_is_saved_after_so_many_minutes(run, monkeypatch):
    steps, save = [], Loop.save

    def noted(loop, **options):
        steps.append((loop.position.step, options))
        save(loop, **options)

    monkeypatch.setattr(Loop, "save", noted)
    run("often", train={"max_steps": 3, "save_minutes": 1e-9})
    assert steps == [*((step, {"wait": False}) for step in (1, 2, 3)), (3, {})]


def test_the_log_holds_what_a_bar_would_hide(run):
    lines = (run("logged", train=CONSTANT) / "log.txt").read_text().splitlines()
    stamps = {line[4] + line[7] + line[13] + line[16] + line[19] for line in lines}
    assert stamps == {"--:: "}
    said = [line[20:] for line in lines]
    assert "encoding train 64 rows: 0.0 s" in [line.rsplit(":", 1)[0] + ": 0.0 s" for line in said]
    steps = [line for line in said if line.startswith("step ")]
    assert len(steps) == 8 and steps[-1].endswith("0:00 left")
    assert json.dumps(said).count("scoring test") == 1


STILL = {"max_steps": 1, "learning_rate": 1e-12}


def test_a_second_stage_starts_from_the_adapter_of_the_first(run, trained):
    methods = core.inspect(trained / "adapter")["extra"]["recipe"]["methods"]
    folder = run("second", methods=methods, train=STILL, **{"from": str(trained)})
    first, second = (core.read(place / "adapter")[1] for place in (trained, folder))
    assert first.keys() == second.keys()
    assert all(bool((first[n] - t).abs().max() < 1e-6) for n, t in second.items())
    assert f"starting from {trained / 'adapter'}\n" in (folder / "log.txt").read_text()


def test_a_stage_with_another_head_takes_over_all_but_that(run):
    methods = [{"method": "lora", "rank": 2, "dropout": 0.1}]
    masked = run("masked", methods=methods, task={"type": "masked-lm"})
    methods = [{"method": "lora", "rank": 2}]
    folder = run("next", methods=methods, train=STILL, **{"from": str(masked / "adapter")})
    (said,) = [s for s in (folder / "log.txt").read_text().splitlines() if "starting from" in s]
    assert "classifier.weight" in said and said.endswith("begin anew")
    first, second = (core.read(place / "adapter")[1] for place in (masked, folder))
    assert len(first) == 8 and first.keys() < second.keys()
    assert all(bool((second[n] - t).abs().max() < 1e-6) for n, t in first.items())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"methods": ["bitfit"]}, "holds lora, and this adapter is of bitfit. Name the same"),
        ({"methods": [{"method": "lora", "rank": 8}]}, "was trained with lora.targets {"),
        ({"from": "no/where"}, "from: no/where is neither an adapter nor a run directory"),
    ],
)
def test_a_start_that_does_not_fit_is_one_sentence(changes, sentence, trained, recipe, peftcore):
    done = peftcore("train", recipe(**{"from": str(trained), **changes}), "-q")
    assert done.exit_code in (1, 2), done.output
    (line,) = done.stderr.splitlines()
    assert sentence in line
