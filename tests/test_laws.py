"""What holds of every method on every kind of model: right, or refused before anything is changed.

The models are ones that no plugin knows, each with something that has gone wrong somewhere.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import peftcore
from peftcore.errors import PeftcoreError
from peftcore.testing import attached, pairs, perturb

ROWS = 3


class Doubled(nn.Linear):
    """A linear layer that computes more than a linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * F.linear(x, self.weight, self.bias) + 1


class Reading(nn.Module):
    """Reads the weights of its layers and calls none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.first.weight, self.first.bias).tanh()
        return F.linear(x, self.second.weight, self.second.bias)


class Tied(nn.Module):
    """A head whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(11, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(x)).tanh())  # type: ignore[no-any-return]


class Shared(nn.Module):
    """One and the same layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        one = nn.Linear(8, 8)
        self.layers = nn.ModuleList([one, nn.Linear(8, 8), one])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x


class Norms(nn.Module):
    """A convolution, a batch norm and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.batch_norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.batch_norm(self.conv(x)).relu().mean((2, 3))
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class Experts(nn.Module):
    """Weights of three dimensions beside a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, 3), nn.Parameter(torch.randn(3, 5, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("be,eoi,bi->bo", self.gate(x).softmax(-1), self.experts, x)


class Towers(nn.Module):
    """Two networks whose outputs meet."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.TransformerEncoderLayer(8, 2, 12, batch_first=True) for _ in range(2))
        self.left, self.right = (nn.TransformerEncoder(layer, 1) for layer in layers)

    def forward(self, x: Tensor) -> Tensor:
        return (self.left(x) * self.right(x)).mean(1)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Weights that one call reads for all tokens, and a first axis of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x.transpose(0, 1))[0].transpose(0, 1))  # type: ignore[no-any-return]


def vectors(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape)


ZOO: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "subclass": (lambda: nn.Sequential(Doubled(8, 6), nn.Tanh(), nn.Linear(6, 4)),
                 lambda: vectors(8)),
    "reading": (Reading, lambda: vectors(8)),
    "tied": (Tied, lambda: torch.randint(0, 11, (ROWS, 5))),
    "shared": (Shared, lambda: vectors(8)),
    "norms": (Norms, lambda: vectors(2, 6, 6)),
    "experts": (Experts, lambda: vectors(8)),
    "towers": (Towers, lambda: vectors(5, 8)),
    "recurrent": (Recurrent, lambda: vectors(5, 8)),
}  # fmt: skip
METHODS = sorted({method for method, _ in pairs()})


def out(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)  # type: ignore[no-any-return]


def near(found: Tensor, wanted: Tensor, what: str) -> None:
    assert torch.allclose(found, wanted, atol=2e-5, rtol=2e-5), (
        f"{what}: off by {(found - wanted).abs().max().item()}"
    )


class Laws:
    """One method on one model."""

    def __init__(self, method: str, kind: str):
        make, batch = ZOO[kind]
        torch.manual_seed(3)
        self.method, self.what = method, f"{method} on {kind}"
        # frozen from the start: torch's LSTM rounds otherwise where weights are trained
        self.model, self.x = make().eval().requires_grad_(False), batch()
        self.untouched = copy.deepcopy(self.model)
        self.bare = out(self.model, self.x)
        self.refused: list[str] = []

    def attach(self, name: str = "default") -> peftcore.Adapter | None:
        try:
            adapter = attached(self.model, self.method, {"targets": ["all-linear"]})
        except PeftcoreError as error:
            self.refused.append(str(error))
            return None
        assert name == adapter.name
        return adapter

    def hold(self, folder: Path) -> bool:
        """Check all laws; tell whether the method runs there."""
        adapter = self.attach()
        if adapter is None:
            self.as_it_was()
            return False
        if peftcore.installed().methods[self.method].identity_at_start:
            near(out(self.model, self.x), self.bare, f"{self.what}: at the start")
        if not self.gradients(adapter):
            adapter.detach()
            self.as_it_was()
            return False
        perturb(adapter)
        tuned = out(self.model, self.x)
        with peftcore.disabled(self.model):
            assert torch.equal(out(self.model, self.x), self.bare), f"{self.what}: disabled"
        self.by_row(tuned)
        adapter.save(folder)
        self.merged(adapter, tuned)
        adapter.detach()
        self.as_it_was()
        peftcore.load(self.model, folder)
        assert torch.equal(out(self.model, self.x), tuned), f"{self.what}: loaded"
        peftcore.detach(self.model)
        self.as_it_was()
        return True

    def as_it_was(self) -> None:
        assert not peftcore.adapters(self.model)
        before, after = self.untouched.state_dict(), self.model.state_dict()
        assert list(before) == list(after), self.what
        assert all(torch.equal(after[n], t) for n, t in before.items()), self.what
        assert torch.equal(out(self.model, self.x), self.bare), f"{self.what}: detached"

    def gradients(self, adapter: peftcore.Adapter) -> bool:
        """Check that all that is trained, and nothing else, gets a gradient, or is told of."""
        trained = {id(p) for p in adapter.parameters()}
        try:
            loss = self.model(self.x).square().sum()
            adapter.check_alive(loss)
            loss.backward()
            adapter.check_alive()
        except PeftcoreError as error:
            self.refused.append(str(error))
            return False
        finally:
            got = [n for n, p in self.model.named_parameters() if p.grad is not None]
            others = {n for n, p in self.model.named_parameters() if id(p) not in trained}
            for parameter in self.model.parameters():
                parameter.grad = None
        assert not others & set(got), f"{self.what}: gradient of {others & set(got)}"
        return True

    def by_row(self, tuned: Tensor) -> None:
        """Check a batch whose rows have the adapter, none, and the adapter."""
        try:
            with peftcore.route(self.model, ["default", None, "default"]):
                mixed = out(self.model, self.x)
        except PeftcoreError as error:
            self.refused.append(str(error))
            return
        for row, wanted in enumerate((tuned, self.bare, tuned)):
            near(mixed[row], wanted[row], f"{self.what}: row {row}")

    def merged(self, adapter: peftcore.Adapter, tuned: Tensor) -> None:
        try:
            adapter.merge()
        except PeftcoreError as error:
            self.refused.append(str(error))
        else:
            near(out(self.model, self.x), tuned, f"{self.what}: merged")
            adapter.unmerge()
        assert torch.equal(out(self.model, self.x), tuned), f"{self.what}: after merging"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ZOO)
def test_a_method_is_right_on_a_model_or_refused(kind: str, tmp_path: Path) -> None:
    runs = 0
    for method in METHODS:
        laws = Laws(method, kind)
        runs += laws.hold(tmp_path / method)
        print(f"{laws.what}: {' | '.join(laws.refused) or 'right'}")  # shown with pytest -s
        assert all(sentence.strip() for sentence in laws.refused)
    # a kind of model that all methods refuse would be tested by nothing
    assert runs >= (0 if kind == "shared" else 5), f"only {runs} methods run on {kind}"
