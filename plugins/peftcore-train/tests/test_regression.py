"""Regression: what is learned of the targets, the losses, and the metrics in their units."""

import json

import pytest
import torch

from peftcore import DataError, backbone_named
from peftcore_train.data import Row
from peftcore_train.metrics import computed, regression_metrics
from peftcore_train.tasks.regression import Regression, RegressionConfig


def rows(*values):
    return [
        Row({"text": "the film", "target": value}, f"x.csv:{i}")
        for i, value in enumerate(values, 2)
    ]


def learned(*values, **config):
    task = Regression(RegressionConfig(**config))
    task.learn(rows(*values))
    return task


def test_targets_are_standardised_by_the_training_rows_and_kept_with_the_run():
    task = learned("1", 2.0, 3, 6)
    assert task.learned() == {"means": [3.0], "deviations": [pytest.approx(3.5**0.5)]}
    assert task.answer(rows("6")[0]) == [pytest.approx(3 / 3.5**0.5)]
    again = learned(100.0, 200.0, **task.learned())
    assert again.learned() == task.learned()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("high", r"x.csv:3: column 'target' holds 'high', which is no number"),
        ("1,5", r"x.csv:3: column 'target' holds '1,5', which is no number.*decimal point"),
        (True, r"x.csv:3: column 'target' holds True, which is no number"),
        ("nan", r"x.csv:3: column 'target' holds 'nan'; a target is a finite number"),
        (float("inf"), r"x.csv:3: column 'target' holds inf; a target is a finite number"),
        (0.1, r"x.csv: column 'target' holds 0.1 in every row; there is nothing to learn"),
    ],
)
def test_a_target_that_cannot_be_learned_is_named(value, expected):
    with pytest.raises(DataError, match=expected):
        learned(0.1, value, 0.1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"target_columns": ["a", "a"]}, "names a column twice"),
        ({"means": [1.0], "deviations": [0.0]}, "not above 0"),
        ({"means": [1.0]}, "means and deviations go together"),
        ({"means": [1.0, 2.0], "deviations": [1.0, 1.0]}, "means has 2 numbers for 1"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(given, expected):
    with pytest.raises(ValueError, match=expected):
        RegressionConfig(**given)


@pytest.mark.parametrize(("loss", "expected"), [("mse", [4.0, 0.25]), ("huber", [1.5, 0.125])])
def test_losses_are_those_of_their_formulas(loss, expected, bert):
    loaded = backbone_named("bert").load(str(bert), head="sequence-classification", num_labels=1)
    task = learned(-1.0, 1.0, loss=loss)
    batch = task.collate([task.encode(row, loaded) for row in rows(0, 0)])
    with torch.no_grad():
        batch["target"] = task.logits(loaded.model, batch) + torch.tensor([[2.0], [-0.5]])
        assert task.score(loaded.model, batch)["loss"].tolist() == pytest.approx(expected)
        assert float(task.loss(loaded.model, batch)) == pytest.approx(sum(expected) / 2)


def test_metrics_agree_with_scipy_and_scikit_learn():
    sk = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    torch.manual_seed(0)
    preds, target = (1000 + 3 * torch.randn(40, 2).double() for _ in range(2))
    target[:10] = target[10:20]  # ties
    metrics = regression_metrics(["a", "b"])
    for part in (slice(0, 15), slice(15, 40)):
        ones = torch.ones(40)[part]
        metrics.update(values=preds[part], target=target[part], loss=ones, count=ones)
    found = computed(metrics)
    for i, name in enumerate("ab"):
        one, other = preds[:, i], target[:, i]
        right = {
            "pearson": stats.pearsonr(one, other).statistic,
            "spearman": stats.spearmanr(one, other).statistic,
            "r2": sk.r2_score(other, one),
            "mae": sk.mean_absolute_error(other, one),
            "rmse": sk.root_mean_squared_error(other, one),
        }
        assert {key: found[f"{key}_of.{name}"] for key in right} == pytest.approx(right, abs=1e-9)
    for key in right:
        assert found[key] == pytest.approx((found[f"{key}_of.a"] + found[f"{key}_of.b"]) / 2)


def test_what_does_not_vary_has_no_correlation():
    metrics = regression_metrics(["a"])
    ones = torch.ones(1)
    metrics.update(values=torch.rand(1, 1), target=torch.rand(1, 1), loss=ones, count=ones)
    found = computed(metrics)
    assert found["mae"] == found["rmse"]
    assert all(found[name] != found[name] for name in ("pearson", "spearman", "r2"))


def test_predictions_and_scores_are_in_the_units_of_the_targets(bert):
    loaded = backbone_named("bert").load(str(bert), head="sequence-classification", num_labels=1)
    task = learned(400.0, 1000.0)
    batch = task.collate([task.encode(row, loaded) for row in rows(1000.0, 700.0)])
    with torch.no_grad():
        expected = 700 + 300 * task.logits(loaded.model, batch)[:, 0].double()
        found = task.predict(loaded.model, batch, loaded)
        scores = task.score(loaded.model, batch)
    assert [row["target"] for row in found] == pytest.approx(expected.tolist())
    assert scores["values"][:, 0].tolist() == pytest.approx(expected.tolist())
    assert scores["target"][:, 0].tolist() == [1000.0, 700.0]


def test_a_plan_of_the_task_needs_no_data(peftcore):
    done = peftcore("plan", "bert-base-uncased", "-m", "lora", "--head", "regression", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["base"] == 109_482_240 + 769
