"""Contracts on a toy with convolutions, formula and weight form, counts, mistakes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import peftcore
from peftcore import AttachError, ConfigError, TargetError, installed
from peftcore.testing import MethodContract, Output, Toy, tiny


class ConvToy(Toy):
    """The toy with two convolutions over its embeddings, each token being a picture of 4 by 4."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 6, 3, stride=2)
        self.back = nn.Linear(6, 16)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> Output:
        x = self.embeddings(input_ids)
        pictures = self.second(F.gelu(self.first(x.reshape(-1, 1, 4, 4))))
        x = x + self.back(pictures.flatten(1)).view_as(x)
        mask = attention_mask.bool()
        for block in self.blocks.children():
            x = block(x, mask)
        weight = mask[:, :, None].to(x.dtype)
        logits = self.head((x * weight).sum(1) / weight.sum(1))
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        return Output(loss, logits)


class OnConvToy(MethodContract):
    method = "tsa"
    # the kernels of size 3 of small models, and of speech models, stand before their blocks
    config = {"stem": True}

    def pair(self) -> tuple[nn.Module, dict[str, Tensor]]:
        _, _, batch = tiny("toy")
        torch.manual_seed(0)
        return ConvToy().eval(), batch


class TestMatrix(OnConvToy):
    config = {"targets": ["conv"], "pre_classifier": False, "stem": True}


class TestVectorWithTransform(OnConvToy):
    config = {"targets": ["conv"], "form": "vector", "stem": True}


CONVOLUTIONS = {
    "paper's": nn.Conv2d(4, 6, 3, padding=1, bias=False),
    "stride": nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "no padding": nn.Conv2d(4, 6, 3, stride=(1, 2)),
    "much padding": nn.Conv2d(4, 6, 3, stride=2, padding=(2, 3)),
    "dilation": nn.Conv2d(4, 6, 3, padding=(1, 2), dilation=2),
    "groups": nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "same": nn.Conv2d(4, 6, 3, padding="same", dilation=(2, 1), padding_mode="reflect"),
    "valid": nn.Conv2d(4, 6, 3, padding="valid", padding_mode="circular"),
    "conv1d": nn.Conv1d(4, 6, 3, stride=2),
    "conv3d": nn.Conv3d(4, 6, 3, padding=1),
    "square": nn.Conv2d(6, 6, 3, stride=2, padding=1),
    "depthwise": nn.Conv2d(6, 6, 3, padding=1, groups=6),
    "square of groups": nn.Conv1d(6, 6, 3, groups=3),
}


@pytest.mark.parametrize("form", ["matrix", "vector"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_alpha_is_a_change_of_the_middle_of_the_kernel(name: str, form: str) -> None:
    conv = copy.deepcopy(CONVOLUTIONS[name]).double()
    conv.reset_parameters()  # seeded by now
    size = (2, conv.in_channels, 9, 8, 7)[: conv.weight.dim()]
    model, x = nn.Sequential(conv), torch.randn(size, dtype=torch.double)
    base = copy.deepcopy(conv)
    adapter = peftcore.attach(model, "tsa", form=form)
    (alpha,) = adapter.parameters()
    with torch.no_grad():
        alpha.normal_()
    square = conv.in_channels == conv.out_channels
    assert alpha.dim() == (1 if form == "vector" and square else 2)
    middle = (..., *(1,) * (conv.weight.dim() - 2))
    with torch.no_grad():
        if alpha.dim() == 2:
            base.weight[middle] += alpha
        else:
            for out in range(len(alpha)):
                base.weight[middle][out, out % base.weight.shape[1]] += alpha[out]
    torch.testing.assert_close(model(x), base(x))
    adapter.merge()
    torch.testing.assert_close(model[0].weight, base.weight)


def test_plain_convolutions_are_the_papers_formula() -> None:
    for stride in (1, 2):
        model, x = nn.Sequential(nn.Conv2d(4, 4, 3, stride, padding=1)), torch.randn(2, 4, 7, 7)
        bare = model(x)
        (alpha,) = peftcore.attach(model, "tsa").parameters()
        nn.init.normal_(alpha)
        expected = bare + F.conv2d(x, alpha[:, :, None, None], stride=stride)
        torch.testing.assert_close(model(x), expected)
        peftcore.detach(model)
        (alpha,) = peftcore.attach(model, "tsa", form="vector").parameters()
        nn.init.normal_(alpha)
        expected = bare + (x * alpha[:, None, None])[..., ::stride, ::stride]
        torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("form", ["matrix", "vector"])
def test_the_start_is_the_released_one_or_the_base(form: str) -> None:
    model, x = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1)), torch.randn(2, 4, 5, 5)
    bare = model(x)
    peftcore.attach(model, "tsa", form=form)
    torch.testing.assert_close(model(x), bare + 1e-4 * x)
    peftcore.detach(model)
    adapter = peftcore.attach(model, "tsa", form=form, init="identity")
    assert torch.equal(model(x), bare)
    model(x).square().sum().backward()
    adapter.check_alive()


