"""What pieces of one adapter may share and refer to, and in which order they are made and run."""

import copy
import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    Around,
    Context,
    Delta,
    LowRankDelta,
    Method,
    MethodConfig,
    MethodSpec,
    Piece,
    Placed,
    Reparam,
    Site,
    Transform,
    hookimpl,
    installed,
)
from peftcore.testing import loss_of, perturb, run, same, tiny

offered: list[tuple[str, str]] = []
ran: list[str] = []
started: list[str] = []


class Shift(Delta):
    """A vector that all layers of a width share, and a strength of each layer."""

    offset: Tensor

    def __init__(self, vector: nn.Parameter, scale: nn.Module, path: str):
        super().__init__()
        self.path = path
        self.vector = vector
        self.scale = scale
        self.strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("offset", torch.full((len(vector),), 0.25), persistent=False)

    def start(self, weight: Any) -> None:
        started.append(self.path)
        self.strength.fill_(weight().std())

    def forward(self, x: Tensor) -> Tensor:
        return self.bias_delta().expand(*x.shape[:-1], -1)

    def bias_delta(self) -> Tensor:
        return self.strength * self.scale.factor * self.vector + self.offset  # type: ignore


class Factor(nn.Module):
    """A frozen factor that follows from the configuration, and is not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(2.0), persistent=False)


class Entering(Transform):
    where = "input"

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        ran.append("entering")
        context.keep(self, hidden)
        return hidden


class Leaving(Transform):
    def __init__(self, entering: Entering):
        super().__init__()
        self.entering = (entering,)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        ran.append("leaving")
        return hidden + self.share * context.kept(self.entering[0])[-1]


class Noted(Piece):
    name = ""


class NotedAround(Noted, Around):
    def forward(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        ran.append(f"{self.name} around")
        return call(*args, **kwargs)


class NotedReparam(Noted, Reparam):
    def forward(self, weight: Tensor) -> Tensor:
        ran.append(f"{self.name} weight")
        return weight


class NotedDelta(Noted, Delta):
    def forward(self, x: Tensor) -> Tensor:
        ran.append(f"{self.name} beside")
        return x.new_zeros(())


class NotedTransform(Noted, Transform):
    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        ran.append(f"{self.name} {self.where}")
        return hidden


class NotedInput(NotedTransform):
    where = "input"


class PiecesConfig(MethodConfig):
    kind: str
    name: str = ""


class PiecesMethod(Method):
    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self.steps: list[int] = []

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        offered.append((site.path, site.role))
        return getattr(self, f"_{self.config.kind}")(site)

    def _shifts(self, site: Site) -> Piece | None:
        if site.role not in ("attention.query", "attention.value"):
            return None
        width = site.layer.out_features
        vector = self.shared(("vector", width), lambda: nn.Parameter(torch.ones(width)))
        return Shift(vector, self.shared("factor", Factor), site.path)

    def _bridge(self, site: Site) -> Mapping[str, Piece] | None:
        if site.role != "block":
            return None
        entering = Entering()
        return {"entering": entering, "leaving": Leaving(entering)}

    def _order(self, site: Site) -> Mapping[str, Piece] | None:
        if site.path != "blocks.0.up":
            return None
        kinds = (NotedTransform, NotedDelta, NotedReparam, NotedInput, NotedAround)
        made: dict[str, Noted] = {}
        for part in ("1", "2"):
            for kind in kinds:
                made[f"{kind.__name__}{part}"] = kind()
                made[f"{kind.__name__}{part}"].name = f"{self.config.name}{part}"
        return made

    @hookimpl
    def peftcore_after_step(self, placed: Sequence[Placed], step: int) -> None:
        self.steps.append(step)


@pytest.fixture(autouse=True)
def _plugin() -> Iterator[None]:
    spec = MethodSpec("pieces", "Pieces.", f"{__name__}:PiecesConfig", f"{__name__}:PiecesMethod")
    with installed().with_plugin(spec, name="pieces"):
        offered.clear(), ran.clear(), started.clear()
        yield


def attached(kind: str, **options: Any) -> tuple[nn.Module, dict[str, Any], peftcore.Adapter]:
    _, model, batch = tiny("toy")
    return model, batch, peftcore.attach(model, "pieces", kind=kind, **options)


# --- what is shared ----------------------------------------------------------------------------


def test_a_shared_parameter_is_counted_trained_and_stored_once(tmp_path: Path) -> None:
    model, batch, adapter = attached("shifts")
    assert adapter.plan.trainable == 16 + 4 and len(adapter.parameters()) == 5
    assert len({id(item.piece.vector) for item in adapter.placed}) == 1
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    perturb(adapter)
    tuned = run(model, batch)
    adapter.save(tmp_path / "shifts")
    stored = list(peftcore.inspect(tmp_path / "shifts")["tensors"])
    assert [n for n in stored if n.endswith("vector")] == [f"{adapter.placed[0].name}.vector"]
    assert len(stored) == 5
    adapter.detach()
    loaded = peftcore.load(model, tmp_path / "shifts")
    assert same(run(model, batch), tuned)
    assert len({id(item.piece.vector) for item in loaded.placed}) == 1


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "double"])
def test_what_is_shared_stays_shared(how: str) -> None:
    model, _, adapter = attached("shifts")
    if how == "double":
        model.double()
        twin = adapter
    else:
        other = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
        twin = peftcore.adapters(other)["default"]
        assert twin.placed[0].piece.vector is not adapter.placed[0].piece.vector
    for thing in ("vector", "scale"):
        assert len({id(getattr(item.piece, thing)) for item in twin.placed}) == 1
    expected = torch.float64 if how == "double" else torch.float32
    assert {item.piece.scale.factor.dtype for item in twin.placed} == {expected}


def test_two_adapters_share_nothing() -> None:
    model, _, one = attached("shifts")
    two = peftcore.attach(model, "pieces", kind="shifts", name="two")
    assert one.placed[0].piece.vector is not two.placed[0].piece.vector
    assert one.placed[0].piece.scale is not two.placed[0].piece.scale


def test_a_buffer_that_is_not_persistent_moves_and_acts_and_is_not_stored(tmp_path: Path) -> None:
    model, batch, adapter = attached("shifts")
    adapter.save(tmp_path / "shifts")
    stored = {n.rpartition(".")[2] for n in peftcore.inspect(tmp_path / "shifts")["tensors"]}
    assert stored == {"vector", "strength"}
    piece: Any = adapter.placed[0].piece
    tuned = run(model, batch)
    piece.offset.zero_()
    assert not same(run(model, batch), tuned)
    model.double()
    assert piece.offset.dtype == torch.float64
    model.float()
    adapter.detach()
    again = peftcore.load(model, tmp_path / "shifts")
    assert again.placed[0].piece.offset[0] == 0.25 and same(run(model, batch), tuned)


def test_pieces_are_started_for_a_new_adapter_alone(tmp_path: Path) -> None:
    model, _, adapter = attached("shifts")
    paths = [item.site.path for item in adapter.placed]
    assert started == paths
    for item in adapter.placed:
        torch.testing.assert_close(item.piece.strength.detach(), item.site.weight().std())
    adapter.save(tmp_path / "shifts")
    peftcore.plan(model, "pieces", kind="shifts")
    adapter.detach()
    peftcore.load(model, tmp_path / "shifts")
    assert started == paths, "a plan and a load start nothing"


# --- what refers to what -----------------------------------------------------------------------


def test_a_piece_that_refers_to_another_does_not_hold_it() -> None:
    model, batch, adapter = attached("bridge")
    names = [name for name, _ in adapter.named_parameters()]
    assert names == [f"blocks.{i}.pieces.leaving.share" for i in range(2)]
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.fill_(0.5)
    tuned = run(model, batch)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        entering, leaving, *_ = (i.piece for i in peftcore.adapters(twin)["default"].placed)
        assert leaving.entering[0] is entering and same(run(twin, batch), tuned)
    loss_of(model(**batch)).backward()
    adapter.check_alive()


# --- the order ---------------------------------------------------------------------------------


def test_sites_are_offered_in_model_order_a_module_before_what_is_inside_it() -> None:
    model, _, _ = attached("bridge")
    order = [path for path, _ in offered]
    modules = [path for path, _ in model.named_modules()]
    known = [modules.index(path) for path in order]
    assert known == sorted(known)
    assert order.index("blocks.0") < order.index("blocks.0.attention") < order.index("blocks.1")
    assert order.index("blocks.0.attention") < order.index("blocks.0.attention.query")


def test_a_fused_layer_is_offered_before_its_slices() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1)
    with pytest.raises(peftcore.TargetError, match="found nothing to do"):
        peftcore.attach(encoder, "pieces", kind="order")
    roles = [role for path, role in offered if path == "layers.0.self_attn"]
    parts = ["attention.query", "attention.key", "attention.value"]
    assert [r for r in roles if r != "attention"] == ["attention.qkv", *parts]


def test_pieces_run_by_kind_then_by_method_then_by_name() -> None:
    _, model, batch = tiny("toy")
    methods = [{"method": "pieces", "kind": "order", "name": name} for name in ("a", "b")]
    peftcore.attach(model, methods)
    ran.clear()
    run(model, batch)
    each = ("a1", "a2", "b1", "b2")
    kinds = ("around", "input", "weight", "beside", "output")
    assert ran == [f"{name} {kind}" for kind in kinds for name in each]


def test_the_pieces_of_an_adapter_that_is_named_first_run_first() -> None:
    _, model, batch = tiny("toy")
    for name in ("a", "b"):
        peftcore.attach(model, "pieces", kind="order", name=name)
        for item in peftcore.adapters(model)[name].placed:
            piece: Any = item.piece
            piece.name = name
    peftcore.activate(model, "b", "a")
    ran.clear()
    run(model, batch)
    assert ran[:4] == ["b around", "b around", "a around", "a around"]


# --- the method --------------------------------------------------------------------------------


def test_what_a_method_keeps_on_itself_lives_with_its_adapter() -> None:
    model, _, adapter = attached("shifts")
    other = peftcore.attach(model, "pieces", kind="shifts", name="other")
    adapter.after_step(1, 3)
    twins = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    adapter.after_step(2, 3)
    assert adapter.methods[0].steps == [1, 2] and other.methods[0].steps == []
    for twin in twins:
        own = peftcore.adapters(twin)["default"]
        own.after_step(3, 3)
        assert own.methods[0].steps == [1, 3]
    assert adapter.methods[0].steps == [1, 2]


class Product(LowRankDelta):
    """s B A x, with a scale."""

    def __init__(self, rank: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = dropout
        self.down = nn.Parameter(torch.randn(rank, 5))
        self.up = nn.Parameter(torch.randn(4, rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.down, 0.5 * self.up


class ProductAndBias(Product):
    def bias_delta(self) -> Tensor:
        return self.up[:, 0]


def test_an_update_by_two_factors_is_their_product_and_serves_rows_at_once() -> None:
    one, two, x = Product(2), Product(2), torch.randn(3, 6, 5)
    assert Product.changes_weight and Product.serves_rows and not Product.changes_bias
    torch.testing.assert_close(one.weight_delta(), 0.5 * one.up @ one.down)
    torch.testing.assert_close(one(x), x @ one.weight_delta().T)
    serve = Product.batched([one, two], torch.tensor([1, -1, 0]))
    assert serve is not None
    expected = torch.stack([two(x[0]), torch.zeros(6, 4), one(x[2])])
    torch.testing.assert_close(serve(x), expected)
    assert one(x.bfloat16()).dtype == serve(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "pieces",
    [
        [Product(2), Product(3)],
        [Product(2), Product(2, dropout=0.1)],
        [ProductAndBias(2), ProductAndBias(2)],
    ],
    ids=["ranks", "dropout", "bias"],
)
def test_rows_are_left_to_the_core_where_no_pair_of_products_is_the_update(pieces: Any) -> None:
    assert type(pieces[0]).batched(pieces, torch.tensor([0, 1])) is None
