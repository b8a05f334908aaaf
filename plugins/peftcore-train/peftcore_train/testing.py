"""What every task must do. Subclass the contract in a test file; it needs pytest."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml

from peftcore import ConfigError, Strict, installed, resolve, validated
from peftcore.testing import perturb, register_kit, run_in_process
from peftcore_train import building, processes, rundir, running
from peftcore_train.errors import Interrupted
from peftcore_train.evaluation import evaluate
from peftcore_train.progress import Progress
from peftcore_train.schema import SPLITS, Split, load_jobs
from peftcore_train.signals import Stop
from peftcore_train.task import Batch, Features, Task

Columns = dict[str, Any]
#: What no column of a row can hold.
_DAMAGE: tuple[Any, ...] = (None, "", [])


class TaskContract:
    """Subclass it, say what the task is, and pytest runs the contract::

        class TestMyTask(TaskContract):
            task = "my-task"
            rows = {"train": [{"text": "fine", "label": 1}, ...], "validation": ..., "test": ...}
            answers = ("label",)

            @pytest.fixture(scope="class")
            def source(self, tmp_path_factory): ...

    Attributes:
        task: name of the task.
        config: what else the recipe's ``task`` section says.
        rows: columns of the rows of each split; 6 to 20 for training, of unequal lengths.
        answers: columns that a row to predict does not have.
        predicts: whether the task can predict.
        methods: what is trained; the kit's probe, a change of every linear, by default.
        epochs, learning_rate: with which the training rows, 20 times each, are learned by heart.
        remembered: part of the loss of the first epoch that may be left after the last one.
    """

    task: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = {}
    rows: ClassVar[Mapping[Split, Sequence[Columns]]]
    answers: ClassVar[tuple[str, ...]] = ()
    predicts: ClassVar[bool] = True
    methods: ClassVar[Sequence[Any]] = ("probe",)
    epochs: ClassVar[int] = 6
    learning_rate: ClassVar[float] = 3e-3
    remembered: ClassVar[float] = 0.5

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _with_the_kit(cls) -> None:
        register_kit()

    @pytest.fixture(scope="class")
    def source(self, tmp_path_factory: Any) -> Path:
        """Return a folder with a small backbone, as ``backbone.source`` names it."""
        raise NotImplementedError("give a fixture `source` of the scope class")

    def write(self, folder: Path, split: Split, rows: Sequence[Columns]) -> None:
        """Write the rows of a split as the task reads them; JSON lines by default."""
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), "utf-8")

    def terms(self, batch: Batch, rows: int) -> float:
        """Return of how many terms the loss of a batch is the mean; one a row by default."""
        return rows

    # --- the pieces of the tests ---------------------------------------------------------

    def recipe(self, folder: Path, source: Path, *, times: int = 1, **train: Any) -> Path:
        """Write the data, its training rows several times, and a recipe; return the recipe."""
        data = folder / "data"
        data.mkdir(parents=True)
        for split, rows in self.rows.items():
            self.write(data, split, [*rows] * (times if split == "train" else 1))
        content = {
            "name": "contract",
            "seed": 1,
            "backbone": {"source": str(source)},
            "methods": list(self.methods),
            "task": {"type": self.task, **self.config},
            "data": {"source": str(data)},
            "train": {"batch_size": 4, "learning_rate": 1e-2, "device": "cpu", **train},
            "output": str(folder / "runs"),
        }
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        return path

    @pytest.fixture(scope="class")
    def trained(self, tmp_path_factory: Any, source: Path) -> Path:
        """Return the directory of a run of two steps; its recipe lies two folders above."""
        folder = tmp_path_factory.mktemp("trained")
        recipe = self.recipe(folder, source, max_steps=2)
        done = run_in_process("train", recipe, "-q")
        assert done.exit_code == 0, f"{done.output}{done.exception!r}"
        (run,) = (folder / "runs").iterdir()
        return run

    @pytest.fixture(scope="class")
    def tuned(self, tmp_path_factory: Any, source: Path) -> running.Prepared:
        """Return the task with encoded rows, and the model with an adapter that does something."""
        recipe = self.recipe(tmp_path_factory.mktemp("tuned"), source)
        (job,) = load_jobs(recipe)
        prepared = running.prepare(job)
        adapter = building.attach(
            job, prepared.task, prepared.model, prepared.loaded, prepared.features["train"]
        )
        perturb(adapter)
        prepared.model.eval()
        return prepared

    @property
    def configuration(self) -> type[Strict]:
        """Return the class of the ``task`` section."""
        found: type[Strict] = resolve(installed().find("tasks", self.task).config)
        return found

    # --- specification and configuration -------------------------------------------------

    def test_the_specification_names_a_task(self) -> None:
        spec = installed().find("tasks", self.task)
        assert spec.summary
        made = resolve(spec.task)(self.configuration.model_validate(self.config))
        assert isinstance(made, Task)
        assert made.default_metric in made.metric_names

    def test_every_field_of_the_configuration_is_described(self) -> None:
        assert issubclass(self.configuration, Strict)
        fields = self.configuration.model_fields
        assert not [name for name, info in fields.items() if not info.description]

    def test_the_configuration_survives_yaml_and_json(self) -> None:
        config = self.configuration.model_validate(self.config)
        dumped = config.model_dump(mode="json")
        assert self.configuration.model_validate(yaml.safe_load(yaml.safe_dump(dumped))) == config
        assert self.configuration.model_validate(json.loads(json.dumps(dumped))) == config

    def test_an_unknown_field_is_refused_with_the_nearest_one(self) -> None:
        for name in self.configuration.model_fields:
            typo = f"{name}x"
            with pytest.raises(ConfigError, match=f"{typo} is not .* Did you mean {name}"):
                validated(self.configuration, {typo: 1}, where="task", label=self.task)

    # --- a run ---------------------------------------------------------------------------

    def test_a_trained_adapter_read_back_scores_the_same(self, trained: Path) -> None:
        results = rundir.read_json(trained / rundir.RESULTS)
        assert results["steps"] == 2
        assert results["validation"] == results["validation_reloaded"]
        assert results["rows"] == {split: len(rows) for split, rows in self.rows.items()}
        assert results["parameters"]["trainable"] + results["parameters"]["head"] > 0

    def test_the_plan_is_what_is_trained(self, trained: Path) -> None:
        recipe = trained.parent.parent / "recipe.yaml"
        plan = json.loads(_printed("plan", recipe, "--json"))
        rehearsal = json.loads(_printed("train", recipe, "--dry-run", "--json"))
        found = rundir.read_json(trained / rundir.RESULTS)
        assert {name: plan[name] for name in ("trainable", "head", "base")} == {
            name: found["parameters"][name] for name in ("trainable", "head", "base")
        }
        assert {name: rehearsal[name] for name in plan} == plan
        assert rehearsal["rows"] == found["rows"]

    def test_evaluating_repeats_the_scores_of_training(self, trained: Path) -> None:
        results = rundir.read_json(trained / rundir.RESULTS)
        for split in ("validation", "test"):
            found = json.loads(_printed("evaluate", trained, "--split", split, "--json"))
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
            alone = json.loads(_printed("predict", trained, "--input", "-", input=line))
            assert _close(alone, found), f"{row} depends on what else is in the batch"

    def unanswered(self, row: Columns) -> Columns:
        """Return a row without its answers."""
        return {name: value for name, value in row.items() if name not in self.answers}

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
            self.run(job, stopped, stop, _StopAfter(stop, results["steps"] // 2 + 1))
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

    # --- loss and metrics ----------------------------------------------------------------

    def test_what_is_scored_is_what_is_declared(self, trained: Path) -> None:
        (job,) = load_jobs(trained.parent.parent / "recipe.yaml")
        task, _ = running.read_data(job)
        scored = rundir.read_json(trained / rundir.RESULTS)["validation"]
        assert set(scored) == set(task.metric_names)
        for name, metric in task.metrics().items():
            ours = [n for n in task.metric_names if n == name or n.startswith(f"{name}.")]
            assert ours, name
            if metric.higher_is_better is not None:
                assert {task.metric_names[n] for n in ours} == {metric.higher_is_better}, name

    def test_the_best_epoch_is_chosen_by_a_metric_of_the_task(self, trained: Path) -> None:
        recipe = trained.parent.parent / "recipe.yaml"
        (job,) = load_jobs(recipe)
        task, _ = running.read_data(job)
        for name, greater in task.metric_names.items():
            assert task.chosen_metric(name) == (name, greater)
        typo = f"{task.default_metric}y"
        done = run_in_process("check", recipe, "--set", f"train.metric_for_best={typo}")
        assert done.exit_code == 2
        assert f"Did you mean {task.default_metric}?" in done.stderr

    def test_the_loss_of_a_batch_is_the_mean_of_its_terms(self, tuned: running.Prepared) -> None:
        task, model = tuned.task, tuned.model
        rows = _augmented(task, tuned.features["train"])
        whole = task.collate(rows)
        with torch.no_grad():
            together = float(task.loss(model, whole))
            total = count = 0.0
            for row in rows:
                batch = task.collate([row])
                terms = self.terms(batch, 1)
                total += float(task.loss(model, batch)) * terms
                count += terms
        assert count == self.terms(whole, len(rows))
        assert math.isclose(together, total / count, rel_tol=1e-4), "rows change each other"

    def test_scores_do_not_depend_on_the_size_of_batches(self, tuned: running.Prepared) -> None:
        section = tuned.job.recipe.train
        accelerator = running.make_accelerator(section)
        rows = _augmented(tuned.task, tuned.features["train"])
        found = []
        for size in (1, 3, len(rows)):
            parts = (rows[i : i + size] for i in range(0, len(rows), size))
            batches = [tuned.task.collate(part) for part in parts]
            found.append(evaluate(tuned.task, tuned.model, batches, accelerator))
        assert _close(found[0], found[1]) and _close(found[1], found[2])

    def test_chance_is_in_the_generator_and_rows_stay_as_they_are(
        self, tuned: running.Prepared
    ) -> None:
        row = tuned.features["train"][0]
        before = repr(row)
        first, second = (_augmented(tuned.task, [row]) for _ in range(2))
        assert repr(first) == repr(second)
        assert repr(row) == before

    # --- damaged rows --------------------------------------------------------------------

    @pytest.fixture
    def writable(self, tmp_path: Path, source: Path) -> Path:
        """Return a recipe whose data may be damaged."""
        return self.recipe(tmp_path, source)

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_row_without_a_column_is_named(self, split: Split, writable: Path) -> None:
        for column in self.rows[split][0]:
            rows = [dict(row) for row in self.rows[split]]
            del rows[1][column]
            self.write(writable.parent / "data", split, rows)
            assert f"{split}.jsonl:2: no column {column!r}." in _refused("check", writable)

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_value_that_no_column_can_hold_is_named(self, split: Split, writable: Path) -> None:
        for column in self.rows[split][0]:
            for value in _DAMAGE:
                rows = [dict(row) for row in self.rows[split]]
                rows[1][column] = value
                self.write(writable.parent / "data", split, rows)
                sentence = _refused("train", writable, "--dry-run")
                assert sentence.startswith(f"{split}.jsonl:2: "), f"{column}={value!r}: {sentence}"

    @pytest.mark.parametrize("split", SPLITS)
    def test_a_file_without_rows_or_none_at_all_is_named(
        self, split: Split, writable: Path
    ) -> None:
        self.write(writable.parent / "data", split, [])
        assert f"{split}.jsonl is empty." in _refused("check", writable)
        (writable.parent / "data" / f"{split}.jsonl").unlink()
        assert f"has no {split}.jsonl" in _refused("check", writable)

    def test_a_row_to_predict_is_checked_too(self, trained: Path) -> None:
        if not self.predicts:
            pytest.skip("the task predicts nothing")
        row = self.unanswered(self.rows["test"][0])
        for column in row:
            for damaged in (
                {name: value for name, value in row.items() if name != column},
                {**row, column: None},
            ):
                line = json.dumps(row) + "\n" + json.dumps(damaged) + "\n"
                sentence = _refused("predict", trained, "--input", "-", input=line)
                assert sentence.startswith("stdin:2: ") and column in sentence


class _StopAfter(Progress):
    """Asks to stop once a run has come to a step, as a user would."""

    def __init__(self, stop: Stop, step: int):
        super().__init__(quiet=True)
        self.stop, self.left = stop, step

    def step(self, loss: float) -> None:
        super().step(loss)
        self.left -= 1
        self.stop.asked = self.left == 0


def _printed(*arguments: str | Path, **options: Any) -> str:
    """Run the program, which must do well, and return what it printed."""
    done = run_in_process(*arguments, **options)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def _refused(*arguments: str | Path, **options: Any) -> str:
    """Run the program, which must refuse its input, and return its one sentence."""
    done = run_in_process(*arguments, **options)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    (line,) = done.stderr.strip().splitlines()
    return line.removeprefix("error: ")


def _augmented(task: Task, rows: Sequence[Features]) -> list[Features]:
    """Return rows as a batch of training has them, each by a generator of its own."""
    return [task.augment(row, torch.Generator().manual_seed(i)) for i, row in enumerate(rows)]


def _close(left: Any, right: Any) -> bool:
    """Tell whether two answers are the same, numbers to five digits."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_close(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_close, left, right))
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-6)
    return bool(left == right)
