"""Whole runs on a small BERT: what they write, and that they repeat themselves to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from peftcore import Adapter, DeadPieceError, installed
from peftcore.testing import run_in_process
from peftcore_train import recipes
from peftcore_train.loop import Loop
from peftcore_train.tasks.classification import SequenceClassification


def run_of(done) -> Path:
    assert done.exit_code == 0, done.output + str(done.exception)
    return Path(done.stderr.strip().splitlines()[-1].removeprefix("run directory: "))


def results(folder: Path) -> dict:
    found = json.loads((folder / "results.json").read_text())
    for part in (found, *found.get("arms", {}).values()):
        part.pop("time", None)  # an arm that failed has none
    return found


def tensors(folder: Path) -> dict:
    """Return the values of an adapter; the file's header tells of the recipe, and of its paths."""
    found = load_file(folder / "adapter" / "adapter.safetensors")
    return {name: tensor.tolist() for name, tensor in found.items()}


@pytest.fixture
def stop(child):
    """Return a function that trains in a process which signals itself at a step, as a user would.

    It returns the exit code, negative for a signal, and the run directory.
    """

    def train(recipe: Path, step: int, number: int, place: str) -> tuple[int, Path]:
        def work() -> int:
            # whoever started the tests may have said to ignore interrupts, which a child inherits
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            inner = getattr(Loop, place)

            def outer(loop, *arguments):
                if place == "_keep" and loop.position.step >= step:
                    os.kill(os.getpid(), number)
                found = inner(loop, *arguments)
                if place == "_step" and loop.position.step == step:
                    os.kill(os.getpid(), number)
                return found

            setattr(Loop, place, outer)
            return int(run_in_process("train", recipe).exit_code)

        code = child(work)
        (folder,) = (recipe.parent / "runs").iterdir()
        return code, folder

    return train


SAVED_OFTEN = {"epochs": 2, "save_steps": 3, "log_steps": 1}
LEARNS = {
    "methods": [{"method": "lora", "rank": 8, "targets": ["embeddings", "all-linear"]}],
    "train": {"epochs": 12, "learning_rate": 0.003},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory, train_in):
    """Return the folder of a run of the plain recipe; it is only read."""
    return run_of(train_in(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, train_in):
    """Return the folder of an undisturbed run of the recipe that the tests below stop."""
    return run_of(train_in(tmp_path_factory.mktemp("whole"), train=SAVED_OFTEN))


@pytest.fixture(scope="module")
def learned(tmp_path_factory, train_in):
    """Return the folder of a run that learns the task."""
    return run_of(train_in(tmp_path_factory.mktemp("learned"), **LEARNS))


def test_a_run_directory_holds_all_that_is_promised(plain):
    folder = plain
    names = {p.name for p in folder.iterdir() if not p.name.startswith("state-")}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "adapter", "results.json", "log.txt",
        "data-profile.json",
        "test.safetensors",
    }  # fmt: skip
    found = results(folder)
    assert found["reloaded_equal"] is True
    assert found["stopped_by"] == "epochs"
    assert found["steps"] == 16
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 3
    assert "peftcore-lora" in environment["plugins"]
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["epoch"] for x in lines if "validation_accuracy" in x] == [1, 2]
    assert not [p for p in folder.rglob("*") if p.suffix in (".pt", ".pkl", ".bin")]


def test_training_learns_the_toy_task(learned):
    assert results(learned)["test"]["accuracy"] > 0.8


def test_two_runs_and_a_run_of_the_resolved_recipe_are_equal(plain, recipe, peftcore):
    first = plain
    second = run_of(peftcore("train", recipe()))
    third = run_of(peftcore("train", second / "config.yaml"))
    assert first != second
    assert results(first) == results(second) == results(third)
    assert tensors(first) == tensors(second)


def test_another_seed_gives_another_run(plain, recipe, peftcore):
    second = run_of(peftcore("train", recipe(), "--set", "seed=4"))
    assert results(plain)["validation"] != results(second)["validation"]


