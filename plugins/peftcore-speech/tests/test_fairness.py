"""Scores between groups, and the mean recall of a label, against libraries that have them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score

from peftcore import DataError
from peftcore_speech.classification import AudioClassification, AudioClassificationConfig
from peftcore_speech.fairness import fairness_metrics
from peftcore_train.data import Row

#: predicted, given and group of 20 rows; the second group has no row of label 2.
PREDICTED = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 1, 2, 0, 1, 1, 0, 2]
GIVEN = [0, 1, 1, 0, 1, 0, 2, 1, 2, 1, 0, 1, 1, 0, 2, 0, 1, 0, 0, 2]
GROUP = [0, 0, 0, 0, 1, 1, 0, 1, 2, 2, 1, 1, 0, 2, 0, 1, 0, 2, 2, 2]
#: What multiclass_statistical_parity and multiclass_equality_of_opp of holisticai 1.0.14 return for
#: them, with aggregation_fun="max".
HOLISTICAI = {"statistical_parity": 1 / 6, "equality_of_opportunity": 13 / 18}


def test_fairness_is_that_of_holisticai_and_trust_ser() -> None:
    metrics = fairness_metrics(4, 3)  # of the fourth group there are no rows
    for part in (slice(0, 7), slice(7, 20)):
        predicted, given, group = (torch.tensor(x[part]) for x in (PREDICTED, GIVEN, GROUP))
        for metric in metrics.values():
            metric.update(predicted, given, group)
    for name, value in HOLISTICAI.items():
        assert abs(float(metrics[name].compute()) - value) < 1e-12, name
    # TrustSER's evaluation.py, for two groups at a time
    right = np.equal(PREDICTED, GIVEN)
    shares = [
        [(right & np.equal(GIVEN, c) & np.equal(GROUP, g)).sum() / GROUP.count(g) for c in range(3)]
        for g in range(3)
    ]
    pairs = [np.abs(np.subtract(shares[a], shares[b])).max() for a, b in ((0, 1), (0, 2), (1, 2))]
    assert abs(float(metrics["demographic_parity"].compute()) - max(pairs)) < 1e-12


def test_fairness_needs_two_groups_and_those_of_training() -> None:
    def task() -> AudioClassification:
        return AudioClassification(AudioClassificationConfig(group_column="who"))

    def row(who: str, label: str) -> Row:
        return Row({"label": label, "who": who}, "train.csv:2")

    with pytest.raises(DataError, match=r"^train\.csv: every row has the who 'x'; fairness"):
        task().learn([row("x", "a"), row("x", "b")])
    (learned := task()).learn([row("x", "a"), row("y", "b")])
    assert learned.learned() == {"labels": ["a", "b"], "groups": ["x", "y"]}
    with pytest.raises(DataError, match=r"the who 'z' is not among those of training: x, y\."):
        learned._group(row("z", "a"))


def test_the_scores_of_one_group_are_no_number() -> None:
    for metric in fairness_metrics(2, 3).values():
        metric.update(torch.tensor([0, 1]), torch.tensor([0, 2]), torch.tensor([1, 1]))
        assert torch.isnan(metric.compute())


def test_the_mean_recall_is_that_of_scikit_learn() -> None:
    config = AudioClassificationConfig(labels=("a", "b", "c"), group_column="who")
    task = AudioClassification(config)
    rows = [{"label": "abc"[g], "who": "xyz"[w]} for g, w in zip(GIVEN, GROUP, strict=True)]
    task.learn([Row(row, f"x:{i}") for i, row in enumerate(rows)])
    metrics = task.metrics()
    predicted, given, group = map(torch.tensor, (PREDICTED, GIVEN, GROUP))
    scores = task.kind.scores(torch.nn.functional.one_hot(predicted, 3).float(), given)
    metrics.update(**scores, predicted=predicted, group=group)
    found = metrics.compute()
    recall = recall_score(GIVEN, PREDICTED, average="macro")
    assert abs(float(found["uar"]) - recall) < 1e-6
    assert set(found) == set(task.metric_names)
