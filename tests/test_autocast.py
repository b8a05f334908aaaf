"""Pieces are fp32 on a base of any dtype: what they may leave to the core, kind by kind."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    Around,
    Context,
    Delta,
    Method,
    MethodConfig,
    MethodSpec,
    Piece,
    Reparam,
    Site,
    Transform,
    hookimpl,
    installed,
)

WIDTH = 6
LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, WIDTH))


class Beside(Delta):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    @classmethod
    def batched(cls, pieces: Any, index: Tensor) -> Callable[[Tensor], Tensor]:
        out = torch.stack([torch.stack([p.net[2].weight for p in pieces])[i] for i in index])
        down = torch.stack([torch.stack([p.net[0].weight for p in pieces])[i] for i in index])
        bias = torch.stack([torch.stack([p.net[0].bias for p in pieces])[i] for i in index])
        last = torch.stack([torch.stack([p.net[2].bias for p in pieces])[i] for i in index])

        def serve(x: Tensor) -> Tensor:
            hidden = torch.tanh(torch.bmm(x, down.mT) + bias[:, None])
            return torch.bmm(hidden, out.mT) + last[:, None]

        return serve


class Edit(Transform):
    def __init__(self, where: str = "output") -> None:
        super().__init__()
        self.where = where
        self.net = net()

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        return hidden + self.net(hidden)  # type: ignore[no-any-return]

    @classmethod
    def batched(cls, pieces: Any, index: Tensor) -> Callable[[Tensor, Context], Tensor]:
        serve = Beside.batched(pieces, index)
        return lambda hidden, context: hidden + serve(hidden)


class Turn(Reparam):
    """W' = R W and b' = R b, with a full matrix R."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Parameter(torch.eye(WIDTH) + 0.1 * torch.randn(WIDTH, WIDTH))

    def forward(self, weight: Tensor) -> Tensor:
        return self.turn @ weight

    def new_bias(self, bias: Tensor) -> Tensor:
        return self.turn @ bias


class FastTurn(Turn):
    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None
    ) -> Tensor:
        return call(x) @ self.turn.to(x.dtype).T


class Wrap(Around):
    """Edits what the module gets and what it gives, with vectors that would promote both."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()
        self.before = nn.Parameter(torch.full((WIDTH,), 0.01))
        self.after = nn.Parameter(torch.full((WIDTH,), 1.5))

    def forward(self, call: Callable[..., Any], x: Tensor) -> Tensor:
        out = call(x + self.before if x.is_floating_point() else x)
        return self.after * (out + self.net(out))


class Watch(Around):
    """Computes something of its own and leaves the module alone."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, call: Callable[..., Any], x: Tensor) -> Any:
        self.net(x)
        out = call(x)
        self.net(x)
        return out


KINDS: dict[str, Callable[[], Piece]] = {
    "delta": Beside,
    "input": lambda: Edit("input"),
    "output": Edit,
    "reparam": Turn,
    "through": FastTurn,
    "around": Wrap,
    "watch": Watch,
}


class KindsConfig(MethodConfig):
    kinds: tuple[str, ...]
    path: str = "0"


class Kinds(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> dict[str, Piece] | None:
        if site.path != self.config.path:
            return None
        return {kind: KINDS[kind]() for kind in self.config.kinds}


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    spec = MethodSpec("kinds", "Every kind.", f"{__name__}:KindsConfig", f"{__name__}:Kinds")
    with installed().with_plugin(spec, "autocast"):
        yield


def base(dtype: torch.dtype = torch.float32) -> tuple[nn.Sequential, Tensor]:
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)).to(dtype)
    return model, torch.randn(3, 5, WIDTH).to(dtype)


@pytest.mark.filterwarnings("ignore:.* got no gradient in the first backward pass")
@LOW
@pytest.mark.parametrize("kinds", [*([kind] for kind in KINDS), [*KINDS]], ids="+".join)
def test_fp32_pieces_run_on_a_low_base_and_are_trained_in_fp32(
    kinds: list[str], dtype: torch.dtype
) -> None:
    model, x = base(dtype)
    adapter = peftcore.attach(model, "kinds", kinds=kinds)
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    out = model[0](x)
    assert out.dtype == dtype
    twin = copy.deepcopy(model).float()
    torch.testing.assert_close(out.float(), twin[0](x.float()), atol=0.05, rtol=0.05)
    if kinds == ["watch"]:
        return  # what it computes changes nothing
    model(x).float().pow(2).mean().backward()
    for item in adapter.placed:
        grads = [p.grad for p in item.piece.parameters()]
        watches = isinstance(item.piece, Watch)
        assert all(g is None if watches else g.dtype == torch.float32 for g in grads)  # type: ignore


