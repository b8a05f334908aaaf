"""What strategies choose, against values by hand."""

import math

import pytest
import torch

from peftcore_active import strategies


def test_entropy_and_margin_are_highest_where_the_model_is_least_sure():
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.9, 0.05, 0.05], [1 / 3, 1 / 3, 1 / 3], [1.0, 0, 0]])
    assert strategies.entropy(rows).tolist() == pytest.approx(
        [math.log(2), -0.9 * math.log(0.9) - 0.1 * math.log(0.05), math.log(3), 0.0]
    )
    assert strategies.margin(rows).tolist() == pytest.approx([0, -0.85, 0, -1])
    assert strategies.best(strategies.entropy(rows), 2) == [2, 0]
    assert strategies.best(strategies.margin(rows), 3) == [0, 2, 1], "equal ones in their order"


def test_bald_asks_for_what_passes_disagree_about_and_not_for_noise():
    sure, unsure = [0.999, 0.001], [0.5, 0.5]
    passes = torch.tensor([[sure, unsure], [sure[::-1], unsure]], dtype=torch.float64)
    disagreed, noisy = strategies.bald(passes).tolist()
    ours = math.log(2) + 0.999 * math.log(0.999) + 0.001 * math.log(0.001)
    assert disagreed == pytest.approx(ours) and noisy == pytest.approx(0, abs=1e-12)


def test_k_centre_takes_the_farthest_row_again_and_again():
    pool = torch.tensor([[0.0, 0], [10, 0], [10, 1], [0, 6], [0, 6]])
    chosen, far = strategies.k_centre(pool, torch.tensor([[0.0, 1]]), 5)
    assert chosen[:2] == [1, 3] and far[:2] == pytest.approx([math.sqrt(101), 5])
    assert sorted(chosen) == [0, 1, 2, 3, 4], "a row that equals a chosen one comes last"
    # no greedy choice is more than twice as far from its centre as the best one could be
    points = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    chosen, far = strategies.k_centre(points[1:], points[:1], 6)
    centres = torch.cat([points[:1], points[1:][chosen]])
    assert float(torch.cdist(points, centres).min(1).values.max()) <= far[-1]
    assert far == sorted(far, reverse=True)


def learned(strategy: str, seed: int) -> list[float]:
    """Return the accuracies of a linear classifier on separable points, with 6, 8, ... labels."""
    chance = torch.Generator().manual_seed(seed)
    pool, test = (torch.randn(400, 2, generator=chance).double() for _ in range(2))
    line = torch.tensor([1.0, -2.0]).double()
    label, target = (points @ line > 0.3 for points in (pool, test))
    order = torch.randperm(len(pool), generator=chance).tolist()
    have, found = order[:6], []
    for _ in range(7):
        model = fitted(pool[have], label[have].double())
        found.append(float(((test @ model[:2] + model[2] > 0) == target).double().mean()))
        left = [i for i in order if i not in have]
        sure = torch.sigmoid(pool[left] @ model[:2] + model[2])
        values = strategies.margin(torch.stack([sure, 1 - sure], 1))
        best = strategies.best(values, 2) if strategy == "margin" else [0, 1]
        have = [*have, *(left[place] for place in best)]
    return found


def fitted(points: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return weights and bias of a logistic regression, lightly regularised."""
    model = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([model], max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = points @ model[:2] + model[2]
        off = torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
        value = off + 1e-3 * model.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return model.detach()


def test_on_separable_points_margin_needs_fewer_labels_than_a_random_choice():
    margin, chance = (
        torch.tensor([learned(strategy, seed) for seed in range(5)]).mean(0)
        for strategy in ("margin", "random")
    )
    assert margin[0] == chance[0], "both begin with the same rows"
    reached = [bool((curve > 0.98).any()) for curve in (margin, chance)]
    assert reached == [True, False], (margin, chance)
    assert margin.mean() > chance.mean()