@pytest.mark.parametrize(
    ("step", "place"),
    [(2, "_step"), (8, "_keep"), (16, "_keep")],
)
def test_a_killed_run_goes_on_as_if_undisturbed(step, place, whole, stop, recipe, peftcore):
    path = recipe(train=SAVED_OFTEN)
    code, folder = stop(path, step, signal.SIGKILL, place)
    assert code == -signal.SIGKILL
    done = peftcore("train", "--resume", folder)
    assert run_of(done) == folder
    assert_same(whole, folder)


@pytest.mark.parametrize(
    ("number", "step", "place"), [(signal.SIGTERM, 5, "_step"), (signal.SIGINT, 11, "_keep")]
)
def test_a_signal_saves_first_and_exits_130(number, step, place, whole, stop, recipe, peftcore):
    path = recipe(train=SAVED_OFTEN)
    code, folder = stop(path, step, number, place)
    assert code == 130
    assert list(folder.glob("state-*"))
    run_of(peftcore("train", "--resume", folder))
    assert_same(whole, folder)


def test_an_interrupt_that_was_ignored_at_the_start_stays_ignored(recipe, peftcore, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    inner = Loop._step

    def interrupted(loop):
        signal.raise_signal(signal.SIGINT)
        inner(loop)

    monkeypatch.setattr(Loop, "_step", interrupted)
    try:
        folder = run_of(peftcore("train", recipe(train={"max_steps": 2})))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert results(folder)["stopped_by"] == "max_steps"


def test_gradient_accumulation_resumes_between_steps(stop, recipe, peftcore, tmp_path):
    train = {"epochs": 2, "batch_size": 4, "gradient_accumulation_steps": 3, "log_steps": 1}
    train |= {"lr_scheduler": "plateau", "plateau_patience": 0}
    folder = run_of(peftcore("train", recipe(train=train)))
    kept = tmp_path / "undisturbed"
    shutil.move(folder, kept)
    code, folder = stop(recipe(train=train), 8, signal.SIGTERM, "_step")
    assert code == 130
    run_of(peftcore("train", "--resume", folder))
    assert_same(kept, folder)
    # 16 batches of an epoch: five steps of three, and one of the rest
    assert results(kept)["steps"] == 12


def assert_same(whole: Path, folder: Path) -> None:
    assert results(whole) == results(folder)
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()
    assert tensors(whole) == tensors(folder)


def test_a_finished_run_is_not_trained_again(plain, peftcore):
    folder = plain
    before = (folder / "metrics.jsonl").stat().st_mtime_ns
    done = peftcore("train", "--resume", folder, "--json", "-q")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["test"] == results(folder)["test"]
    assert (folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_max_steps_ends_within_an_epoch_with_a_score(recipe, peftcore):
    folder = run_of(peftcore("train", recipe(train={"max_steps": 3})))
    found = results(folder)
    assert (found["steps"], found["stopped_by"], found["best"]["step"]) == (3, "max_steps", 3)


def test_early_stopping_keeps_the_best_epoch(recipe, peftcore):
    # with a vanishing rate no epoch is better than the first
    train = {"epochs": 9, "early_stopping_patience": 2, "learning_rate": 1e-12}
    found = results(run_of(peftcore("train", recipe(train=train))))
    assert found["stopped_by"] == "early_stopping"
    assert found["best"]["epoch"] < 9


def test_a_loss_that_is_not_finite_stops_the_run_in_one_sentence(recipe, peftcore):
    task = {"type": "sequence-classification", "class_weights": {"good": 3e38, "bad": 3e38}}
    done = peftcore("train", recipe(task=task), "-q")
    assert done.exit_code == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: the loss is nan at step 1 of epoch 1: lower")


def test_arms_are_trained_one_after_another_and_end_in_one_table(recipe, peftcore, tmp_path):
    path = recipe()
    content = yaml.safe_load(path.read_text())
    del content["methods"]
    content["compare"] = {
        # its schedule has no room in 8 steps, which it says when training begins
        "dead": {"methods": [{"method": "adalora", "tinit": 6, "tfinal": 6}]},
        "lora": {"methods": ["lora"]},
        "frozen": {"methods": [], "set": {"train.epochs": 2}},
    }
    content["train"]["epochs"] = 1
    path.write_text(yaml.safe_dump(content))
    done = peftcore("train", path)
    assert done.exit_code == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert error.startswith("error: 1 of 3 arms failed: dead. peftcore train --resume ")
    folder = Path(error.split("--resume ")[1].split(" tries")[0])
    rows = [line.split() for line in done.stdout.splitlines() if "│" in line]
    assert [row[1] for row in rows] == ["dead", "frozen", "lora"] and rows[0].count("failed") == 5
    found = results(folder)["arms"]
    assert found.pop("dead")["failed"].startswith("adalora.tinit and tfinal: 6 + 6 steps leave")
    assert found["frozen"]["parameters"]["trainable"] == 0
    assert found["frozen"]["parameters"]["head"] > 0
    assert (found["lora"]["steps"], found["frozen"]["steps"]) == (8, 16)

    scores = peftcore("evaluate", folder, "--json")
    assert scores.exit_code == 0, scores.output
    shown = json.loads(scores.stdout)["arms"]
    assert {name: found[name]["test"] for name in found} == shown

    # an arm that was lost is trained again, the other one is read
    shutil.rmtree(folder / "frozen")
    (folder / "results.json").unlink()
    assert peftcore("train", "--resume", folder).exit_code == 1
    assert results(folder)["arms"]["frozen"]["test"] == found["frozen"]["test"]


def test_evaluate_repeats_the_results_to_the_last_digit(plain, peftcore, tmp_path):
    folder = plain
    elsewhere = tmp_path / "shared"
    shutil.copytree(folder / "adapter", elsewhere)
    for place in (folder, elsewhere):
        done = peftcore("evaluate", place, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout) == {"split": "test", **results(folder)["test"]}


def test_predict_gives_labels_with_probabilities(learned, peftcore, tmp_path):
    folder = learned
    text = '{"text": "the film was lovely"}\n{"text": "a dull story"}\n'
    done = peftcore("predict", folder, "--input", "-", "--probabilities", input=text)
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["label"] for line in lines] == ["good", "bad"]
    assert sum(lines[0]["probabilities"].values()) == pytest.approx(1)
    output = tmp_path / "out.jsonl"
    (tmp_path / "in.jsonl").write_text(text)
    done = peftcore(
        "predict", folder, "--input", tmp_path / "in.jsonl", "--output", output, "--probabilities"
    )
    assert [json.loads(line) for line in output.read_text().splitlines()] == lines


def test_the_resolved_recipe_names_every_default(plain):
    data = recipes.read(plain / "config.yaml").data
    assert data["task"]["labels"] == ["bad", "good"]
    assert data["train"]["warmup_ratio"] == 0.0
    assert data["train"]["learning_rate"] == 0.01


def test_check_trains_nothing(recipe, peftcore, tmp_path):
    done = peftcore("check", recipe(), "--json")
    assert json.loads(done.stdout)["rows"] == {"train": 64, "validation": 24, "test": 24}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "train",
    [
        {"mixed_precision": "bf16"},
        {"head_learning_rate": 0.1, "weight_decay": 0.1, "max_grad_norm": None},
    ],
)
def test_other_ways_to_train_end_well_too(train, recipe, peftcore):
    found = results(run_of(peftcore("train", recipe(train={"epochs": 1, **train}))))
    assert found["reloaded_equal"] is True


