"""Loss, scores and metrics of batches."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from peftcore.testing import run_in_process
from peftcore_train import rundir, running
from peftcore_train.data import Row
from peftcore_train.evaluation import evaluate
from peftcore_train.reading import read_data
from peftcore_train.schema import load_jobs
from peftcore_train.task import Features, Task
from peftcore_train.testing.on_rows import OnRows
from peftcore_train.testing.program import close


class Scored(OnRows):
    """What a batch is worth, whatever else is in it."""

    def test_what_is_scored_is_what_is_declared(self, trained: Path) -> None:
        (job,) = load_jobs(trained.parent.parent / "recipe.yaml")
        task, _ = read_data(job)
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
        task, _ = read_data(job)
        for name, greater in task.metric_names.items():
            assert task.chosen_metric(name) == (name, greater)
        typo = f"{task.default_metric}y"
        done = run_in_process("check", recipe, "--set", f"train.metric_for_best={typo}")
        assert done.exit_code == 2
        assert f"Did you mean {task.default_metric}?" in done.stderr

    def test_the_loss_of_a_batch_is_the_mean_of_its_terms(self, tuned: running.Prepared) -> None:
        if self.compares:
            pytest.skip("the loss compares rows")
        task, model = tuned.task, tuned.model
        rows = augmented(task, tuned.features["train"])
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
        rows = augmented(tuned.task, tuned.features["train"])
        found = []
        for size in (1, 3, len(rows)):
            parts = (rows[i : i + size] for i in range(0, len(rows), size))
            batches = [tuned.task.collate(part) for part in parts]
            found.append(evaluate(tuned.task, tuned.model, batches, accelerator))
        assert close(found[0], found[1]) and close(found[1], found[2]), (
            f"other sizes of batches give other scores: {found}"
        )

    def test_the_scores_of_a_row_are_its_own(self, tuned: running.Prepared) -> None:
        task, model = tuned.task, tuned.model
        rows = augmented(task, tuned.features["train"])
        with torch.no_grad():
            together = task.score(model, task.collate(rows))
            for i, row in enumerate(rows):
                alone = task.score(model, task.collate([row]))
                assert alone.keys() == together.keys(), "one row is scored by other names"
                for name, found in together.items():
                    assert len(found) == len(rows), f"the first axis of {name!r} is not the row"
                    own = alone[name][0]
                    # what is kept for each token is as long as the longest row of the batch
                    if own.shape == found[i].shape:
                        what = f"{name!r} of row {i} depends on what else is in the batch"
                        assert torch.allclose(own, found[i], rtol=1e-4, atol=1e-5), what

    def test_the_metric_loss_is_that_of_training(self, tuned: running.Prepared) -> None:
        task, model = tuned.task, tuned.model
        if self.weighted or "loss" not in task.metric_names:
            pytest.skip("the loss of training is no metric")
        batch = task.collate(augmented(task, tuned.features["train"]))
        found = evaluate(task, model, [batch], running.make_accelerator(tuned.job.recipe.train))
        with torch.no_grad():
            trained = float(task.loss(model, batch))
        assert math.isclose(found["loss"], trained, rel_tol=1e-4), (
            f"the metric loss is {found['loss']:.5f} where training has {trained:.5f}: say weighted"
            " = True if rows weigh differently there"
        )

    def test_predictions_do_not_depend_on_the_batch(self, tuned: running.Prepared) -> None:
        if not self.predicts:
            pytest.skip("the task predicts nothing")
        task, model, loaded = tuned.task, tuned.model, tuned.loaded
        _, rows = read_data(tuned.job)
        given = [Row(self.unanswered(dict(r.values)), r.where) for r in rows["train"]]
        features = [task.encode(row, loaded, labelled=False) for row in given]
        with torch.no_grad():
            together = task.predict(model, task.collate(features), loaded)
            for row, one, found in zip(given, features, together, strict=True):
                (alone,) = task.predict(model, task.collate([one]), loaded)
                assert close(alone, found), f"{row.where}: {alone} alone, {found} among others"

    def test_chance_is_in_the_generator_and_rows_stay_as_they_are(
        self, tuned: running.Prepared
    ) -> None:
        rows = tuned.features["train"]
        before = repr(rows)
        for seed in range(8):  # a row may by chance be left alone
            for change in (tuned.task.augment, tuned.task.distort):
                first, second = (changed(change, rows, seed) for _ in range(2))
                name = change.__name__
                assert repr(first) == repr(second), f"{name} draws from elsewhere too"
                assert repr(rows) == before, f"{name} changes the row that it is given"


def augmented(task: Task, rows: Sequence[Features]) -> list[Features]:
    """Return rows as a batch that is scored has them."""
    return changed(task.augment, rows, 0)


def changed(
    change: Callable[[Features, torch.Generator], Features], rows: Sequence[Features], seed: int
) -> list[Features]:
    """Return rows changed at random, each by a generator of its own."""
    generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(rows))]
    return [change(row, chance) for row, chance in zip(rows, generators, strict=True)]
