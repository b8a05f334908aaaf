"""Contracts, formulas against dense sums, what is shared, counts, merging, mistakes."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import MethodContract, Toy


class TestTensorTrain(MethodContract):
    method = "fact_tt"
    config = {"rank": 4}


class TestTucker(MethodContract):
    method = "fact_tk"
    config = {"rank": 4}


class TestWithDropout(MethodContract):
    method = "fact_tt"
    config = {"rank": 3, "dropout": 0.1, "targets": ["attention.query", "mlp.down"]}
    on = {"wavlm": {"targets": ["mlp.down"]}}  # WavLM never calls its projections


class Layers(nn.Module):
    """Layers as wide as asked for, each on random inputs of its own; shapes are (in, out)."""

    def __init__(self, *shapes: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*shape) for shape in shapes)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [f(x) for f, x in zip(self.layers.children(), inputs, strict=True)]


def moved(model: nn.Module, method: str, **config) -> peftcore.Adapter:
    adapter = peftcore.attach(model, method, **config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


def dense(piece: nn.Module, factors: nn.Module, tucker: bool, scale: float) -> Tensor:
    """Return the update, [in, out], part by part as in the paper."""
    r = len(factors.U)
    columns = []
    for b in range(piece.parts_out):
        rows = []
        for a in range(piece.parts_in):
            if tucker:
                weights = piece.P[b * piece.parts_in + a]
                sigma = sum(factors.C[:, :, k] * weights[k] for k in range(r))
            else:
                sigma = piece.S[b * r : (b + 1) * r, a * r : (a + 1) * r].T
            rows.append(scale * factors.U.T @ sigma @ factors.V.T)
        columns.append(torch.cat(rows))
    return torch.cat(columns, 1)


@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_every_d_by_d_part_is_the_product_of_the_factors(method: str) -> None:
    shapes = [(6, 6), (6, 24), (24, 6), (12, 18)]
    model = Layers(*shapes).double()
    base = copy.deepcopy(model)
    inputs = [torch.randn(2, 3, n, dtype=torch.double) for n, _ in shapes]
    adapter = moved(model, method, rank=3, scale=0.7, targets=["linear"])
    factors = adapter.placed[0].piece.factors
    expected = base(*inputs)
    for i, (item, x) in enumerate(zip(adapter.placed, inputs, strict=True)):
        update = dense(item.piece, factors, method == "fact_tk", 0.7)
        torch.testing.assert_close(item.piece.weight_delta(), update.T)
        expected[i] = expected[i] + x @ update
    torch.testing.assert_close(model(*inputs), expected)
    adapter.merge()
    torch.testing.assert_close(model(*inputs), expected)


@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_it_starts_as_the_base_and_only_v_learns_at_first(method: str) -> None:
    shapes = [(8, 8), (8, 32)]
    model, inputs = Layers(*shapes), [torch.randn(5, 8), torch.randn(5, 8)]
    bare = model(*inputs)
    adapter = peftcore.attach(model, method, rank=2, targets=["linear"])
    out = model(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(out, bare, strict=True))
    sum(o.square().sum() for o in out).backward()
    alive = {name.rpartition(".")[2] for name, p in adapter.named_parameters() if p.grad.any()}
    assert alive == {"V"}


def test_the_start_is_the_released_one() -> None:
    model = Layers(*[(64, 64)] * 40, (64, 256))
    adapter = peftcore.attach(model, "fact_tk", rank=16, targets=["linear"])
    limits = {"U": 1 / 8, "V": 0, "C": math.sqrt(3) / 16, "P": math.sqrt(6 / (16 + 44))}
    for name, parameter in adapter.named_parameters():
        limit = limits[name.rpartition(".")[2]]
        assert parameter.abs().max() <= limit
        assert parameter.abs().max() > 0.6 * limit or not limit
    pieces = moved(Layers((64, 64), (128, 64)), "fact_tt", targets=["linear"]).placed
    adapter = peftcore.attach(Layers((64, 64), (256, 64)), "fact_tt", rank=16, targets=["linear"])
    assert [len(item.piece.S) for item in pieces] == [8, 8]
    for item, limit in zip(adapter.placed, (1 / 4, 1 / 8), strict=True):
        assert 0.9 * limit < item.piece.S.abs().max() <= limit


def test_vit_b_16_has_the_published_counts() -> None:
    roles = ((768, 768),) * 4 + ((768, 3072), (3072, 768))
    with torch.device("meta"):
        model = Layers(*roles * 12)
    for rank in (2, 8, 16, 32):
        plan = peftcore.plan(model, "fact_tt", rank=rank, targets=["linear"])
        assert plan.trainable == 2 * 768 * rank + 12 * 12 * rank**2
        plan = peftcore.plan(model, "fact_tk", rank=rank, targets=["linear"])
        assert plan.trainable == 2 * 768 * rank + rank**3 + 144 * rank


def test_a_fused_projection_counts_as_its_three_slices() -> None:
    parts = peftcore.plan(Layers((12, 12), (12, 36)), "fact_tt", rank=2, targets=["linear"])
    assert parts.trainable == 2 * 12 * 2 + (1 + 3) * 4
    layer = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    sliced = ["attention.query", "attention.key", "attention.value"]
    for targets in (sliced, ["attention.qkv"], [*sliced, "attention.qkv"]):
        plan = peftcore.plan(model, "fact_tt", rank=2, targets=targets)
        assert plan.trainable == 2 * 12 * 2 + 2 * 3 * 4
        plan = peftcore.plan(model, "fact_tk", rank=2, targets=targets)
        assert plan.placed[0].piece.factors.matrices == 2 * 3


def test_dropout_stands_before_the_last_factor_in_training_only() -> None:
    model, x = Layers((8, 8)), torch.randn(4, 8)
    adapter = moved(model, "fact_tt", rank=4, dropout=0.5, targets=["linear"])
    piece, factors = adapter.placed[0].piece, adapter.placed[0].piece.factors
    torch.manual_seed(3)
    out = piece.train()(x)
    torch.manual_seed(3)
    inner = nn.functional.dropout(x @ factors.U.T @ piece.S.T, 0.5)
    torch.testing.assert_close(out, inner @ factors.V.T)
    torch.testing.assert_close(piece.eval()(x), x @ piece.weight_delta().T)


def test_the_shared_factors_are_stored_once_and_stay_shared(tmp_path) -> None:
    model = Toy().eval()
    ids = torch.randint(0, 24, (3, 5))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    adapter = moved(model, "fact_tk", rank=2, scale=0.1)
    tuned = model(**batch).logits
    adapter.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    shared = [name for name in stored if ".factors." in name]
    prefix = "blocks.0.attention.query.fact_tk.factors."
    assert shared == [prefix + leaf for leaf in ("C", "U", "V")]
    assert len(stored) == 3 + 2 * 6
    adapter.detach()
    again = peftcore.load(model, tmp_path / "a")
    torch.testing.assert_close(model(**batch).logits, tuned)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        again.placed[0].piece.factors.V.zero_()
    assert not any(item.piece.weight_delta().any() for item in again.placed)
    copied = peftcore.adapters(twin)["default"].placed
    assert all(item.piece.factors is copied[0].piece.factors for item in copied)
    assert all(item.piece.weight_delta().any() for item in copied)


def test_weights_that_the_model_reads_itself_are_updated_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    x = torch.randn(2, 3, 8)
    roles = ["attention.query", "attention.value", "attention.output", "linear"]
    with pytest.raises(TargetError, match=r"never calls the layer. Write dropout: 0"):
        peftcore.attach(model, "fact_tt", rank=2, dropout=0.1, targets=roles)
    adapter = moved(model, "fact_tt", rank=2, scale=0.1, targets=roles)
    model(x).square().sum().backward()
    adapter.check_alive()
    tuned = model.eval()(x)
    adapter.merge()
    torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 17}, r"rank 17 is above 16, the width .*\(theirs are 16, 32\).* rank: 16 or"),
        ({"rank": 0}, "rank: "),
        ({"scale": 0}, "scale: "),
        ({"dropout": 1.0}, "dropout: "),
        ({"targets": ["norm"]}, "is of kind norm; fact_t[tk] acts on linear layers"),
        ({"targets": ["attention.qeury"]}, "Did you mean attention.query"),
        ({"rnak": 2}, "Did you mean rank"),
    ],
)
@pytest.mark.parametrize("method", ["fact_tt", "fact_tk"])
def test_bad_input_is_refused_before_anything_changes(
    method: str, config: dict, message: str
) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, method, **config)
    assert "_peftcore" not in model.__dict__
    assert all(p.requires_grad for p in model.parameters())


def test_layers_that_share_no_width_are_one_clear_error() -> None:
    with pytest.raises(TargetError, match=r"above 1, the width .*\(theirs are 9, 16, 25\)"):
        peftcore.plan(Layers((9, 16), (25, 16)), "fact_tt", rank=2, targets=["linear"])


@pytest.mark.skipif("timm-vit" not in installed().backbones, reason="no backbone plugin for ViTs")
def test_a_fused_vit_b_16_has_the_counts_of_its_slices() -> None:
    from peftcore import build_on_meta

    model = build_on_meta("vit-b16-224")
    assert peftcore.plan(model, "fact_tt", rank=16).trainable == 61_440
    assert peftcore.plan(model, "fact_tk", rank=16).trainable == 2 * 768 * 16 + 16**3 + 144 * 16
