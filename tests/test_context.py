"""What pieces know of a call, and what they keep of it."""

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    Placed,
    PluginError,
    Reparam,
    Site,
    Transform,
    hookimpl,
    installed,
)
from peftcore.testing import loss_of, run, same, tiny

seen: list[Context | None] = []


class Sees(Delta):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((site.layer.out_features,), 0.1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        seen.append(context)
        assert context.prompt is not None
        return self.shift * context.prompt[..., None].to(x.dtype)


class SeesWeight(Reparam):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.1))

    def forward(self, weight: Tensor, context: Context) -> Tensor:
        seen.append(context)
        return weight * self.factor


class SeesThrough(Reparam):
    """The same by a faster way."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.1))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor

    def through(
        self, call: Callable[[Tensor], Tensor], x: Tensor, precomputed: Any, bias: Tensor | None,
        context: Context,
    ) -> Tensor:  # fmt: skip
        seen.append(context)
        out = call(x)
        linear = out if bias is None else out - bias
        return out + (self.factor - 1) * linear


class SeesAround(Around):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.9))

    def forward(self, call: Callable[..., Any], *args: Any, context: Context, **kwargs: Any) -> Any:
        seen.append(context)
        return self.factor * call(*args, **kwargs)


class Keeps(Delta):
    """Keeps what it adds at each token."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.full((site.layer.out_features,), 0.1))

    def forward(self, x: Tensor, context: Context) -> Tensor:
        added = self.shift + 0 * x[..., :1]
        context.keep(self, added)
        return added


class Reads(Transform):
    """Adds what another piece of the call kept."""

    def __init__(self, other: Piece) -> None:
        super().__init__()
        self.other = (other,)
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        (kept,) = context.kept(self.other[0])
        return hidden + self.factor * kept.mean()


class Plain(Delta):
    def __init__(self, site: Site) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(site.layer.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return self.shift.expand(*x.shape[:-1], -1)


class SeesConfig(MethodConfig):
    kind: str = "Keeps"
    path: str = "blocks.0.up"
    penalty: float = 1.0


class SeesMethod(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        if self.config.kind == "Reads":
            if site.path == "blocks.0.up":
                self.keeper = Keeps(site)
                return self.keeper
            return Reads(self.keeper) if site.path == "blocks.1" else None
        if self.config.kind == "nested":
            if site.path == "blocks.0":
                return SeesAround(site)
            return Plain(site) if site.path in ("lin", "blocks.0.0") else None
        kinds = {c.__name__: c for c in (Sees, SeesWeight, SeesThrough, SeesAround, Keeps)}
        return kinds[self.config.kind](site) if site.path == self.config.path else None

    @hookimpl
    def peftcore_extra_loss(
        self, placed: Sequence[Placed], kept: Mapping[Piece, Sequence[Any]]
    ) -> Tensor | None:
        assert set(kept) <= {item.piece for item in placed}
        parts = [value.sum() for values in kept.values() for value in values]
        return self.config.penalty * torch.stack(parts).sum() if parts else None


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    spec = MethodSpec("sees", "Sees.", f"{__name__}:SeesConfig", f"{__name__}:SeesMethod")
    with installed().with_plugin(spec, "context"):
        seen.clear()
        yield


def test_a_need_that_is_not_known_is_the_plugins_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sees, "needs", ("mosk",))
    _, model, _ = tiny("toy")
    with pytest.raises(PluginError, match=r"its Sees needs 'mosk', .* Did you mean mask\?"):
        peftcore.attach(model, "sees", kind="Sees")


@pytest.mark.parametrize("kind", ["Sees", "SeesWeight", "SeesThrough", "SeesAround"])
def test_a_piece_that_names_the_context_gets_that_of_the_call(kind: str) -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "sees", kind=kind)
    piece = adapter.placed[0].piece
    assert adapter.uses_context and adapter.placed[0].piece.is_change() == (
        kind[4:7] in ("Wei", "Thr")
    )
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    context = seen[-1]
    assert context is not None and context.mask is not None
    assert torch.equal(context.mask, batch["attention_mask"].bool())
    assert isinstance(piece, Piece) and len(seen) == 1


