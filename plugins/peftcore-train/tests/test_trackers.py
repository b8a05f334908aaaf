"""Trackers, through accelerate."""

import json
import signal

import pytest

from peftcore_train import trackers
from peftcore_train.loop import Loop


def test_tensorboard_has_what_the_run_wrote_and_none_of_it_twice(
    recipe, peftcore, tmp_path, monkeypatch
):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    step = Loop._step

    def stopped(loop):
        step(loop)
        if loop.position.step == 5:
            signal.raise_signal(signal.SIGTERM)

    path = recipe(train={"epochs": 1, "log_steps": 1, "trackers": ["tensorboard"]})
    monkeypatch.setattr(Loop, "_step", stopped)
    assert peftcore("train", path, "-q").exit_code == 130
    monkeypatch.undo()
    (folder,) = (tmp_path / "runs").iterdir()
    assert peftcore("train", "--resume", folder, "-q").exit_code == 0

    found = events.EventAccumulator(str(folder / "toy"))
    found.Reload()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if "loss" in line}
    told = {event.step: event.value for event in found.Scalars("train/loss")}
    assert told == pytest.approx(losses) and len(told) == len(found.Scalars("train/loss")) == 8
    results = json.loads((folder / "results.json").read_text())
    for split in ("validation", "test"):
        (event,) = found.Scalars(f"{split}/accuracy")
        assert event.value == pytest.approx(results[split]["accuracy"])
    (settings,) = sorted(folder.glob("toy/*/hparams.yml"))[:1]
    assert "train.learning_rate: 0.01" in settings.read_text()


def test_a_tracker_that_is_not_there_is_named_with_its_extra(recipe, peftcore, monkeypatch):
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    done = peftcore("train", recipe(train={"trackers": ["trackio"]}), "-q")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith(
        "train.trackers: trackio is not installed: pip install 'peftcore-train[trackio]'"
    )
