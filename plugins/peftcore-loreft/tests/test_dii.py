"""Distributed interchange interventions."""

import pytest
import torch
from torch import nn

from peftcore_loreft import dii


def made():
    R = nn.init.orthogonal_(torch.empty(4, 12, dtype=torch.float64))
    return (*torch.randn(2, 3, 12, dtype=torch.float64), R)


def test_the_subspace_is_the_sources_and_the_rest_is_the_bases():
    base, source, R = made()
    out = dii(base, source, R)
    torch.testing.assert_close(out @ R.T, source @ R.T)
    rest = torch.eye(12, dtype=torch.float64) - R.T @ R
    torch.testing.assert_close(out @ rest, base @ rest)
    torch.testing.assert_close(dii(base, base, R), base)


def test_each_subspace_takes_its_own_source():
    base, source, R = made()
    other = torch.randn_like(source)
    parts = {"subject": [0, 3], "number": [1], "tense": [2]}
    out = dii(base, {"subject": source, "number": other}, R, parts)
    torch.testing.assert_close((out @ R.T)[:, [0, 3]], (source @ R.T)[:, [0, 3]])
    torch.testing.assert_close((out @ R.T)[:, 1], (other @ R.T)[:, 1])
    torch.testing.assert_close((out @ R.T)[:, 2], (base @ R.T)[:, 2])
    every = dii(base, dict.fromkeys(parts, source), R, parts)
    torch.testing.assert_close(every, dii(base, source, R))


@pytest.mark.parametrize(
    ("named", "subspaces", "message"),
    [
        (True, {"a": [0, 1], "b": [1, 2, 3]}, "no partition"),
        (True, {"a": [0, 1, 2, 4]}, "no partition"),
        (True, {"b": [0, 1, 2, 3]}, "give both"),
        (True, None, "give both"),
        (False, {"a": [0, 1, 2, 3]}, "give both"),
    ],
)
def test_sources_and_subspaces_that_do_not_fit_are_refused(named, subspaces, message):
    base, source, R = made()
    with pytest.raises(ValueError, match=message):
        dii(base, {"a": source} if named else source, R, subspaces)
