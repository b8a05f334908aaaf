"""Contracts, formula against the decomposed weight, both ways of a forward, counts, mistakes."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftcore
from peftcore import AttachError, ConfigError, TargetError
from peftcore.testing import MethodContract, Toy


class TestSvdiff(MethodContract):
    method = "svdiff"


class TestEverything(MethodContract):
    method = "svdiff"
    config = {"shift_1d": True, "scale": 2.0, "targets": ["all-linear", "head"]}


LAYERS = {
    "linear": (nn.Linear(5, 7), (2, 2, 5)),
    "linear of many inputs": (nn.Linear(7, 5), (9, 7)),
    "linear without bias": (nn.Linear(5, 7, bias=False), (3, 5)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, (3, 2), padding=1, dilation=(2, 1)), (2, 4, 8, 7)),
    "conv2d of groups": (nn.Conv2d(4, 6, 3, groups=2, padding_mode="circular"), (2, 4, 8, 7)),
    "conv3d without bias": (nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 4, 5)),
}


def with_weight(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    changed = copy.deepcopy(layer)
    changed.weight.data = weight
    if bias is not None:
        changed.bias.data = bias
    return changed(x)


def moved(model: nn.Module, **config) -> peftcore.Adapter:
    adapter = peftcore.attach(model, "svdiff", **config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_weight_has_the_shifted_singular_values(name: str, shift: bool) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    layer.reset_parameters()  # seeded by now
    model, x = nn.Sequential(layer).double(), torch.randn(shape, dtype=torch.double)
    base = copy.deepcopy(layer)
    adapter = moved(
        model, scale=0.7, shift_1d=shift, targets=["linear" if "lin" in name else "conv"]
    )
    tensors = {n.rpartition(".")[2]: p.detach() for n, p in adapter.named_parameters()}
    tensors["delta"][-1] = -10
    U, sigma, Vh = torch.linalg.svd(base.weight.detach().flatten(1), full_matrices=False)
    shifted = (sigma + 0.7 * tensors["delta"]).clamp_min(0)
    assert shifted[-1] == 0
    weight = (U @ shifted.diag() @ Vh).view_as(base.weight)
    bias = None if base.bias is None else base.bias + tensors.get("shift", 0)
    expected = with_weight(base, x, weight, bias)
    torch.testing.assert_close(model(x), expected)
    count = min(base.weight.flatten(1).shape)
    assert adapter.plan.trainable == count + (len(bias) if shift and bias is not None else 0)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("rows", [3, 30])
def test_few_and_many_inputs_have_the_same_output_and_gradients(rows: int) -> None:
    model = nn.Sequential(nn.Linear(6, 8)).double()
    x = torch.randn(rows, 6, dtype=torch.double, requires_grad=True)
    piece = moved(model, targets=["linear"]).placed[0].piece
    out = model(x)
    found = torch.autograd.grad(out.square().sum(), [x, piece.delta])
    weight = piece(model[0].weight.detach())
    naive = x @ weight.T + model[0].bias
    torch.testing.assert_close(out, naive)
    expected = torch.autograd.grad(naive.square().sum(), [x, piece.delta])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rows", [2, 20])
def test_it_starts_bit_for_bit_as_the_base(rows: int) -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8)), torch.randn(rows, 8)
    bare = model(x)
    peftcore.attach(model, "svdiff", shift_1d=True, targets=["linear"])
    assert torch.equal(model(x), bare)


@pytest.mark.parametrize("norm", [nn.LayerNorm(6), nn.GroupNorm(3, 6)], ids=["layer", "group"])
def test_norms_are_shifted_where_1d_tensors_are(norm: nn.Module) -> None:
    model = nn.Sequential(copy.deepcopy(norm), nn.Linear(6, 6)).double()
    x = torch.randn(4, 6, dtype=torch.double)
    adapter = moved(model, shift_1d=True, targets=["linear"])
    piece = adapter.placed[0].piece
    changed = copy.deepcopy(norm).double()
    changed.weight.data += piece.weight.data
    changed.bias.data += piece.bias.data
    tuned = model(x)
    torch.testing.assert_close(model[0](x), changed(x))
    assert adapter.plan.trainable == 2 * 6 + 6 + 6
    adapter.merge()
    torch.testing.assert_close(model(x), tuned)


def test_only_the_shifts_are_stored(tmp_path) -> None:
    model = Toy().eval()
    ids = torch.randint(0, 24, (3, 5))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    adapter = moved(model)
    tuned = model(**batch).logits
    adapter.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    assert {name.rpartition(".")[2] for name in stored} == {"delta"}
    assert sum(tensor.numel() for tensor in stored.values()) == 2 * 4 * 16
    adapter.detach()
    peftcore.load(model, tmp_path / "a")
    torch.testing.assert_close(model(**batch).logits, tuned)


def test_an_adapter_means_the_same_on_a_bf16_copy_of_its_base(tmp_path) -> None:
    base = nn.Sequential(nn.Conv1d(6, 8, 3), nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 16))
    # equal singular values: the vectors are whatever the last bit of the weight makes them
    nn.init.orthogonal_(base[3].weight)
    twin = copy.deepcopy(base).bfloat16()
    x = torch.randn(32, 6, 12).bfloat16()
    adapter = moved(base, targets=["linear", "conv"])
    adapter.save(tmp_path / "a")
    peftcore.load(twin, tmp_path / "a")
    expected = base(x.float())
    # 2^-8 is the rounding of one number in bf16; there are three layers
    difference = (twin(x).float() - expected).abs().max()
    assert difference < 3 * 2**-8 * expected.abs().max()


def test_in_fp32_the_singular_values_are_shifted_but_for_the_rounding_of_bf16() -> None:
    model = nn.Sequential(nn.Linear(24, 24))
    weight = model[0].weight.detach()
    piece = moved(model, scale=0.1, targets=["linear"]).placed[0].piece
    sigma = torch.linalg.svdvals(weight)
    shifted = (sigma + 0.1 * piece.delta.detach()).clamp_min(0)
    values = torch.linalg.svdvals(piece(weight).detach())
    rounding = 2 * 2**-8 * torch.linalg.matrix_norm(weight)
    assert (values - shifted.sort(descending=True).values).abs().max() < rounding


def test_a_large_model_is_planned_without_decomposing_it() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4096, 11008), nn.Conv2d(320, 640, 3), nn.GroupNorm(32, 640))
    plan = peftcore.plan(model, "svdiff", targets=["linear", "conv"])
    assert plan.trainable == 4096 + 640
    plan = peftcore.plan(model, "svdiff", shift_1d=True, targets=["linear", "conv"])
    assert plan.trainable == 4096 + 640 + 11008 + 640 + 2 * 640


def test_1d_tensors_learn_more_slowly() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv1d(4, 4, 1), nn.LayerNorm(4))
    adapter = peftcore.attach(model, "svdiff", shift_1d=True, targets=["linear", "conv"])
    rates = {
        id(p): group["lr"] for group in adapter.parameter_groups(1e-3) for p in group["params"]
    }
    for name, parameter in adapter.named_parameters():
        expected = 1e-3 if name.endswith("delta") else 1e-6
        assert rates[id(parameter)] == pytest.approx(expected)


def test_weights_that_the_model_reads_itself_are_changed_too() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, roles = torch.randn(2, 3, 8), ["attention.query", "attention.value", "attention.output"]
    adapter = moved(model, shift_1d=True, scale=0.1, targets=roles)
    model(x).square().sum().backward()
    adapter.check_alive()
    tuned = model(x)
    adapter.merge()
    torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"targets": ["embeddings"]},
            "is of kind embedding; svdiff acts on linear layers",
        ),
        ({"targets": ["norm"]}, "is of kind norm"),
        ({"targets": ["attention.qeury"]}, "Did you mean attention.query"),
        ({"scale": 0}, "scale: "),
        ({"learning_rate_1d": -1}, "learning_rate_1d: "),
        ({"shift": True}, "Did you mean shift_1d"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(config: dict, message: str) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, "svdiff", **config)
    assert "_peftcore" not in model.__dict__
    assert all(p.requires_grad for p in model.parameters())


class Padding(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x) + 1


def test_linear_layers_that_do_more_than_a_plain_one_are_refused() -> None:
    model, x = nn.Sequential(Scaled(4, 4)), torch.randn(9, 4)
    bare = model(x)
    with pytest.raises(
        TargetError, match=r"0 \(linear\) is a Scaled, which does more than a plain"
    ):
        peftcore.attach(model, "svdiff", targets=["linear"])
    assert torch.equal(model(x), bare)


def test_convolutions_that_do_more_than_a_plain_one_are_refused() -> None:
    with pytest.raises(AttachError, match="a Padding computes more than the layer"):
        peftcore.plan(nn.Sequential(Padding(4, 4, 3)), "svdiff", targets=["conv"])
