"""The fingerprint of a base: what it sees, and what it takes for the same."""

import pytest
import torch
from torch import Tensor

from peftcore.store.fingerprint import difference, fingerprint
from peftcore.testing.matrix import tiny

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def base(scale: float = 1.0) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "embedding.weight": scale * torch.randn(500, 24),
        "layer.weight": scale * torch.randn(70, 33),
        "layer.bias": scale * torch.randn(70),
        "conv.weight": scale * torch.randn(9, 4, 3, 3),
        "norm.weight": torch.ones(24),
        "scalar": torch.tensor(0.5),
    }


def differ(one: dict[str, Tensor], two: dict[str, Tensor]) -> str:
    return difference(fingerprint(one), fingerprint(two), two)


def test_the_same_base_is_the_same() -> None:
    assert differ(base(), base()) == ""


@pytest.mark.parametrize("row", [0, 1, 63, 250, 436, 499])
@pytest.mark.parametrize("cast", [torch.float32, torch.bfloat16])
def test_one_row_that_was_drawn_anew_is_seen(row: int, cast: torch.dtype) -> None:
    here = base()
    here["embedding.weight"][row] = 3 * torch.randn(24)
    here = {name: tensor.to(cast) for name, tensor in here.items()}
    said = differ({n: t.to(cast) for n, t in base().items()}, here)
    assert "embedding.weight differ" in said
    assert (" in the last 64 rows alone" in said) == (row >= 436)


def test_rows_that_were_added_are_seen() -> None:
    here = base()
    here["embedding.weight"] = torch.cat([here["embedding.weight"], torch.randn(2, 24)])
    assert "this model has" in differ(base(), here)
    # drawn anew at each start, at the end of a tensor of the same size
    there = {**here, "embedding.weight": here["embedding.weight"].clone()}
    there["embedding.weight"][-2:] += 1
    assert "in the last 64 rows alone" in differ(here, there)


@pytest.mark.parametrize("name", [n for n in base() if n != "norm.weight"])
def test_a_change_of_every_tensor_is_seen(name: str) -> None:
    here = base()
    here[name] = here[name] * 1.01
    assert name in differ(base(), here)


def test_a_low_rank_change_is_seen() -> None:
    here = base()
    here["layer.weight"] += 1e-3 * torch.randn(70, 1) @ torch.randn(1, 33)
    assert "layer.weight differ" in differ(base(), here)


@pytest.mark.parametrize("scale", [1.0, 0.02])
@pytest.mark.parametrize("saved", DTYPES)
@pytest.mark.parametrize("here", DTYPES)
def test_the_same_base_in_another_dtype_is_the_same(
    saved: torch.dtype, here: torch.dtype, scale: float
) -> None:
    one = {name: tensor.to(saved) for name, tensor in base(scale).items()}
    two = {name: tensor.to(here) for name, tensor in base(scale).items()}
    assert differ(one, two) == ""
    two["layer.weight"] = (two["layer.weight"].float() * 1.5).to(here)
    assert "layer.weight differ" in differ(one, two)


def test_a_base_cast_twice_is_the_same() -> None:
    once = {name: tensor.to(torch.bfloat16) for name, tensor in base().items()}
    back = {name: tensor.float() for name, tensor in once.items()}
    assert differ(base(), once) == "" and differ(once, back) == ""


def test_statistics_count_and_integers_too() -> None:
    one = {**base(), "norm.running_mean": torch.zeros(24), "norm.count": torch.tensor(3)}
    two = {**one, "norm.running_mean": torch.full((24,), 0.1)}
    assert "norm.running_mean differ" in differ(one, two)
    assert differ(one, {**one, "norm.count": torch.tensor(4)})


def test_a_real_model_keeps_its_fingerprint_in_another_process_and_layout() -> None:
    _, model, _ = tiny("toy")
    one = {name: p.detach() for name, p in model.named_parameters()}
    two = {n: t.t().contiguous().t() if t.dim() == 2 else t.clone() for n, t in one.items()}
    assert fingerprint(one) == fingerprint(two) == fingerprint(dict(reversed(list(one.items()))))