class Island(nn.Module):
    """A bf16 module with an fp32 part, which says under what it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Linear(WIDTH, WIDTH, dtype=torch.bfloat16)
        self.wide = nn.Linear(WIDTH, WIDTH)
        self.ran: list[tuple[bool, torch.dtype, torch.dtype]] = []

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), x.dtype
        self.ran.append(state)
        out = self.wide(self.narrow(x).float())
        return out.to(x.dtype), out


class Model(nn.Module):
    """Blocks one after the other; a block's first result goes on."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Any:
        return self.blocks[0](x)


@pytest.mark.parametrize("outer", [None, torch.bfloat16, torch.float16], ids=str)
def test_a_module_inside_an_around_runs_exactly_as_without(outer: torch.dtype | None) -> None:
    model = Model(Island())
    x = torch.randn(2, 5, WIDTH).bfloat16()

    def run() -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", outer, enabled=outer is not None):
            return model(x)  # type: ignore[no-any-return]

    bare = run()
    peftcore.attach(model, "kinds", kinds=["watch"], path="blocks.0")
    with_piece = run()
    assert model.blocks[0].ran[0] == model.blocks[0].ran[1]  # type: ignore[index]
    for one, other in zip(bare, with_piece, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def test_around_pieces_within_each_other_each_run_under_autocast() -> None:
    model = Model(Island())
    x = torch.randn(2, 5, WIDTH).bfloat16()
    bare = model(x)
    peftcore.attach(model, "kinds", kinds=["watch"], path="blocks.0")
    peftcore.attach(model, "kinds", kinds=["watch"], path="blocks.0", name="other")
    peftcore.activate(model, "default", "other")
    assert torch.equal(model(x)[0], bare[0])
    assert len(set(model.blocks[0].ran)) == 1  # type: ignore[index]


@LOW
def test_what_an_around_gives_first_has_the_dtype_that_the_module_gives(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.linear(x), x.float()

    class Promote(Around):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.ones(WIDTH))

        def forward(self, call: Callable[..., Any], x: Tensor) -> Any:
            first, *rest = call(x * self.factor)
            return self.factor * first, *rest

    model = Model(Pair()).to(dtype)
    x = torch.randn(2, WIDTH).to(dtype)
    bare = model(x)
    monkeypatch.setitem(KINDS, "promote", Promote)
    peftcore.attach(model, "kinds", kinds=["promote"], path="blocks.0")
    out = model(x)
    assert [t.dtype for t in out] == [t.dtype for t in bare] == [dtype, torch.float32]
    assert torch.equal(out[0], bare[0])


@pytest.mark.filterwarnings("ignore:.* got no gradient in the first backward pass")
@LOW
def test_an_around_of_a_module_that_takes_numbers_runs_in_the_dtype_of_its_table(
    dtype: torch.dtype,
) -> None:
    model = nn.Sequential(nn.Embedding(9, WIDTH)).to(dtype)
    adapter = peftcore.attach(model, "kinds", kinds=["around"])
    out = model(torch.tensor([[1, 2, 3]]))
    assert out.dtype == dtype
    out.float().sum().backward()
    reached = {name for name, p in adapter.named_parameters() if p.grad is not None}
    assert all(name.endswith("before") or name in reached for name, _ in adapter.named_parameters())


@LOW
def test_a_bias_is_changed_in_the_dtype_of_the_piece_and_given_back_in_its_own(
    dtype: torch.dtype,
) -> None:
    model, x = base(dtype)
    for kinds in (["reparam"], ["through", "reparam"]):
        adapter = peftcore.attach(model, "kinds", kinds=kinds)
        tuned = model[0](x)
        adapter.merge()
        torch.testing.assert_close(model[0](x), tuned, atol=0.05, rtol=0.05)
        assert model[0].bias.dtype == dtype
        adapter.detach()


@LOW
@pytest.mark.parametrize("kind", ["delta", "output"])
def test_what_serves_rows_may_leave_dtypes_to_the_core_too(kind: str, dtype: torch.dtype) -> None:
    model, x = base(dtype)
    single: dict[str, Tensor] = {}
    for name in ("a", "b"):
        peftcore.attach(model, "kinds", kinds=[kind], name=name)
        single[name] = model(x)
    with peftcore.route(model, ["b", "a", "b"]):
        mixed = model(x)
    assert mixed.dtype == dtype
    for row, name in enumerate("bab"):
        torch.testing.assert_close(mixed[row], single[name][row], atol=0.02, rtol=0.02)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "through"])
def test_casts_compile_into_one_graph(kind: str) -> None:
    model, x = base(torch.bfloat16)
    peftcore.attach(model, "kinds", kinds=[kind])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x), atol=0.02, rtol=0.02)