def test_a_delta_acts_on_the_prompt_alone() -> None:
    _, model, batch = tiny("toy")
    peftcore.attach(model, "sees", kind="Sees")
    up = model.blocks[0].up  # type: ignore[union-attr, index]
    given: list[Tensor] = []
    handle = up.register_forward_hook(lambda m, a, out: given.append(out))
    lengths = torch.tensor([2, 1])
    with peftcore.prompt(model, lengths):
        model(**batch)
    with peftcore.disabled(model):
        model(**batch)
    handle.remove()
    column = torch.arange(9) < lengths[:, None]
    torch.testing.assert_close(given[0] - given[1], (0.1 * column)[..., None].expand(-1, -1, 32))


@pytest.mark.parametrize("kind", ["SeesWeight", "SeesThrough"])
def test_a_reparametrisation_that_sees_the_context_is_merged_without_one(kind: str) -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "sees", kind=kind)
    tuned = run(model, batch)
    adapter.merge()
    torch.testing.assert_close(run(model, batch), tuned, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    assert same(run(model, batch), tuned)


def test_what_is_kept_reaches_the_loss_with_its_gradient_and_is_dropped() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "sees")
    (shift,) = adapter.parameters()
    model(**batch)
    model(**batch)  # what the first call kept is dropped with the second
    loss = adapter.extra_loss()
    assert isinstance(loss, Tensor)
    torch.testing.assert_close(loss, 2 * 9 * shift.sum())
    loss.backward()
    torch.testing.assert_close(shift.grad, torch.full_like(shift, 2 * 9))
    assert adapter.extra_loss() == 0.0


def test_each_of_two_active_adapters_is_given_what_its_own_pieces_kept() -> None:
    _, model, batch = tiny("toy")
    methods = [{"method": "sees", "penalty": weight} for weight in (1.0, 10.0)]
    adapters = [peftcore.attach(model, methods, name=name) for name in ("a", "b")]
    peftcore.activate(model, "a", "b")
    model(**batch)
    for adapter in adapters:
        torch.testing.assert_close(adapter.extra_loss(), torch.tensor(11 * 2 * 9 * 32 * 0.1))


def test_what_is_kept_is_neither_copied_nor_pickled() -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "sees")
    model(**batch)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    assert isinstance(adapter.extra_loss(), Tensor)
    for twin in twins:
        own = peftcore.adapters(twin)["default"]
        assert own.extra_loss() == 0.0
        twin(**batch)
        assert isinstance(own.extra_loss(), Tensor)


@pytest.mark.parametrize("routed", [False, True])
def test_a_piece_reads_what_another_one_kept_in_the_same_call(routed: bool) -> None:
    _, model, batch = tiny("toy")
    adapter = peftcore.attach(model, "sees", kind="Reads")
    tuned = run(model, batch)
    if routed:
        with peftcore.route(model, ["default", "default"]):
            torch.testing.assert_close(run(model, batch), tuned)
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    twin = copy.deepcopy(model)
    assert same(run(twin, batch), run(model, batch))


class Nested(nn.Module):
    """A layer before a block, so that rows are split twice."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4))])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](self.lin(x))  # type: ignore[no-any-return]


def test_rows_that_are_split_at_a_layer_are_split_anew_at_the_block_after_it() -> None:
    model, x = Nested(), torch.randn(4, 4)
    single: dict[str | None, Tensor] = {None: model(x)}
    for name in ("a", "b"):
        peftcore.attach(model, "sees", kind="nested", name=name)
        single[name] = model(x)
    names = ["a", None, "b", "a"]
    with peftcore.route(model, names):
        mixed = model(x)
    for row, name in enumerate(names):
        torch.testing.assert_close(mixed[row], single[name][row])
