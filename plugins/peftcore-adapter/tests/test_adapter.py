"""Formulas, published counts, the pair around a feed-forward part, what is refused."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import peftcore
from peftcore import AttachError, ConfigError, TargetError, installed
from peftcore.testing import Toy

WIDTH, INNER = 16, 32  # the toy's
ACTS = {"relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU(), "tanh": nn.Tanh()}
needs_llama = pytest.mark.skipif(
    "llama" not in installed().backbones, reason="no backbone plugin for LLaMA is installed"
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(0, 24, (2, 5)), "attention_mask": torch.ones(2, 5)}


def moved(model: nn.Module, method: str, **config) -> peftcore.Adapter:
    adapter = peftcore.attach(model, method, **config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return adapter


def naive(piece: nn.Module, x: Tensor, act: str, scale: float) -> Tensor:
    inner = piece.bottleneck
    hidden = torch.einsum("mi,...i->...m", inner.down.weight, x)
    hidden = ACTS[act](hidden if inner.down.bias is None else hidden + inner.down.bias)
    out = torch.einsum("om,...m->...o", inner.up.weight, hidden)
    return scale * (out if inner.up.bias is None else out + inner.up.bias)


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("placement", ["before", "after", "parallel"])
def test_each_placement_is_its_formula(placement: str, bias: bool, act: str) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    base, x = copy.deepcopy(model[0]), torch.randn(2, 3, 6)
    config = {"placement": placement, "act_fn": act, "bias": bias, "bottleneck": 4, "scale": 0.7}
    adapter = moved(model, "adapter", targets=["linear"], **config)
    piece = adapter.placed[0].piece
    if placement == "before":
        expected = base(x + naive(piece, x, act, 0.7))
    elif placement == "after":
        expected = base(x) + naive(piece, base(x), act, 0.7)
    else:
        expected = base(x) + naive(piece, x, act, 0.7)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("method", ["he_parallel", "adaptformer"])
def test_the_whole_feed_forward_part_is_one_base(method: str) -> None:
    model = Toy().eval()
    batch, seen = tokens(), {}
    block = model.blocks[1]
    block.up.register_forward_hook(lambda _, args, out: seen.update(x=args[0]))
    block.down.register_forward_hook(lambda _, args, out: seen.update(inner=args[0], out=out))
    adapter = moved(model, method, bottleneck=4)
    model(**batch)
    piece = next(p.piece for p in adapter.placed if p.site.path == "blocks.1.up")
    scale = 4.0 if method == "he_parallel" else 0.1
    base = nn.functional.linear(seen["inner"], block.down.weight, block.down.bias)
    torch.testing.assert_close(seen["out"], base + naive(piece, seen["x"], "relu", scale))
    assert adapter.plan.trainable == 2 * (2 * WIDTH * 4 + 4 + WIDTH)


@pytest.mark.parametrize("placement", ["before", "after", "parallel"])
def test_a_norm_of_its_own_is_inside_the_adapter(placement: str) -> None:
    """The adapter beside KAdaptation in its code: the norm, then the bottleneck, then the sum."""
    model = nn.Sequential(nn.Linear(6, 6)).double()
    base, x = copy.deepcopy(model[0]), torch.randn(2, 3, 6, dtype=torch.double)
    config = {"placement": placement, "bottleneck": 4, "layer_norm": True, "targets": ["linear"]}
    piece = moved(model, "pfeiffer", **config).placed[0].piece
    read = base(x) if placement == "after" else x
    centred = read - read.mean(-1, keepdim=True)
    normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    normal = normal * piece.bottleneck.norm.weight + piece.bottleneck.norm.bias
    added = naive(piece, normal, "relu", 1.0)
    expected = base(x + added) if placement == "before" else base(x) + added
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("method", "place"),
    [("adapter", "input"), ("parallel_adapter", "input"), ("he_parallel", "inner"),
     ("adaptformer", "inner")],
)  # fmt: skip
def test_dropout_acts_where_the_authors_have_it(method: str, place: str) -> None:
    model, x = Part().double(), torch.randn(2, 3, 6, dtype=torch.double)
    plain = copy.deepcopy(model)
    ends = ["path:down"] if place == "input" else ["path:up", "path:down"]
    adapter = moved(model.train(), method, bottleneck=4, dropout=0.5, targets=ends)
    piece, scale = adapter.placed[0].piece, adapter.methods[0].config.scale
    act = adapter.methods[0].config.act_fn
    torch.manual_seed(5)
    out = model(x)
    inside = nn.functional.gelu(plain.up(plain.norm(x)))
    read = plain.norm(x)
    if place == "input":
        read = plain.down(inside) if method == "adapter" else inside
    torch.manual_seed(5)
    kept = nn.functional.dropout(torch.ones_like(read if place == "input" else read[..., :4]), 0.5)
    bottleneck = piece.bottleneck
    if place == "input":
        added = naive(piece, read * kept, act, scale)
    else:
        inner = ACTS[act](read @ bottleneck.down.weight.T + bottleneck.down.bias) * kept
        added = scale * (inner @ bottleneck.up.weight.T + bottleneck.up.bias)
    torch.testing.assert_close(out, plain(x) + added)


def test_the_part_may_begin_with_its_norm_as_in_the_code_of_adaptformer() -> None:
    model, x = Part().double().eval(), torch.randn(2, 3, 6, dtype=torch.double)
    bare = model(x)
    adapter = moved(model, "adaptformer", bottleneck=4, targets=["path:norm", "path:down"])
    added = naive(adapter.placed[0].piece, x, "relu", 0.1)
    torch.testing.assert_close(model(x), bare + added)


@pytest.mark.skipif("wavlm" not in installed().backbones, reason="no backbone plugin for WavLM")
@pytest.mark.parametrize("released", [False, True])
def test_on_wavlm_the_adapter_is_that_of_peft_ser(released: bool) -> None:
    """Feng and Narayanan 2023 read h before the norm; their module adds h itself as well."""
    backbone = peftcore.backbone_named("wavlm")
    model, seen = backbone.tiny().eval().double(), {}
    batch = {
        k: v.double() if v.is_floating_point() else v for k, v in backbone.batch(model).items()
    }
    layer = model.encoder.layers[1]
    layer.layer_norm.register_forward_hook(lambda _, args, out: seen.update(h=args[0]))
    layer.final_layer_norm.register_forward_hook(lambda _, args, out: seen.update(sum=args[0]))
    plain = copy.deepcopy(layer)
    ends = ["path:encoder.layers.*.layer_norm", "mlp.down"]
    adapter = moved(model, "ser_adapter", bottleneck=4, released=released, targets=ends)
    with torch.no_grad():
        model(**batch)
        piece = next(p.piece for p in adapter.placed if p.site.path.startswith("encoder.layers.1."))
        normal = plain.layer_norm(seen["h"])
        expected = normal + plain.feed_forward(normal) + naive(piece, seen["h"], "relu", 0.1)
    torch.testing.assert_close(seen["sum"], expected + seen["h"] if released else expected)


class Part(nn.Module):
    """A pre-norm feed-forward part."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Stack(nn.Module):
    """Parts whose activations are computed again in backward, where that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Part() for _ in range(3))

    def forward(self, x: Tensor, **options: bool) -> Tensor:
        for layer in self.layers.children():
            x = checkpoint(layer, x, **options) if options else layer(x)
        return x


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_parts_have_the_same_gradients(use_reentrant: bool) -> None:
    model, x = Stack(), torch.randn(2, 6, requires_grad=True)
    ends = ["path:layers.*.up", "path:layers.*.down"]
    adapter = moved(model, "he_parallel", bottleneck=3, dropout=0.0, targets=ends)
    out = model(x)
    expected = torch.autograd.grad(out.square().sum(), adapter.parameters())
    model(x, use_reentrant=use_reentrant).square().sum().backward()
    for parameter, grad in zip(adapter.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)
    # what a recomputation left behind is neither copied nor used
    assert torch.equal(copy.deepcopy(model)(x), out)
    assert torch.equal(model(x), out)


def test_a_part_is_kept_apart_from_that_of_another_adapter() -> None:
    model, batch = Toy().eval(), tokens()
    single = {}
    for name in "ab":
        moved(model, "he_parallel", bottleneck=4, name=name)
        single[name] = model(**batch).logits
    with peftcore.route(model, ["b", "a"]):
        mixed = model(**batch).logits
    torch.testing.assert_close(mixed[0], single["b"][0])
    torch.testing.assert_close(mixed[1], single["a"][1])


@needs_llama
@pytest.mark.parametrize(
    ("method", "config", "count"),
    [
        ("adapter", {}, 67_108_864),
        ("parallel_adapter", {}, 247_463_936),
        ("adapter", {"placement": "before", "targets": ["mlp.gate", "mlp.up"]}, 134_217_728),
        ("he_parallel", {}, 32 * (2 * 4096 * 512 + 512 + 4096)),
    ],
)
def test_llama_7b_has_the_published_counts(method: str, config: dict, count: int) -> None:
    from peftcore import build_on_meta

    plan = peftcore.plan(build_on_meta("llama-7b", head="causal-lm"), method, **config)
    assert plan.trainable == count
    shares = {67_108_864: 0.9861, 247_463_936: 3.5423}
    if count in shares:
        assert round(plan.percent("of_total"), 4) == shares[count]


def test_the_counts_of_the_cell_type_study_are_a_width_of_24() -> None:
    model = nn.ModuleList(nn.Sequential(nn.Linear(200, 800), nn.Linear(800, 200)) for _ in range(6))
    plan = peftcore.plan(model, "pfeiffer", bottleneck=24, targets=["path:*.1"])
    assert plan.trainable == 58_944


def test_houlsby_trains_two_adapters_and_the_norms_of_each_block() -> None:
    plan = peftcore.plan(Toy(), "houlsby", bottleneck=4)
    bottleneck = 2 * WIDTH * 4 + 4 + WIDTH
    assert plan.trainable == 2 * (2 * bottleneck + 2 * 2 * WIDTH)
    last = {"roles": ["mlp.down"], "layers": "last 1"}
    plan = peftcore.plan(Toy(), "houlsby", bottleneck=4, targets=last)
    assert [s.info.path for s in plan.selected] == ["blocks.1.norm1"] * 2 + ["blocks.1.norm2"] * 2
    assert not peftcore.plan(Toy(), "houlsby", train_norms=False).selected


@pytest.mark.parametrize(
    ("init", "down", "up"), [("bert", 0.02, 0.02), ("houlsby", 0.0088, 0.0088), ("mam", 0.0361, 0)]
)
def test_the_start_has_the_published_spread(init: str, down: float, up: float) -> None:
    model = nn.Sequential(nn.Linear(256, 256))
    adapter = peftcore.attach(model, "adapter", init=init, bottleneck=256, targets=["linear"])
    inner = adapter.placed[0].piece.bottleneck
    assert inner.down.weight.std().item() == pytest.approx(down, rel=0.05)
    assert inner.up.weight.std().item() == pytest.approx(up, rel=0.05)
    if init == "houlsby":
        assert inner.down.weight.abs().max() <= 0.02


def test_on_a_bf16_base_the_adapter_computes_in_fp32() -> None:
    model = nn.Sequential(nn.Linear(6, 5)).bfloat16()
    base, x = copy.deepcopy(model[0]), torch.randn(3, 6).bfloat16()
    adapter = moved(model, "adapter", targets=["linear"], bottleneck=4)
    added = naive(adapter.placed[0].piece, base(x).float(), "tanh", 1.0)
    torch.testing.assert_close(model(x), base(x) + added.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("adapter", {"bottleneck": 0}, r"bottleneck: .*greater than or equal to 1"),
        ("adapter", {"botleneck": 8}, "Did you mean bottleneck"),
        ("adapter", {"scale": 0}, "scale: "),
        ("adapter", {"dropout": 1.0}, "dropout: "),
        ("adapter", {"placement": "beside"}, "placement: "),
        ("adapter", {"placement": "before", "targets": ["embeddings"]}, "takes token numbers"),
        ("adapter", {"targets": {"roles": ["mlp.down"], "layers": [2]}}, "names block 2"),
        ("he_parallel", {"targets": ["mlp.up"]}, "block 0 has only one"),
        ("he_parallel", {"targets": ["attention.query", "mlp.up"]}, "blocks.0.up .* is no end"),
        ("he_parallel", {"targets": ["all-linear"]}, "blocks.0.attention.value .* is no end"),
        ("he_parallel", {"targets": ["block"]}, "he_parallel acts on linear layers"),
        ("ser_adapter", {"released": True}, "enters the norm .* blocks.0.up .* is none"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(
    method: str, config: dict, message: str
) -> None:
    model = Toy()
    keys = list(model.state_dict())
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, method, **config)
    assert list(model.state_dict()) == keys
    assert all(p.requires_grad for p in model.parameters())


def test_convolutions_and_models_without_norms_are_refused() -> None:
    with pytest.raises(TargetError, match="is of kind conv2d"):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8))
        peftcore.attach(model, "adapter", targets=["conv"])
    with pytest.raises(TargetError, match="no norm to train"):
        peftcore.attach(nn.Sequential(nn.Linear(3, 3)), "houlsby", targets=["linear"])


@needs_llama
def test_only_a_parallel_adapter_can_stand_at_a_slice() -> None:
    from peftcore import backbone_named

    model = backbone_named("gpt2").tiny()
    assert peftcore.plan(model, "parallel_adapter", targets=["attention.query"]).placed
    for placement in ("before", "after"):
        with pytest.raises(AttachError, match="this is a slice of one"):
            peftcore.plan(model, "adapter", targets=["attention.query"], placement=placement)