@pytest.mark.parametrize("train", [{"gradient_checkpointing": True}, {"num_workers": 1}])
def test_checkpointed_activations_and_workers_change_nothing(train, plain, recipe, peftcore):
    assert results(run_of(peftcore("train", recipe(train=train)))) == results(plain)


# what methods keep and do besides their pieces: budgets, masks from examples, rates of their own
METHODS = [
    {"method": "bitfit"},
    {"method": "lora", "init": "olora", "loraplus_lr_ratio": 4},
    {"method": "adalora", "init_r": 4, "target_r": 2, "tinit": 2, "tfinal": 4},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda choice: choice["method"])
def test_every_method_resumes_to_the_bit(method, stop, recipe, peftcore, tmp_path):
    if method["method"] not in installed().methods:
        pytest.skip(f"{method['method']} is not installed")
    train = {"epochs": 2, "log_steps": 1}
    folder = run_of(peftcore("train", recipe(methods=[method], train=train)))
    kept = tmp_path / "undisturbed"
    shutil.move(folder, kept)
    code, folder = stop(recipe(methods=[method], train=train), 9, signal.SIGTERM, "_step")
    assert code == 130
    run_of(peftcore("train", "--resume", folder))
    assert_same(kept, folder)


def test_the_first_backward_is_checked_for_dead_pieces(recipe, peftcore, monkeypatch):
    def found_dead(adapter, loss):
        assert loss.requires_grad and all(p.grad is None for p in adapter.parameters())
        raise DeadPieceError("x got no gradient.")

    monkeypatch.setattr(Adapter, "check_alive", found_dead)
    done = peftcore("train", recipe(), "-q")
    assert (done.exit_code, done.stderr) == (1, "error: x got no gradient.\n")


