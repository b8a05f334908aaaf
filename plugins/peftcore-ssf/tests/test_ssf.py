"""Contract, formula at every kind of layer, merging, counts, what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import ConfigError, MergeError, TargetError, installed
from peftcore.testing import MethodContract, Toy


class TestSsf(MethodContract):
    method = "ssf"
    # their projection has no bias, and is not called
    on = {
        name: {"targets": {"roles": ["*"], "exclude": ["attention.q*", "attention.{key,value}"]}}
        for name in ("timm-beit", "timm-swin-v2")
    }


class TestBlocksOnly(MethodContract):
    method = "ssf"
    config = {"targets": {"roles": ["mlp.*", "attention.*"], "layers": "last 1"}}
    on = {"timm-cnn": {"targets": {"roles": ["conv"], "layers": "last 1"}}}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class Weighted(nn.Module):
    """A norm by name whose bias nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class WeightedRMSNorm(Weighted):
    """An RMSNorm as language models have it."""


LAYERS = {
    "linear": (nn.Linear(5, 6), (2, 3, 5)),
    "linear without bias": (nn.Linear(5, 6, bias=False), (2, 3, 5)),
    "layer norm": (nn.LayerNorm(6), (2, 3, 6)),
    "layer norm without bias": (nn.LayerNorm(6, bias=False), (2, 3, 6)),
    "group norm": (nn.GroupNorm(2, 6), (2, 6, 4)),
    "batch norm": (nn.BatchNorm2d(6), (2, 6, 4, 5)),
    "batch norm of vectors": (nn.BatchNorm1d(6), (2, 6)),
    "conv1d": (nn.Conv1d(5, 6, 3), (2, 5, 8)),
    "conv2d without bias": (nn.Conv2d(5, 6, 3, bias=False), (2, 5, 8, 7)),
    "conv2d of one image": (nn.Conv2d(5, 6, 3, stride=2), (5, 8, 7)),
    "conv3d": (nn.Conv3d(5, 6, 2), (2, 5, 3, 4, 5)),
}


def features(out: Tensor, name: str) -> int:
    """Return the dimension of the features."""
    if name.startswith(("linear", "layer")):
        return out.dim() - 1
    return 0 if name.endswith("one image") else 1


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_layer_is_scaled_and_shifted_and_merges(name: str) -> None:
    layer, shape = copy.deepcopy(LAYERS[name])
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    model, x = nn.Sequential(layer).eval(), torch.randn(shape)
    bare = model(x)
    adapter = peftcore.attach(model, "ssf")
    tensors = {n.rpartition(".")[2]: p for n, p in adapter.named_parameters()}
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    last = bare.movedim(features(bare, name), -1)
    expected = (last * tensors["scale"] + tensors["shift"]).movedim(-1, features(bare, name))
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)
    assert adapter.plan.trainable == 2 * 6
    adapter.unmerge()
    adapter.detach()
    assert torch.equal(model(x), bare)


def test_the_start_is_the_released_one_or_the_base() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4000)), torch.randn(2, 4)
    bare = model(x)
    adapter = peftcore.attach(model, "ssf")
    scale, shift = adapter.parameters()
    assert scale.mean().item() == pytest.approx(1, abs=2e-3)
    assert shift.mean().item() == pytest.approx(0, abs=2e-3)
    assert scale.std().item() == pytest.approx(0.02, rel=0.05)
    assert shift.std().item() == pytest.approx(0.02, rel=0.05)
    adapter.detach()
    peftcore.attach(model, "ssf", init="identity")
    assert torch.equal(model(x), bare)


@pytest.mark.skipif("bert" not in installed().backbones, reason="no backbone plugin for BERT")
def test_bert_base_has_the_count_of_its_shape() -> None:
    from peftcore import build_on_meta

    model = build_on_meta("bert-base-cased", head="none")
    plan = peftcore.plan(model, "ssf")
    blocks = 12 * 2 * (768 + 2304 + 768 + 768 + 3072 + 768)
    assert plan.trainable == blocks + 2 * 768 + 2 * 768 == 205_824
    assert len(plan.placed) == 12 * 8 + 2


@pytest.mark.skipif("gpt2" not in installed().backbones, reason="no backbone plugin for GPT-2")
def test_a_fused_layer_is_scaled_once_or_by_its_slices() -> None:
    from peftcore import backbone_named

    model = backbone_named("gpt2").tiny()
    roles = [item.site.role for item in peftcore.plan(model, "ssf").placed]
    assert roles.count("attention.qkv") == 2 and "attention.query" not in roles
    plan = peftcore.plan(model, "ssf", targets=["attention.query", "attention.value"])
    assert plan.trainable == 2 * 2 * 2 * 32


@pytest.mark.parametrize("bias", [True, False])
def test_weights_that_the_model_reads_itself_are_scaled_too(bias: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, bias=bias)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    if not bias:
        with pytest.raises(peftcore.PeftcoreError, match="reads the weight there"):
            peftcore.attach(model, "ssf")
        return
    x = torch.randn(2, 3, 8)
    adapter = peftcore.attach(model, "ssf")
    widths = 3 * 8 + 8 + 16 + 8 + 8 + 8
    assert adapter.plan.trainable == 2 * 2 * widths
    tuned = model(x)
    adapter.merge()
    torch.testing.assert_close(model(x), tuned)


def test_it_stands_beside_an_update_of_the_same_layer() -> None:
    pytest.importorskip("peftcore_lora")
    model, x = nn.Sequential(nn.Linear(5, 6)), torch.randn(2, 5)
    base = copy.deepcopy(model)
    config = {"method": "lora", "rank": 2, "targets": ["linear"]}
    adapter = peftcore.attach(model, [config, "ssf"])
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    low = next(p.piece for p in adapter.placed if p.label == "lora")
    own = next(p.piece for p in adapter.placed if p.label == "ssf")
    expected = base(x) * own.scale + own.shift + x @ low.weight_delta().T
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


def test_a_norm_without_a_bias_of_its_own_is_shifted_but_not_merged() -> None:
    model, x = nn.Sequential(WeightedRMSNorm()), torch.randn(2, 6)
    bare = model(x)
    adapter = peftcore.attach(model, "ssf")
    scale, shift = adapter.parameters()
    torch.testing.assert_close(model(x), bare * scale + shift)
    with pytest.raises(MergeError, match="WeightedRMSNorm has no weight that can be written"):
        adapter.merge()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"targets": ["embeddings"]},
            "is of kind embedding; ssf acts on linear layers, convolutions and norms",
        ),
        ({"targets": ["block"]}, "is of kind module"),
        ({"targets": ["attn"]}, "matches nothing"),
        ({"targets": ["head"]}, "found nothing to do"),
        ({"targets": {"roles": ["norm"], "layers": [5]}}, "names block 5"),
        ({"init": "zero"}, "init: "),
        ({"inti": "identity"}, "Did you mean init"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(config: dict, message: str) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, "ssf", **config)
    assert "_peftcore" not in model.__dict__
    assert all(p.requires_grad for p in model.parameters())


def test_a_norm_without_weights_of_known_size_is_left_alone_or_refused() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 4))
    assert [p.site.path for p in peftcore.plan(model, "ssf").placed] == ["1"]
    with pytest.raises(TargetError, match=r"0 \(norm\) returns features of a number that"):
        peftcore.plan(model, "ssf", targets=["norm"])
