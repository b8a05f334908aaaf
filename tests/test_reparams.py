"""Reparametrisations: of weight and bias, and the way through the call that makes no weight."""

import copy
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import peftcore
from peftcore import Layer, LayerInfo, LayerSpec, Reparam, Site, installed
from peftcore.adapter.changes import Undo, folds
from peftcore.errors import MergeError, PeftcoreError
from peftcore.method.placed import Placed
from peftcore.model.backbones import Structural
from peftcore.model.layers import info_of
from peftcore.model.survey import survey
from peftcore.run.holder import ContextHolder
from peftcore.run.program import Program
from peftcore.testing.matrix import perturb


class Plain(Reparam):
    """W' = w ⊙ W R, b' = w ⊙ b, by making the weight."""

    def __init__(self, out: int, width: int):
        super().__init__()
        self.gain = nn.Parameter(1 + 0.3 * torch.randn(out))
        self.mix = nn.Parameter(0.3 * torch.randn(width, width))

    def forward(self, weight: Tensor) -> Tensor:
        return self.gain[:, None] * weight @ self.mix

    def new_bias(self, bias: Tensor) -> Tensor:
        return self.gain * bias


class Fast(Plain):
    """The same, through the call."""

    prepares = 0

    def precompute(self, weight: Callable[[], Tensor]) -> Tensor:
        self.prepares += 1
        return self.mix * 1

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Tensor, bias: Tensor | None
    ) -> Tensor:
        return call(x @ precomputed.T) * self.gain


def program(module: nn.Module, *pieces: tuple[Reparam, tuple[int, int] | None]) -> Program:
    info = info_of(module)
    placed = [
        Placed(Site("0", "linear", module, info, features=rows), "kit", str(i), piece)
        for i, (piece, rows) in enumerate(pieces)
    ]
    return Program(module, placed, ContextHolder(Structural()))


def run(module: nn.Module, made: Program, x: Tensor) -> Tensor:
    return made.run(module, type(module).forward, (x,), {})  # type: ignore[no-any-return]


CASES = {
    "whole": [None],
    "chained": [None, None],
    "slices": [(0, 2), (4, 6)],
    "chained slices": [(4, 6), (0, 4), (4, 6)],
    "overlapping": [(0, 4), (2, 6)],
    "slice of a changed whole": [None, (2, 4)],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", CASES.values(), ids=CASES)
def test_through_is_the_same_as_making_the_weight(rows: list[Any], bias: bool) -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(4, 6, bias=bias), torch.randn(3, 5, 4, requires_grad=True)
    fast = [(Fast(6 if r is None else r[1] - r[0], 4), r) for r in rows]
    slow = []
    for piece, r in fast:
        twin = Plain(len(piece.gain), 4)
        twin.load_state_dict(piece.state_dict())
        slow.append((twin, r))
    results = []
    for pieces in (fast, slow):
        out = run(module, program(module, *pieces), x)
        inputs = [x, *(p for piece, _ in pieces for p in piece.parameters())]
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_weight_and_bias_are_merged_and_given_back_exactly() -> None:
    torch.manual_seed(0)
    module, x = nn.Linear(4, 6), torch.randn(3, 4)
    for rows in CASES.values():
        made = program(module, *((Fast(6 if r is None else r[1] - r[0], 4), r) for r in rows))
        tuned = run(module, made, x)
        items = [
            Placed(Site("0", "linear", module, info_of(module), features=r), "kit", "", p)
            for p, r in made.reparams
        ]
        before = [p.clone() for p in module.parameters()]
        adapter: Any = SimpleNamespace(swaps=[], placed=items)
        undo = [Undo(change) for change in folds(adapter, {})]
        torch.testing.assert_close(module(x), tuned, atol=1e-5, rtol=1e-5)
        for entry in reversed(undo):
            entry.check()
            entry()
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), before, strict=True))


def test_disjoint_slices_run_the_base_once_where_the_input_is_theirs() -> None:
    calls = []

    class Counting(Fast):
        def through(self, call: Any, x: Tensor, precomputed: Any, bias: Any) -> Tensor:
            return call(x) * self.gain

    module, x = nn.Linear(4, 6), torch.randn(2, 4)
    made = program(module, (Counting(2, 4), (0, 2)), (Counting(2, 4), (4, 6)))

    def base(module: nn.Module, y: Tensor) -> Tensor:
        calls.append(y)
        return F.linear(y, module.weight, module.bias)  # type: ignore[arg-type]

    made.run(module, base, (x,), {})
    assert len(calls) == 1


def test_what_is_prepared_is_kept_in_evaluation_until_something_changes() -> None:
    module, x = nn.Linear(4, 6).eval(), torch.randn(2, 4)
    piece = Fast(6, 4).eval()
    made = program(module, (piece, None))

    def prepared() -> int:
        before = piece.prepares
        run(module, made, x)
        return piece.prepares - before

    assert prepared() == prepared() == 1  # with gradients
    with torch.no_grad():
        assert (prepared(), prepared()) == (1, 0)
        piece.mix.add_(1)
        assert (prepared(), prepared()) == (1, 0)
        module.weight.mul_(2)
        assert (prepared(), prepared()) == (1, 0)
        piece.mix.data = piece.mix.data.clone()
        assert (prepared(), prepared()) == (1, 0)
        piece.mix.data.add_(1)
        piece.eval()
        assert (prepared(), prepared()) == (1, 0)
        assert "_kept" in vars(piece) and "_kept" not in vars(copy.deepcopy(piece))
        piece.train()
        assert prepared() == prepared() == 1


