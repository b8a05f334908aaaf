"""FAVOR+ against its formula, against exact attention, and against performer-pytorch."""

import math

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore_singlecell.attention import FastAttention, favor, orthogonal_gaussian
from peftcore_singlecell.model import Performer, ScBert, ScBertConfig

SMALL = ScBertConfig(genes=7, dim=16, depth=2, heads=2, head_width=8, mlp_width=32, features=16)


def drawn(*shape: int, scale: float = 1.0) -> list[Tensor]:
    return [scale * torch.randn(shape) for _ in range(3)]


def released(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """The authors' features, written out one by one: every term beside every other."""
    m, d = w.shape

    def features(x: Tensor, *, query: bool) -> Tensor:
        x = x * d**-0.25
        dash = torch.einsum("bhnd,md->bhnm", x, w)
        half = (x**2).sum(-1, keepdim=True) / 2
        most = dash.max(-1, keepdim=True).values if query else dash.max()
        return m**-0.5 * (torch.exp(dash - half - most) + 1e-4)

    a, b = features(q, query=True), features(k, query=False)
    weights = a @ b.mT
    return (weights / weights.sum(-1, keepdim=True)) @ v


def test_attention_as_released_is_the_authors_formula_gradients_too() -> None:
    q, k, v = (x.requires_grad_() for x in drawn(2, 3, 20, 16))
    w = orthogonal_gaussian(44, 16)
    ours, theirs = favor(q, k, v, w, released=True), released(q, k, v, w)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for x in (q, k, v):
        (one,) = torch.autograd.grad(ours.square().sum(), x, retain_graph=True)
        (two,) = torch.autograd.grad(theirs.square().sum(), x, retain_graph=True)
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_a_row_alone_is_what_it_is_among_others() -> None:
    q, k, v = drawn(3, 2, 20, 16)
    k[0] *= 3
    w = orthogonal_gaussian(44, 16)
    together = favor(q, k, v, w)
    for i in range(3):
        one = slice(i, i + 1)
        torch.testing.assert_close(favor(q[one], k[one], v[one], w), together[one])
    alone = favor(q[1:2], k[1:2], v[1:2], w, released=True)
    assert not torch.allclose(alone, favor(q, k, v, w, released=True)[1:2], rtol=1e-4, atol=1e-5)


def test_many_features_are_exact_attention() -> None:
    q, k, v = drawn(1, 4, 64, 64, scale=0.25)  # the longer they are, the more features it takes
    exact = nn.functional.scaled_dot_product_attention(q, k, v)
    off = [
        float((favor(q, k, v, orthogonal_gaussian(m, 64)) - exact).norm() / exact.norm())
        for m in (64, 4096)
    ]
    assert off[1] < 0.05 < off[0]


def test_projections_are_orthogonal_in_blocks_and_as_long_as_normal_rows() -> None:
    w = orthogonal_gaussian(266, 64)
    assert w.shape == (266, 64)
    for block in w.split(64):
        unit = block / block.norm(dim=1, keepdim=True)
        torch.testing.assert_close(unit @ unit.T, torch.eye(len(block)), rtol=0, atol=1e-5)
    lengths = orthogonal_gaussian(20_000, 8).norm(dim=1)
    mean = math.sqrt(2) * math.gamma(4.5) / math.gamma(4)
    assert abs(float(lengths.mean()) - mean) < 0.02


def test_half_precision_and_long_rows_stay_finite() -> None:
    q, k, v = (x.to(torch.bfloat16) for x in drawn(1, 2, 2000, 16, scale=4.0))
    out = favor(q, k, v, orthogonal_gaussian(44, 16))
    assert out.dtype == torch.bfloat16 and bool(out.isfinite().all())


def test_blocks_equal_those_of_performer_pytorch() -> None:
    library = pytest.importorskip("performer_pytorch.performer_pytorch")
    theirs = library.Performer(dim=32, depth=2, heads=4, dim_head=8, qkv_bias=False).eval()
    state = theirs.state_dict()
    features = state["net.layers.0.0.fn.fast_attention.projection_matrix"].shape[0]
    sizes = {"dim": 32, "depth": 2, "heads": 4, "head_width": 8, "mlp_width": 128}
    ours = Performer(ScBertConfig(**sizes, features=features), released=False).eval()
    own = set(ours.state_dict())
    # their counter of calls has a name of its own
    missing, spare = own - set(state), [n for n in state if n not in own]
    assert missing == {"calls_since_last_redraw"}
    assert {n.rpartition(".")[2] for n in spare if not n.startswith("proj_updater.instance")} == {
        "calls_since_last_redraw"
    }
    ours.load_state_dict({n: state[n] for n in own - missing}, strict=False)
    x, y = torch.randn(2, 50, 32), torch.randn(2, 50, 32)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    for model in (ours, theirs):
        (model(x) * y).sum().backward()
    grads = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name].grad, rtol=1e-4, atol=1e-4)


def test_projections_are_redrawn_in_training_alone_and_belong_to_the_adapter(tmp_path) -> None:
    model = ScBert(SMALL).eval()
    model.performer.redraw_interval = 2
    batch = torch.randint(0, 6, (2, 8))
    before, base = projections(model), model(batch)
    adapter = peftcore.attach(model, "lora", rank=2)
    model.train()
    for _ in range(2):
        model(batch).sum().backward()
    assert all(map(torch.equal, projections(model), before)), "drawn too early"
    model(batch).sum().backward()
    drawn = projections(model)
    assert not any(map(torch.equal, drawn, before))
    model.eval()
    tuned = model(batch)
    assert all(map(torch.equal, projections(model), drawn)), "drawn while scoring"
    adapter.save(tmp_path / "adapter")
    with peftcore.disabled(model):
        assert torch.equal(model(batch), base)
    adapter.detach()
    assert torch.equal(model(batch), base)
    peftcore.load(model, tmp_path / "adapter")
    assert torch.equal(model(batch), tuned)


def projections(model: nn.Module) -> list[Tensor]:
    found = [m.projection_matrix for m in model.modules() if isinstance(m, FastAttention)]
    return [matrix.clone() for matrix in found]


def test_recomputed_blocks_give_the_same_gradients() -> None:
    model, batch = ScBert(SMALL).train(), torch.randint(0, 6, (2, 8))
    found = []
    for recomputes in (False, True):
        model.performer.recomputes = recomputes
        model.zero_grad()
        model(batch).square().sum().backward()
        found.append([p.grad for p in model.performer.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
