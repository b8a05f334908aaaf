"""The six formulas against naive references, and what the paper says of LoReFT."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from peftcore import AttachError, Context
from peftcore_loreft.dii import dii
from peftcore_loreft.pieces import FORMULAS, Edit
from peftcore_loreft.positions import Positions

WIDTH, RANK = 16, 3
# compared in double precision, so that a difference tells a wrong formula, not the order of a sum
DOUBLE = {"dtype": torch.float64}
CLOSE = {"atol": 1e-6, "rtol": 0}


def edit(name: str, positions: str = "all", **options) -> Edit:
    piece = Edit(FORMULAS[name], WIDTH, Positions(positions), "both", rank=RANK, **options)
    with torch.no_grad():
        piece.start(lambda: torch.empty(0))
    return piece


def naive(name: str, piece: Edit, h: Tensor, act) -> Tensor:
    """Return the edit of one vector, letter by letter as the papers' table has it."""
    if FORMULAS[name].learned:
        W, b = piece.learned_source.weight, piece.learned_source.bias
    else:
        c = piece.learned_source
    if FORMULAS[name].orthonormal:
        R = piece.projection()
    else:
        W2, b2 = piece.projection.weight, piece.projection.bias
    if name == "loreft":
        return h + R.T @ (act(W @ h + b) - R @ h)
    if name == "direft":
        return h + W2.T @ act(W @ h + b)
    if name == "direft_orth":
        return h + R.T @ act(W @ h + b)
    if name == "noreft":
        return h + W2.T @ (act(W @ h + b) - (W2 @ h + (0 if b2 is None else b2)))
    if name == "consreft":
        return h + R.T @ (c - R @ h)
    return h + R.T @ c


@pytest.mark.parametrize("act_fn", ["identity", "relu", "gelu", "silu", "tanh", "sigmoid"])
@pytest.mark.parametrize("name", FORMULAS)
def test_each_formula_is_the_papers(name, act_fn):
    act = {"identity": lambda x: x, "tanh": torch.tanh, "sigmoid": torch.sigmoid}.get(act_fn)
    act = act or getattr(F, act_fn)
    piece = edit(name, act_fn=act_fn).double()
    hidden = torch.randn(2, 5, WIDTH, **DOUBLE)
    expected = torch.stack([naive(name, piece, h, act) for h in hidden.flatten(0, 1)])
    torch.testing.assert_close(piece(hidden, Context()), expected.view_as(hidden), **CLOSE)


def test_the_bias_of_noreft_is_in_the_subtraction_only():
    piece = edit("noreft", add_bias=True).double()
    h = torch.randn(WIDTH, **DOUBLE)
    expected = naive("noreft", piece, h, lambda x: x)
    torch.testing.assert_close(piece(h[None], Context())[0], expected, **CLOSE)
    assert piece.projection.bias.shape == (RANK,)


@pytest.mark.parametrize(
    ("name", "count"),
    {
        "loreft": 2 * WIDTH * RANK + RANK,
        "direft": 2 * WIDTH * RANK + RANK,
        "direft_orth": 2 * WIDTH * RANK + RANK,
        "noreft": 2 * WIDTH * RANK + RANK,
        "consreft": WIDTH * RANK + RANK,
        "lobireft": WIDTH * RANK + RANK,
    }.items(),
)
def test_the_parameters_are_as_many_as_the_table_says(name, count):
    assert sum(p.numel() for p in edit(name).parameters()) == count


def test_loreft_sets_the_subspace_and_leaves_its_complement():
    piece = edit("loreft").double()
    h = torch.randn(7, WIDTH, **DOUBLE)
    out, R = piece(h, Context()), piece.projection()
    torch.testing.assert_close(out @ R.T, piece.learned_source(h), atol=1e-13, rtol=0)
    rest = torch.eye(WIDTH, **DOUBLE) - R.T @ R
    torch.testing.assert_close(out @ rest, h @ rest, atol=1e-13, rtol=0)


def test_loreft_with_w_equal_to_r_is_the_identity():
    piece = edit("loreft").double()
    with torch.no_grad():
        piece.learned_source.weight.copy_(piece.projection())
        piece.learned_source.bias.zero_()
    h = torch.randn(7, WIDTH, **DOUBLE)
    torch.testing.assert_close(piece(h, Context()), h, **CLOSE)


def test_loreft_is_an_interchange_with_a_source_that_has_the_learned_subspace():
    piece = edit("loreft").double()
    h = torch.randn(7, WIDTH, **DOUBLE)
    R = piece.projection()
    source = torch.linalg.lstsq(R, piece.learned_source(h).T).solution.T
    torch.testing.assert_close(piece(h, Context()), dii(h, source, R), atol=1e-12, rtol=0)


def test_consreft_sets_the_subspace_to_the_same_constants_everywhere():
    piece = edit("consreft").double()
    out = piece(torch.randn(2, 5, WIDTH, **DOUBLE), Context())
    values = out @ piece.projection().T
    torch.testing.assert_close(values, piece.learned_source.expand_as(values), **CLOSE)
    assert piece.learned_source.min() >= 0 and piece.learned_source.max() < 1


def test_dropout_acts_on_the_whole_edited_vector_and_only_there():
    torch.manual_seed(0)
    hidden = torch.randn(4, 6, WIDTH)
    piece = edit("loreft", "f2", dropout=0.5)
    kept = piece.eval()(hidden, Context())
    out = piece.train()(hidden, Context())
    torch.testing.assert_close(out[:, 2:], hidden[:, 2:], rtol=0, atol=0)
    dropped = out[:, :2].abs() < 1e-5
    assert 0.2 < dropped.float().mean() < 0.8
    expected = torch.where(dropped, 0, kept[:, :2] * 2)
    torch.testing.assert_close(out[:, :2], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", FORMULAS)
def test_an_edit_is_computed_in_the_dtype_of_the_hidden_states(name, dtype):
    piece = edit(name, "f1+l1")
    hidden = torch.randn(2, 5, WIDTH)
    out = piece(hidden.to(dtype), Context())
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), piece(hidden, Context()), atol=0.05, rtol=0.02)


def test_other_features_than_the_sites_are_refused():
    with pytest.raises(AttachError, match="not 16; ReFT edits"):
        edit("loreft")(torch.randn(2, WIDTH, 4, 5), Context())