def test_other_parameters_put_in_for_a_while_are_seen() -> None:
    """Tensors of functional calls come and go at the same addresses."""
    module = nn.Linear(4, 6).eval()
    piece, x = Fast(6, 4).eval(), torch.randn(2, 4)
    made = program(module, (piece, None))
    own = dict(piece._parameters)
    with torch.no_grad():
        for factor in range(5):
            piece._parameters["mix"] = own["mix"] * factor  # type: ignore[assignment]
            expected = (x @ (own["mix"] * factor).T) @ module.weight.T + module.bias
            torch.testing.assert_close(run(module, made, x), expected * piece.gain)


def test_the_bias_is_changed_where_the_model_reads_it_directly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    nn.init.normal_(model.in_proj_bias)
    sites = {s.role: s for s in survey(model, Structural()).sites if s.features or s.direct}
    from peftcore.run.rewriting import put, rewrite
    from peftcore.run.seat import seat_of

    for role in ("attention.value", "attention.output"):
        site = sites[role]
        holder = ContextHolder(Structural())
        seat = rewrite(site.module, holder, [site.weight_name, site.bias_name])
        put(site.module, "a", item := Placed(site, "kit", "", Plain(4, 4)))
        seat.program = Program(site.module, [item], holder)
    tuned = model(x, x, x)[0]
    for module in (model, model.out_proj):
        seat = seat_of(module)
        items = [i for group in seat.placed.values() for i in group]
        seat.program = None
        adapter: Any = SimpleNamespace(swaps=[], placed=items)
        assert [Undo(change) for change in folds(adapter, {})]
    torch.testing.assert_close(model(x, x, x)[0], tuned)


def test_a_site_gives_its_own_part_of_the_weight() -> None:
    model = nn.MultiheadAttention(4, 2)
    sites = {s.role: s for s in survey(model, Structural()).sites}
    torch.testing.assert_close(sites["attention.key"].weight(), model.in_proj_weight[4:8])
    assert not sites["attention.key"].weight().requires_grad


class Louder(Reparam):
    """W' = 2 W, b' = 3 b."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight

    def new_bias(self, bias: Tensor) -> Tensor:
        return 3 * bias


@pytest.mark.parametrize("make", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_the_bias_of_a_convolution_is_changed_channel_by_channel(make: type[nn.Module]) -> None:
    layer = make(2, 5, 3)  # type: ignore[call-arg]
    x = torch.randn(2, 2, *[5] * (layer.weight.dim() - 2))
    expected = make(2, 5, 3)  # type: ignore[call-arg]
    with torch.no_grad():
        expected.weight.copy_(2 * layer.weight)
        expected.bias.copy_(3 * layer.bias)
    out = program(layer, (Louder(), None)).run(layer, make.forward, (x,), {})  # type: ignore
    torch.testing.assert_close(out, expected(x))


class Padded(nn.Conv2d):
    """A convolution that pads its input by itself, as TensorFlow does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Scaled(nn.Linear):
    """A linear layer that does more than its handler knows."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) + 1


class Spelled(nn.Linear):
    """A linear layer that does no more, which only a handler can tell."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class SpelledHandler(Layer):
    def info(self, module: nn.Module) -> LayerInfo:
        out, in_ = self.weight(module).shape
        return LayerInfo("linear", in_, out, True, weight_shape=(out, in_))

    def call(self, module: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
        return F.linear(x, weight, module._parameters["bias"])


def test_a_layer_with_a_forward_of_its_own_keeps_its_weight_unless_a_handler_knows_it() -> None:
    model, x = nn.Sequential(Scaled(8, 8)), torch.randn(5, 8)
    bare = model(x)
    for method in ("oft", "sparse", "svdiff"):  # with a way through the layer, and without
        with pytest.raises(PeftcoreError, match=r"a Scaled.*(computes|does) more than"):
            peftcore.attach(model, method, targets=["linear"])
    adapter = peftcore.attach(model, "lora", rank=2, targets=["linear"])
    perturb(adapter)
    tuned = model(x)
    with pytest.raises(MergeError, match="0 cannot be merged: a Scaled computes more than the lay"):
        adapter.merge()
    assert torch.equal(model(x), tuned) and not torch.equal(tuned, bare)


def test_a_handler_of_its_type_lets_a_subclass_be_merged_and_given_another_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = SimpleNamespace(SpelledHandler=SpelledHandler)
    monkeypatch.setitem(sys.modules, "handlers", handlers)  # type: ignore[arg-type]
    model, x = nn.Sequential(Spelled(8, 8)), torch.randn(5, 8)
    spec = LayerSpec(f"{Spelled.__module__}:Spelled", "handlers:SpelledHandler")
    with installed().with_plugin(spec):
        for method, config in (("lora", {"rank": 2}), ("svdiff", {}), ("oft", {})):
            adapter = peftcore.attach(model, method, targets=["linear"], **config)
            perturb(adapter)
            tuned = model(x)
            adapter.merge()
            torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)
            adapter.detach()


def test_another_weight_is_refused_where_a_subclass_computes_more_than_its_layer() -> None:
    from peftcore.adapter.offer import _Checks
    from peftcore.errors import AttachError
    from peftcore.method.method import Method

    model = nn.Sequential(Padded(1, 2, 2), nn.Conv2d(2, 2, 2))
    found = survey(model, Structural())
    padded, plain = (s for s in found.sites if s.role == "conv")
    method = Method(None)  # type: ignore[arg-type]
    method.name = "louder"
    check = _Checks(found)
    check(plain, method, Louder())
    with pytest.raises(AttachError, match="at 0: a Padded computes more than the layer"):
        check(padded, method, Louder())
