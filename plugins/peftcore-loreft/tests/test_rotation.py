"""R stays orthonormal, needs nothing of size d x d, and trains as torch's parametrisation does."""

import pytest
import torch
from torch import Tensor, nn

from peftcore import Context
from peftcore_loreft.pieces import FORMULAS, Edit
from peftcore_loreft.positions import Positions
from peftcore_loreft.rotation import Rotation


def rotation(rank: int, width: int, dtype: torch.dtype = torch.float32) -> Rotation:
    made = Rotation(rank, width).to(dtype)
    made.start()
    return made


def edit(name: str, width: int, rank: int, positions: str) -> Edit:
    piece = Edit(FORMULAS[name], width, Positions(positions), "both", rank=rank)
    with torch.no_grad():
        piece.start(lambda: torch.empty(0))
    return piece


def off_orthonormal(R: Tensor) -> float:
    R = R.detach().double()
    return (R @ R.T - torch.eye(len(R))).abs().max().item()


@pytest.mark.parametrize(("rank", "width"), [(1, 8), (4, 64), (8, 8), (8, 512)])
def test_r_is_orthonormal_from_the_start_and_is_what_was_put(rank, width):
    made = rotation(rank, width)
    assert off_orthonormal(made()) < 1e-6
    given = nn.init.orthogonal_(torch.empty(rank, width))
    made.put(given)
    torch.testing.assert_close(made(), given, atol=1e-6, rtol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_r_is_orthonormal_after_1000_steps_of_adamw(weight_decay):
    torch.manual_seed(0)
    made = rotation(8, 48)
    optimiser = torch.optim.AdamW(made.parameters(), lr=1e-2, weight_decay=weight_decay)
    target = torch.randn(48, 48)
    start = made().detach()
    for _ in range(1000):
        optimiser.zero_grad()
        (made() @ target).pow(4).mean().backward()
        optimiser.step()
    assert off_orthonormal(made()) < 1e-5
    assert (made() - start).abs().max() > 0.1


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_r_does_not_depend_on_how_the_free_matrix_is_scaled(scale):
    made = rotation(4, 32)
    R = made().detach()
    with torch.no_grad():
        made.free[1:] *= scale
    torch.testing.assert_close(made(), R, atol=1e-5, rtol=0)
    assert off_orthonormal(made()) < 1e-5


def test_r_is_exact_under_autocast_and_low_matmul_precision():
    made = rotation(4, 32)
    with torch.no_grad():
        made.free += 0.1 * torch.randn_like(made.free)
    R = made().detach()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(made(), R)
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("moved", [0.0, 0.1])
def test_value_and_gradient_are_those_of_a_thin_qr_decomposition(moved):
    made = rotation(3, 10).double()
    made.put(made().detach())
    with torch.no_grad():
        made.free += moved * torch.randn_like(made.free)
    weights = torch.randn(3, 10, dtype=torch.float64)
    free = made.free.detach().requires_grad_()
    Q, upper = torch.linalg.qr(2 * free.T)
    R = (Q * upper.diagonal().sign()).T
    torch.testing.assert_close(made(), R)
    (expected,) = torch.autograd.grad((R * weights).sum(), free)
    (got,) = torch.autograd.grad((made() * weights).sum(), made.free)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_trained_r_put_back_is_the_same_to_the_bit(dtype):
    torch.manual_seed(0)
    made = rotation(4, 24, dtype)
    with torch.no_grad():
        made.free += 0.3 * torch.randn_like(made.free)
    R = made().detach()
    fresh = rotation(4, 24, dtype)
    fresh.put(R)
    assert torch.equal(fresh(), R)
    again = rotation(4, 24, dtype)
    again.put(fresh().detach())
    assert torch.equal(again(), R)


@pytest.mark.parametrize("name", FORMULAS)
def test_no_tensor_is_of_size_d_by_d(name):
    width = 256
    piece = edit(name, width, 8, "f2+l2")
    sizes = [t.numel() for t in piece.state_dict().values()]

    def note(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    hidden = torch.randn(2, 9, width, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        out = piece(hidden, Context())
    out.sum().backward()
    assert max(sizes) < width * width / 8


class Householder(nn.Module):
    """R in the authors' parametrisation: torch's orthogonal one of a [d, r] matrix."""

    def __init__(self, R: Tensor):
        super().__init__()
        self.weight = nn.Parameter(R.T.clone())
        nn.utils.parametrizations.orthogonal(self)

    def forward(self) -> Tensor:
        return self.weight.T


def learn(of: type[Householder] | None, lr: float) -> list[float]:
    """Return the losses of learning another LoReFT edit."""
    torch.manual_seed(1)
    width, rank = 32, 3
    teacher, pupil = (edit("loreft", width, rank, "all") for _ in range(2))
    if of is not None:
        pupil.projection = of(pupil.projection().detach())
    h = torch.randn(64, width)
    goal = teacher(h, Context()).detach()
    optimiser = torch.optim.AdamW(pupil.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for _ in range(250):
        R = pupil.projection()
        out = h + (pupil.learned_source(h) - h @ R.T) @ R
        loss = (out - goal).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_training_goes_as_with_the_orthogonal_parametrisation_of_torch():
    ours, theirs = learn(None, 5e-3), learn(Householder, 5e-3)
    for step in (0, 25, 50, 100):
        assert ours[step] == pytest.approx(theirs[step], rel=0.3)
    assert max(ours[-1], theirs[-1]) < 0.02 * ours[0]