def test_two_processes_share_the_rows_and_write_one_run(recipe, data, tmp_path):
    # an odd number of rows: one of the processes has a row less to score
    rows = (data / "validation.jsonl").read_text().splitlines()[:23]
    (data / "validation.jsonl").write_text("\n".join(rows))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node=2", "-m", "peftcore", "train", str(recipe()), "--json", "-q"],
        capture_output=True,
        text=True,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    (folder,) = (tmp_path / "runs").iterdir()
    assert found["steps"] == 8  # half of those of one process
    assert found["reloaded_equal"] is True
    right = found["validation"]["accuracy"] * 23
    assert right == pytest.approx(round(right), abs=1e-4)
    lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [x["epoch"] for x in lines if "validation_accuracy" in x] == [1, 2]


class Reads(TorchDispatchMode):
    """Counts how often a number is read from a tensor, for which an accelerator must wait."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            # transformers asks of each batch whether it has padding
            files = {frame.filename for frame in traceback.extract_stack()}
            self.count += not any(file.endswith("masking_utils.py") for file in files)
        return func(*args, **(kwargs or {}))


def test_no_number_is_read_from_the_device_for_a_batch(recipe, peftcore, monkeypatch):
    counts, inner = [], Loop._batch

    def counted(loop, batch):
        with Reads() as reads:
            inner(loop, batch)
        counts[-1] += reads.count

    monkeypatch.setattr(Loop, "_batch", counted)
    for size, parts in ((8, 1), (1, 8)):
        train = {"max_steps": 7, "batch_size": size, "gradient_accumulation_steps": parts}
        counts.append(0)
        run_of(peftcore("train", recipe(train=train)))
    assert counts[0] == counts[1] > 0  # AdamW reads its step


def test_a_loss_that_is_not_finite_is_found_before_anything_is_saved(
    recipe, peftcore, monkeypatch, tmp_path
):
    calls, inner = [], SequenceClassification.loss

    def loss(task, model, batch):
        calls.append(1)
        return inner(task, model, batch) * (float("inf") if len(calls) == 5 else 1)

    monkeypatch.setattr(SequenceClassification, "loss", loss)
    done = peftcore("train", recipe(train={"save_steps": 2, "log_steps": 100}), "-q")
    assert done.exit_code == 1
    assert done.stderr.startswith("error: the loss is inf at step 5 of epoch 1: lower train.")
    (folder,) = (tmp_path / "runs").iterdir()
    (state,) = folder.glob("state-*")
    assert state.name.startswith("state-000000004-")
    modes = {file.stat().st_mode for file in state.iterdir()}
    assert modes == {(folder / "log.txt").stat().st_mode}
