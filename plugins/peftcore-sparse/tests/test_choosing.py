"""How many weights are chosen, and which."""

import math

import pytest
import torch
from torch import Tensor

from peftcore_sparse.choosing import choose, counts, kept

SHAPES = [(8, 12), (4, 8), (16, 4, 3, 3)]


def naive(scores: list[Tensor], k: int) -> list[list[int]]:
    """Sort all of them; the first of equal ones stays first."""
    flat = [(i, j, v) for i, s in enumerate(scores) for j, v in enumerate(s.flatten().tolist())]
    best = sorted(flat, key=lambda item: -item[2])[:k]
    return [sorted(j for i, j, _ in best if i == n) for n in range(len(scores))]


@pytest.mark.parametrize(
    "count, p, expected",
    [(10, 0.4, 6), (10, 0.8, 2), (100, 0.29, 71), (1000, 0.001, 999), (7, 0.0, 7), (3, 0.99, 1)],
)
def test_the_number_that_trains_is_exact_for_p_as_it_is_written(
    count: int, p: float, expected: int
) -> None:
    assert kept(count, p) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("p", [0.0, 0.4, 0.8, 0.999])
@pytest.mark.parametrize("together", [True, False])
def test_the_highest_are_chosen_and_the_first_of_equal_ones(
    dtype: torch.dtype, p: float, together: bool
) -> None:
    scores = [(10 * torch.randn(shape)).round().to(dtype) / 10 for shape in SHAPES]
    scores[0][0, :4] = torch.tensor([0.0, -0.0, 0.0, -0.0])
    found = [one.tolist() for one in choose(scores, p, together=together, pattern="unstructured")]
    if together:
        expected = naive(scores, kept(sum(s.numel() for s in scores), p))
    else:
        expected = [naive([s], kept(s.numel(), p))[0] for s in scores]
    assert found == expected


def test_of_equal_scores_the_earlier_come_first() -> None:
    equal = [torch.ones(2, 3), torch.ones(2, 3)]
    first, second = choose(equal, 0.4, together=True, pattern="unstructured")
    assert first.tolist() == [0, 1, 2, 3, 4, 5] and second.tolist() == [0, 1]
    zeros = torch.tensor([[0.0, -0.0, 0.0, -0.0]])
    assert choose([zeros], 0.5, together=True, pattern="unstructured")[0].tolist() == [0, 1]


def test_whole_rows_are_ranked_by_their_mean() -> None:
    score = torch.tensor([[3.0, 3.0], [9.0, -9.0], [4.0, 3.0], [0.0, 1.0]])
    (index,) = choose([score], 0.5, together=False, pattern="rows")
    assert index.tolist() == [0, 1, 4, 5]
    wide, narrow = choose([score, torch.full((2, 3), 3.2)], 0.5, together=True, pattern="rows")
    assert wide.tolist() == [4, 5] and narrow.tolist() == [0, 1, 2, 3, 4, 5]


def test_two_of_each_four_inputs_are_chosen() -> None:
    score = torch.rand(6, 8, 3, 3)
    (index,) = choose([score], 0.5, together=True, pattern="2:4")
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[index] = True
    fours = mask.view(score.shape).unflatten(1, (2, 4))
    assert (fours.sum(2) == 2).all()
    values = score.unflatten(1, (2, 4))
    low = values.masked_fill(~fours, math.inf).amin(2)
    assert (low >= values.masked_fill(fours, -math.inf).amax(2)).all()
    assert choose([torch.ones(1, 8)], 0.5, together=True, pattern="2:4")[0].tolist() == [0, 1, 4, 5]


@pytest.mark.parametrize("pattern", ["unstructured", "rows", "2:4"])
@pytest.mark.parametrize("p", [0.4, 0.8, 0.997])
@pytest.mark.parametrize("together", [True, False])
def test_what_is_counted_without_scores_is_what_is_chosen(
    pattern: str, p: float, together: bool
) -> None:
    shapes = [(16, 12), (32, 12), (8, 4, 3)]
    numbers = counts(shapes, p, together=together, pattern=pattern)
    scores = [torch.rand(shape) for shape in shapes]
    found = [len(i) for i in choose(scores, p, together=together, pattern=pattern)]
    assert sum(numbers) == sum(found)
    assert numbers == found or (together and pattern != "2:4")
    assert all(0 <= k <= math.prod(shape) for k, shape in zip(numbers, shapes, strict=True))
