"""A run: training, stopping, evaluating and predicting."""

import json
from pathlib import Path
from typing import Any

import pytest

from peftcore.testing import run_in_process
from peftcore_train import processes, rundir, running
from peftcore_train.errors import Interrupted
from peftcore_train.progress import Progress
from peftcore_train.schema import load_jobs
from peftcore_train.signals import Stop
from peftcore_train.testing.on_rows import OnRows
from peftcore_train.testing.program import close, printed


class Trained(OnRows):
    """What a run writes, and what is made of it later."""

    def test_a_trained_adapter_read_back_scores_the_same(self, trained: Path) -> None:
        results = rundir.read_json(trained / rundir.RESULTS)
        assert results["steps"] == 2
        assert results["validation"] == results["validation_reloaded"]
        assert results["rows"] == {split: len(rows) for split, rows in self.rows.items()}
        assert results["parameters"]["trainable"] + results["parameters"]["head"] > 0

    def test_the_plan_is_what_is_trained(self, trained: Path) -> None:
        recipe = trained.parent.parent / "recipe.yaml"
        plan = json.loads(printed("plan", recipe, "--json"))
        rehearsal = json.loads(printed("train", recipe, "--dry-run", "--json"))
        found = rundir.read_json(trained / rundir.RESULTS)
        assert {name: plan[name] for name in ("trainable", "head", "base")} == {
            name: found["parameters"][name] for name in ("trainable", "head", "base")
        }
        assert {name: rehearsal[name] for name in plan} == plan
        assert rehearsal["rows"] == found["rows"]

    def test_evaluating_repeats_the_scores_of_training(self, trained: Path) -> None:
        results = rundir.read_json(trained / rundir.RESULTS)
        for split in ("validation", "test"):
            found = json.loads(printed("evaluate", trained, "--split", split, "--json"))
            assert found == {"split": split, **results[split]}

    def test_rows_without_answers_are_predicted(self, trained: Path, tmp_path: Path) -> None:
        rows = [self.unanswered(row) for row in self.rows["test"]]
        (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = run_in_process("predict", trained, "--input", tmp_path / "in.jsonl")
        if not self.predicts:
            assert done.exit_code == 2 and "no predictions" in done.stderr
            return
        assert done.exit_code == 0, done.output
        together = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(together) == len(rows) and all(isinstance(one, dict) for one in together)
        for row, found in zip(rows, together, strict=True):
            line = json.dumps(row) + "\n"
            alone = json.loads(printed("predict", trained, "--input", "-", input=line))
            assert close(alone, found), f"{row} depends on what else is in the batch"

    def test_a_stopped_run_goes_on_with_the_same_numbers(
        self, tmp_path: Path, source: Path
    ) -> None:
        recipe = self.recipe(tmp_path, source, epochs=2, log_steps=1)
        (job,) = load_jobs(recipe)
        undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
        for folder in (undisturbed, stopped):
            folder.mkdir()
        results = self.run(job, undisturbed, Stop(), Progress(quiet=True))
        stop = Stop()
        with pytest.raises(Interrupted):
            self.run(job, stopped, stop, StopAfter(stop, results["steps"] // 2 + 1))
        again = self.run(job, stopped, Stop(), Progress(quiet=True))
        del results["time"], again["time"]
        assert rundir.finite(again) == rundir.finite(results)
        for name in (rundir.METRICS, f"{rundir.ADAPTER}/adapter.safetensors"):
            assert (stopped / name).read_bytes() == (undisturbed / name).read_bytes(), name

    @staticmethod
    def run(job: Any, folder: Path, stop: Stop, progress: Progress) -> dict[str, Any]:
        """Train in a folder, from its state where it has one."""
        processes.join(job.recipe.train)
        return running.run(job, folder, stop, progress)

    def test_the_training_rows_are_learned_by_heart(self, tmp_path: Path, source: Path) -> None:
        train = {"learning_rate": self.learning_rate, "epochs": self.epochs, "batch_size": 8}
        recipe = self.recipe(tmp_path, source, times=20, **train, lr_scheduler="constant")
        assert run_in_process("train", recipe, "-q").exit_code == 0
        (run,) = (tmp_path / "runs").iterdir()
        lines = [json.loads(line) for line in (run / rundir.METRICS).read_text().splitlines()]
        losses = [line["train_loss"] for line in lines if "train_loss" in line]
        assert losses[-1] < self.remembered * losses[0], losses


class StopAfter(Progress):
    """Asks to stop once a run has come to a step, as a user would."""

    def __init__(self, stop: Stop, step: int):
        super().__init__(quiet=True)
        self.stop, self.left = stop, step

    def step(self, loss: float) -> None:
        super().step(loss)
        self.left -= 1
        self.stop.asked = self.left == 0
