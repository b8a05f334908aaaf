"""Merging: refused before anything changes, exact in both directions, nothing lost in between."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import peftcore
from peftcore.errors import AttachError, CheckpointError, MergeError, UnknownName
from peftcore.testing.matrix import perturb, run, same, tiny


def toy(*names: str, method: str = "lora", dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    _, model, batch = tiny("toy")
    model = model.to(dtype) if dtype else model
    for i, name in enumerate(names):
        config: dict[str, Any] = {}
        if method in ("lora", "probe"):
            config = {"targets": ["all-linear", "head"]} | ({"rank": 2} if method == "lora" else {})
        move(peftcore.attach(model, method, name=name, **config), i)
    return model, batch


def move(adapter: peftcore.Adapter, seed: int, by: float = 0.1) -> None:
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p.add_((by * torch.randn(p.shape, generator=noise)).to(p))


def bits(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of all that a model holds, pieces included."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return list(after) == list(before) and all(
        torch.equal(after[n].nan_to_num(7), t.nan_to_num(7)) for n, t in before.items()
    )


METHODS = ("lora", "bitfit", "full")
BAD = {
    "nan": (torch.float32, float("nan")),
    "infinite": (torch.float32, float("inf")),
    "overflowing": (torch.float16, 3e30),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("how", ["merge", "merge second", "merge both", "unload", "unload both"])
def test_values_that_are_not_finite_are_refused_before_anything_changes(
    method: str, bad: str, how: str
) -> None:
    dtype, value = BAD[bad]
    two = method in ("lora", "probe")  # other values cannot be active together
    model, batch = toy("a", "b", method=method, dtype=dtype)
    broken = peftcore.adapters(model)["b"]
    with torch.no_grad():
        # the last tensor: whatever comes before has been looked at when it is found
        broken.parameters()[-1].flatten()[-1:] = value
    peftcore.activate(model, *(["a", "b"] if two else ["b"]))
    before, active = bits(model), [a.active for a in peftcore.adapters(model).values()]
    names = ["a", "b"] if "both" in how else ["b"]
    act: Callable[..., object] = peftcore.merge_and_unload if "unload" in how else peftcore.merge
    if "both" in how and not two:
        with pytest.raises(AttachError, match="both hold a value for"):
            act(model, *names)
        names = ["b"]
    with pytest.raises(MergeError, match="would hold NaN or infinite values") as caught:
        act(model, *names)
    assert "Nothing was merged" in str(caught.value)
    assert unchanged(model, before)
    assert [a.active for a in peftcore.adapters(model).values()] == active
    with torch.no_grad():
        broken.parameters()[-1].flatten()[-1:] = 0.0
    peftcore.merge(model, "b")
    peftcore.unmerge(model)
    peftcore.activate(model)
    assert same(run(model, batch), run(toy(dtype=dtype)[0], batch))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merge_is_undone_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    model, batch = toy("a", method=method, dtype=dtype)
    before, tuned = bits(model), run(model, batch)
    for _ in range(3):
        peftcore.merge(model)
        tolerance = 0.05 if dtype is torch.bfloat16 else 1e-5
        for merged, wanted in zip(run(model, batch), tuned, strict=True):
            torch.testing.assert_close(merged, wanted, atol=tolerance, rtol=tolerance)
        peftcore.unmerge(model)
        assert unchanged(model, before) and same(run(model, batch), tuned)


def test_several_adapters_on_the_same_weights_are_merged_and_undone() -> None:
    model, batch = toy("a", "b", "c")
    peftcore.activate(model, "a", "c")
    before, tuned = bits(model), run(model, batch)
    peftcore.merge(model)
    torch.testing.assert_close(run(model, batch), tuned)
    peftcore.unmerge(model)
    assert unchanged(model, before) and same(run(model, batch), tuned)


@pytest.mark.parametrize("names", [["a"], ["a", "c"], ["c", "b", "a"]])
def test_unloading_leaves_plain_modules_that_compute_the_same(names: list[str]) -> None:
    model, batch = toy("a", "b", "c")
    kinds = [type(m) for m in tiny("toy")[1].modules()]
    keys = list(tiny("toy")[1].state_dict())
    peftcore.activate(model, *names)
    tuned = run(model, batch)
    assert peftcore.merge_and_unload(model, *names) is model
    torch.testing.assert_close(run(model, batch), tuned)
    assert [type(m) for m in model.modules()] == kinds and list(model.state_dict()) == keys
    assert all(p.requires_grad for p in model.parameters()) and not peftcore.adapters(model)


def test_unloading_others_than_those_that_are_merged_is_refused() -> None:
    model, batch = toy("a", "b")
    peftcore.merge(model, "a")
    merged = run(model, batch)
    with pytest.raises(MergeError, match="adapter a is merged, and b is to be"):
        peftcore.merge_and_unload(model, "b")
    assert same(run(model, batch), merged)
    peftcore.unmerge(model)
    peftcore.merge(model, "a")
    peftcore.merge_and_unload(model, "a")
    assert same(run(model, batch), merged)


# --- between merging and unmerging ----------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("casts", [["bfloat16"], ["float64"], ["float16", "float32"], ["float32"]])
def test_a_cast_while_merged_is_followed(method: str, casts: list[str]) -> None:
    model, batch = toy("a", method=method)
    twin, _ = toy("a", method=method)
    peftcore.merge(model)
    for cast in casts:
        model.to(getattr(torch, cast))
        twin.to(getattr(torch, cast))
    peftcore.unmerge(model)
    for there, wanted in zip(run(model, batch), run(twin, batch), strict=True):
        assert there.dtype == wanted.dtype
        torch.testing.assert_close(there, wanted, atol=1e-2, rtol=1e-2)
    peftcore.detach(model)
    peftcore.detach(twin)
    for name, value in bits(twin).items():  # the cast and back may have rounded the twin alone
        torch.testing.assert_close(model.state_dict()[name], value, atol=1e-2, rtol=1e-2)


def loaded(model: Any) -> None:
    model.load_state_dict({n: t + 1 for n, t in tiny("toy")[1].state_dict().items()})


def written(model: Any) -> None:
    with torch.no_grad():
        for p in model.parameters():
            p[..., -1] += 1


def data_written(model: Any) -> None:
    for p in model.parameters():
        p.data.flatten()[-1] += 1e-3


def replaced_parameter(model: Any) -> None:
    for module in model.modules():
        for name, p in list(module._parameters.items()):
            if p is not None:
                module._parameters[name] = nn.Parameter(p.detach().clone())


def replaced_data(model: Any) -> None:
    for p in model.parameters():
        p.data = p.data * 2


BETWEEN = [loaded, written, data_written, replaced_parameter, replaced_data]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("act", BETWEEN, ids=lambda act: act.__name__)
def test_what_was_written_while_merged_is_never_thrown_away(
    method: str, act: Callable[[Any], None]
) -> None:
    model, batch = toy("a", method=method)
    peftcore.merge(model)
    act(model)
    before = bits(model)
    for refused in (peftcore.unmerge, peftcore.detach):
        with pytest.raises(MergeError, match="was loaded, replaced or written to while"):
            refused(model)
        assert unchanged(model, before)
    out = run(model, batch)
    peftcore.merge_and_unload(model)
    assert same(run(model, batch), out)


def test_a_module_replaced_while_merged_is_never_thrown_away() -> None:
    model, _ = toy("a")
    peftcore.merge(model)
    model.head = nn.Linear(16, 3)
    before = bits(model)
    for act in (peftcore.unmerge, peftcore.detach):
        with pytest.raises(MergeError, match="replaced while an adapter was merged"):
            act(model)
        assert unchanged(model, before)
    peftcore.merge_and_unload(model)
    assert not peftcore.adapters(model)


def test_a_module_replaced_before_merging_is_refused() -> None:
    model, _ = toy("a")
    model.head = nn.Linear(16, 3)
    before = bits(model)
    for act in (peftcore.merge, peftcore.merge_and_unload):
        with pytest.raises(AttachError, match="head is not the module"):
            act(model)
        assert unchanged(model, before)


@pytest.mark.parametrize("method", METHODS)
def test_saving_while_merged_writes_the_same_and_loading_is_refused(
    method: str, tmp_path: Path
) -> None:
    model, batch = toy("a", method=method)
    adapter = peftcore.adapters(model)["a"]
    adapter.save(tmp_path / "before")
    peftcore.merge(model)
    adapter.save(tmp_path / "merged")
    assert peftcore.read(tmp_path / "merged")[0] == peftcore.read(tmp_path / "before")[0]
    with pytest.raises(AttachError, match="is merged; unmerge it first"):
        peftcore.load(model, tmp_path / "before", name="c")
    peftcore.unmerge(model)
    tuned = run(model, batch)
    fresh, _ = toy()
    peftcore.load(fresh, tmp_path / "merged")
    assert same(run(fresh, batch), tuned)
    peftcore.detach(model)
    peftcore.load(model, tmp_path / "merged")
    assert same(run(model, batch), tuned)


# --- tied weights ---------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose weight is the head's."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.middle = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.middle(self.embedding(ids)).tanh())  # type: ignore[no-any-return]


@pytest.mark.parametrize("act", [peftcore.merge, peftcore.merge_and_unload])
def test_a_piece_at_one_end_of_a_tie_is_not_merged_into_both(act: Callable[..., Any]) -> None:
    model, ids = Tied(), torch.arange(6)[None]
    perturb(peftcore.attach(model, "probe", targets=["path:head", "path:middle"]))
    before, out = bits(model), model(ids)
    with pytest.raises(MergeError, match="one tied parameter"):
        act(model)
    assert unchanged(model, before) and torch.equal(model(ids), out)
    assert model.head.weight is model.embedding.weight
    assert peftcore.adapters(model)["default"].active


def test_a_tied_parameter_that_is_trained_is_merged_as_both() -> None:
    model, ids = Tied(), torch.arange(6)[None]
    bare = model(ids)
    adapter = peftcore.attach(model, [], modules_to_save=["path:embedding"])
    perturb(adapter)
    tuned = model(ids)
    assert model.head.weight is model.embedding.weight and not torch.equal(tuned, bare)
    adapter.merge()
    assert model.head.weight is model.embedding.weight and torch.equal(model(ids), tuned)
    adapter.unmerge()
    assert model.head.weight is model.embedding.weight and torch.equal(model(ids), tuned)
    with peftcore.disabled(model):
        assert torch.equal(model(ids), bare)
    peftcore.merge_and_unload(model)
    assert model.head.weight is model.embedding.weight and torch.equal(model(ids), tuned)


# --- statistics of batch norms --------------------------------------------------------------------


class Conv(nn.Module):
    """Two convolutions with batch norms, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.conv1(x)).relu()
        return self.head(self.norm2(self.conv2(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Statistical:
    """A conv net with an adapter that was trained in training mode."""

    def __init__(self, method: str, name: str = "a"):
        torch.manual_seed(0)
        self.model = Conv().eval()
        self.x = torch.randn(4, 2, 8, 8)
        self.bare = self.out()
        self.before = bits(self.model)
        self.add(method, name)

    def add(self, method: str, name: str) -> None:
        rank = {"rank": 2} if method == "lora" else {}
        chosen = [] if method == "none" else [{"method": method, "targets": ["path:head"], **rank}]
        saved = ["path:head"] if method == "none" else []
        adapter = peftcore.attach(self.model, chosen, name=name, modules_to_save=saved)
        self.train(adapter)
        self.tuned = self.out()

    def train(self, adapter: peftcore.Adapter) -> None:
        self.model.train()
        optimiser = torch.optim.SGD(adapter.parameters(), 0.1)
        for i in range(3):
            self.model(self.x * (i + 1) + i).pow(2).mean().backward()
            optimiser.step()
            optimiser.zero_grad()
        self.model.eval()

    def out(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.x)  # type: ignore[no-any-return]


STATISTICAL = ("probe", "lora", "none")


@pytest.mark.parametrize("method", STATISTICAL)
def test_statistics_go_with_the_adapter(method: str, tmp_path: Path) -> None:
    s = Statistical(method)
    model, adapter = s.model, peftcore.adapters(s.model)["a"]
    assert not torch.equal(model.norm1.running_mean, s.before["norm1.running_mean"])
    with peftcore.disabled(model):
        assert torch.equal(s.out(), s.bare)
        adapter.save(tmp_path / "in a block")
    assert torch.equal(s.out(), s.tuned)
    peftcore.activate(model)
    assert torch.equal(s.out(), s.bare)
    peftcore.activate(model, "a")
    adapter.save(tmp_path / "active")
    peftcore.merge(model)
    torch.testing.assert_close(s.out(), s.tuned)
    adapter.save(tmp_path / "merged")
    peftcore.unmerge(model)
    assert torch.equal(s.out(), s.tuned)
    with pytest.raises(AttachError, match="cannot be routed"):
        peftcore.route(model, ["a"] * 4).__enter__()
    assert torch.equal(copy.deepcopy(model)(s.x), s.tuned)
    adapter.detach()
    assert torch.equal(s.out(), s.bare) and unchanged(model, s.before)
    for where in ("in a block", "active", "merged"):
        loaded = peftcore.load(model, tmp_path / where)
        assert torch.equal(s.out(), s.tuned), where
        loaded.detach()
        assert unchanged(model, s.before)


@pytest.mark.parametrize("method", STATISTICAL)
def test_unloading_keeps_the_statistics_of_what_was_merged(method: str) -> None:
    s = Statistical(method)
    peftcore.merge_and_unload(s.model)
    torch.testing.assert_close(s.out(), s.tuned)
    assert not unchanged(s.model, s.before)


def test_adapters_have_statistics_of_their_own() -> None:
    s = Statistical("probe")
    first = s.tuned
    s.x = s.x * 3
    s.add("lora", "b")
    s.x = s.x / 3
    second = s.out()
    for name, wanted in (("a", first), ("b", second), ("a", first)):
        peftcore.activate(s.model, name)
        torch.testing.assert_close(s.out(), wanted)
    peftcore.detach(s.model, "b")
    torch.testing.assert_close(s.out(), first)
    peftcore.detach(s.model)
    assert unchanged(s.model, s.before)


def test_a_pass_in_training_mode_without_an_adapter_moves_nobodys_statistics() -> None:
    s = Statistical("probe")
    s.model.train()
    with peftcore.disabled(s.model):
        s.out()
    s.model.eval()
    assert torch.equal(s.out(), s.tuned)
    peftcore.activate(s.model)
    s.model.train()
    s.out()
    s.model.eval()
    peftcore.activate(s.model, "a")
    assert torch.equal(s.out(), s.tuned)
    peftcore.detach(s.model)
    assert unchanged(s.model, s.before)


def test_statistics_that_move_while_merged_are_the_merged_adapters() -> None:
    s = Statistical("probe")
    peftcore.merge(s.model)
    s.model.train()
    s.out()
    s.model.eval()
    merged = s.out()
    peftcore.unmerge(s.model)
    torch.testing.assert_close(s.out(), merged)
    peftcore.detach(s.model)
    assert unchanged(s.model, s.before)


def test_statistics_are_part_of_the_base_that_an_adapter_belongs_to(tmp_path: Path) -> None:
    s = Statistical("lora")
    peftcore.adapters(s.model)["a"].save(tmp_path)
    peftcore.detach(s.model)
    with torch.no_grad():
        s.model.norm1.running_var[1] *= 2
    with pytest.raises(CheckpointError, match=r"norm1\.running_var"):
        peftcore.load(s.model, tmp_path)


@pytest.mark.parametrize("how", ["merge", "unload"])
@pytest.mark.parametrize("order", [("trained", "added"), ("added", "trained")])
def test_values_of_the_base_and_pieces_on_them_are_merged_in_any_order(
    how: str, order: tuple[str, str]
) -> None:
    _, model, batch = tiny("toy")
    move(peftcore.attach(model, "lora", name="added", rank=2, targets=["all-linear"]), 0)
    move(peftcore.attach(model, "full", name="trained"), 1)
    peftcore.activate(model, *order)
    tuned = run(model, batch)
    if how == "unload":
        peftcore.merge_and_unload(model, *order)
    else:
        peftcore.merge(model, *order)
    torch.testing.assert_close(run(model, batch), tuned, atol=1e-5, rtol=1e-5)
    if how == "merge":
        peftcore.unmerge(model)
        assert same(run(model, batch), tuned)


def test_merging_several_adapters_for_good_holds_one_new_weight_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from peftcore.adapter import changes

    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    for name in ("a", "b"):
        move(peftcore.attach(model, "lora", name=name, rank=2, targets=["linear"]), 0)
    before = [StorageWeakRef(layer.weight.untyped_storage()) for layer in model]
    most, write = 0, changes.Change.write

    def counted(change: changes.Change, new: Tensor | None) -> nn.Parameter | None:
        nonlocal most
        most = max(most, sum(not old.expired() for old in before[: written[0]]))
        written[0] += 1
        return write(change, new)

    written = [0]
    monkeypatch.setattr(changes.Change, "write", counted)
    peftcore.merge_and_unload(model, "a", "b")
    assert written == [len(model)] and most == 0  # what was written over is not kept


def test_a_copy_of_a_merged_model_is_unmerged_on_its_own() -> None:
    model, batch = toy("a")
    tuned = run(model, batch)
    peftcore.merge(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        peftcore.unmerge(twin)
        assert same(run(twin, batch), tuned)
    peftcore.unmerge(model)
    assert same(run(model, batch), tuned)


def test_detaching_an_unknown_name_changes_nothing() -> None:
    model, _ = toy("a")
    peftcore.merge(model)
    before = bits(model)
    with pytest.raises(UnknownName, match="no adapter 'b'"):
        peftcore.detach(model, "a", "b")
    assert unchanged(model, before) and list(peftcore.adapters(model)) == ["a"]