def test_the_head_reads_transformed_features() -> None:
    toy, (_, _, batch) = ConvToy().eval(), tiny("toy")
    bare = toy(**batch).logits
    adapter = peftcore.attach(toy, "tsa", targets=None, pre_classifier=True)
    torch.testing.assert_close(toy(**batch).logits, bare)
    (beta,) = adapter.parameters()
    nn.init.normal_(beta)
    x = torch.randn(3, 16)
    expected = F.linear(x @ beta.T, toy.head.weight, toy.head.bias)
    torch.testing.assert_close(toy.head(x), expected, atol=1e-5, rtol=1e-5)
    adapter.merge()
    torch.testing.assert_close(toy.head(x), expected, atol=1e-5, rtol=1e-5)
    assert adapter.plan.trainable == 16 * 16


def test_only_kernels_of_three_are_adapted_and_counted() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 7), nn.Conv2d(8, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3),
        nn.Conv2d(16, 16, (1, 3)),
    )  # fmt: skip
    assert peftcore.plan(model, "tsa").trainable == 8 * 16 + 16 * 16
    assert peftcore.plan(model, "tsa", form="vector").trainable == 8 * 16 + 16
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(512, 512, 3), nn.Conv2d(64, 128, 3, groups=4))
    assert peftcore.plan(model, "tsa").trainable == 512 * 512 + 64 * 128 // 4


@pytest.mark.skipif("timm-cnn" not in installed().backbones, reason="no backbone plugin for CNNs")
def test_resnet_18_has_the_count_of_its_residual_blocks() -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("resnet18", num_classes=10)
    blocks = [(64, 64)] * 4
    for width in (128, 256, 512):
        blocks += [(width // 2, width), *[(width, width)] * 3]
    plan = peftcore.plan(model, "tsa")
    assert plan.trainable == sum(a * b for a, b in blocks) == 1_220_608
    assert peftcore.plan(model, "tsa", pre_classifier=True).trainable == 1_220_608 + 512**2


@pytest.mark.skipif("timm-cnn" not in installed().backbones, reason="no backbone plugin for CNNs")
@pytest.mark.parametrize("name", ["resnet18d", "efficientnet_lite0"])
def test_a_stem_of_kernel_3_is_left_alone_as_released_unless_asked_for(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3).double().eval()
    inside = [p.site.path for p in peftcore.plan(model, "tsa").placed]
    outside = {p.site.path for p in peftcore.plan(model, "tsa", stem=True).placed} - set(inside)
    stem = {"conv1.0", "conv1.3", "conv1.6"} if name == "resnet18d" else {"conv_stem"}
    assert outside == stem
    assert inside == [
        n for n, m in model.named_modules()
        if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) and n not in stem
    ]  # fmt: skip
    # what is adapted is y = f(x) + alpha(x) there, and the stem is the base's
    plain, x = copy.deepcopy(model), torch.randn(1, 3, 32, 32, dtype=torch.double)
    adapter = peftcore.attach(model, "tsa")
    with torch.no_grad():
        for item in adapter.placed:
            item.piece.alpha.normal_(std=0.1)
            plain.get_submodule(item.site.path).weight += item.piece.weight_delta()
    torch.testing.assert_close(model(x), plain(x))


def test_a_model_whose_only_convolutions_are_outside_of_its_blocks_says_so() -> None:
    with pytest.raises(TargetError, match=r"tsa.stem: .* first \(conv\), are outside .*stem: true"):
        peftcore.plan(ConvToy(), "tsa")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"targets": ["all-linear"]}, "none of the targeted layers is a convolution of kernel 3"),
        (
            {"targets": ["conv", "mlp.up"], "stem": True},
            "is of kind linear; tsa acts on convolutions",
        ),
        ({"targets": None}, "without targets nothing trains"),
        ({"targets": ["convs"]}, "Did you mean conv"),
        ({"form": "full"}, "form: "),
        ({"init": "zero"}, "init: "),
        ({"fomr": "vector"}, "Did you mean form"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(config: dict, message: str) -> None:
    model = ConvToy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, "tsa", **config)
    assert "_peftcore" not in model.__dict__
    assert all(p.requires_grad for p in model.parameters())


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean())


def test_convolutions_that_do_more_than_a_plain_one_are_refused() -> None:
    with pytest.raises(TargetError, match="is a Standardised, which does more than a plain Conv2d"):
        peftcore.plan(nn.Sequential(Standardised(4, 4, 3)), "tsa")
    wide = nn.Conv2d(4, 4, 3, padding=2, padding_mode="reflect")
    with pytest.raises(TargetError, match="pads by reflect beyond the middle"):
        peftcore.plan(nn.Sequential(wide), "tsa")


def test_a_transform_needs_a_head() -> None:
    toy = ConvToy()
    toy.head = nn.Sequential(nn.Linear(16, 3), nn.Softplus())
    for model in (nn.Sequential(nn.Conv2d(4, 4, 3)), toy):
        with pytest.raises(TargetError, match=r"pre_classifier: this model has no head that is a"):
            peftcore.plan(model, "tsa", pre_classifier=True, stem=True)


@pytest.mark.skipif("bert" not in installed().backbones, reason="no backbone plugin for BERT")
def test_families_without_convolutions_say_so() -> None:
    _, model, _ = tiny("bert")
    with pytest.raises(
        AttachError, match="tsa cannot run on bert: it needs convolutions of kernel 3"
    ):
        peftcore.plan(model, "tsa")
