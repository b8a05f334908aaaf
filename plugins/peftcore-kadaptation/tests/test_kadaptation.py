"""Contracts, formulas against torch.kron, the two starts, what is shared, counts, errors."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftcore
from peftcore import AttachError, ConfigError, TargetError, installed
from peftcore.testing import MethodContract, Toy


class TestKadaptation(MethodContract):
    method = "kadaptation"
    # their projection has no bias, and is not called
    on = {name: {"bias": False} for name in ("timm-beit", "timm-swin-v2")}
    config = {"phm_dim": 4, "scale": 4.0}


class TestWithoutBias(MethodContract):
    method = "kadaptation"
    config = {"phm_dim": 8, "scale": 4.0, "bias": False, "targets": ["attention.*", "mlp.*"]}


class TestCompacter(MethodContract):
    method = "compacter"
    config = {"bottleneck": 8, "phm_dim": 4}
    # WavLM reads the weight of attention's output and never calls that layer
    on = {"wavlm": {"targets": ["attention", "mlp.down"]}}
    merges = False


#: The Compacter that KAdaptation is compared with, in the code of KAdaptation.
SIBLING = {
    "layer_norm": True, "phm_c_init": "uniform", "train_rule": False, "train_norms": False,
    "targets": ["mlp.down"],
}  # fmt: skip


class TestCompacterBesideKadaptation(MethodContract):
    method = "compacter"
    config = {**SIBLING, "bottleneck": 8, "phm_dim": 2}
    merges = False


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens(rows: int = 3) -> dict[str, Tensor]:
    ids = torch.randint(0, 24, (rows, 5))
    return {"input_ids": ids, "attention_mask": torch.ones(rows, 5, dtype=torch.long)}


def moved(model: nn.Module, method: str, **config) -> peftcore.Adapter:
    adapter = peftcore.attach(model, method, **config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return adapter


class Blocks(nn.Module):
    """Projections of two blocks, as wide as asked for; out is the sum over all."""

    def __init__(self, blocks: int, width: int, names: tuple[str, ...], wide: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(blocks):
            self.layers.append(nn.ModuleDict({n: nn.Linear(width, wide or width) for n in names}))

    def forward(self, x: Tensor) -> Tensor:
        return sum(f(x) for layer in self.layers.children() for f in layer.values())


def test_the_update_is_the_sum_of_kronecker_products() -> None:
    model = nn.Sequential(nn.Linear(12, 20)).double()
    base, x = copy.deepcopy(model), torch.randn(2, 3, 12, dtype=torch.double)
    adapter = moved(model, "kadaptation", phm_dim=4, scale=1.7, targets=["linear"])
    piece = adapter.placed[0].piece
    delta = torch.zeros(12, 20, dtype=torch.double)
    for i in range(4):
        A = torch.outer(piece.slow.a[i], piece.slow.a_prime[i])
        B = torch.outer(piece.u[i], piece.v[i])
        delta += torch.kron(A, B)
    expected = base(x) + 1.7 * x @ delta + piece.beta
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(piece.weight_delta(), 1.7 * delta.T)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


def test_dropout_acts_on_the_update_matrix_in_training_only() -> None:
    model, x = nn.Sequential(nn.Linear(12, 12, bias=False)), torch.eye(12)
    nn.init.zeros_(model[0].weight)
    config = {"phm_dim": 4, "scale": 2.0, "bias": False, "targets": ["linear"]}
    adapter = moved(model, "kadaptation", dropout=0.5, **config)
    delta = adapter.placed[0].piece.weight_delta().T
    out = model.train()(x)
    kept = out != 0
    assert 0.3 < kept.float().mean() < 0.7
    torch.testing.assert_close(out[kept], 2 * delta[kept])
    torch.testing.assert_close(model.eval()(x), delta)


@pytest.mark.parametrize("init", ["released", "paper"])
def test_under_the_released_start_no_kronecker_factor_ever_trains(init: str) -> None:
    model, batch = Toy(), tokens()
    bare = model(**batch).logits
    adapter = peftcore.attach(model, "kadaptation", phm_dim=4, init=init)
    torch.testing.assert_close(model(**batch).logits, bare)
    optimiser = torch.optim.SGD(adapter.parameters(), 0.1)
    alive: list[set[str]] = []
    for _ in range(2):
        optimiser.zero_grad()
        model(**batch).logits.square().sum().backward()
        grads = {n.rpartition(".")[2]: p.grad for n, p in adapter.named_parameters()}
        alive.append({n for n, grad in grads.items() if grad.any()})
        optimiser.step()
    if init == "released":
        assert alive == [{"beta"}, {"beta"}]
    else:
        assert alive == [{"beta", "v"}, {"beta", "a", "a_prime", "u", "v"}]


def test_the_slow_weights_are_shared_by_role_and_the_bias_within_a_block(tmp_path) -> None:
    model, batch = Toy().eval(), tokens()
    adapter = moved(model, "kadaptation", phm_dim=4)
    tuned = model(**batch).logits
    adapter.save(tmp_path / "a")
    stored = sorted(load_file(tmp_path / "a" / "adapter.safetensors"))
    assert [name for name in stored if ".slow." in name] == [
        f"blocks.0.attention.{role}.kadaptation.slow.{leaf}"
        for role in ("query", "value")
        for leaf in ("a", "a_prime")
    ]
    assert [name for name in stored if name.endswith(".beta")] == [
        f"blocks.{i}.attention.query.kadaptation.beta" for i in range(2)
    ]
    assert len(stored) == 4 + 2 + 2 * 2 * 2
    adapter.detach()
    again = peftcore.load(model, tmp_path / "a")
    assert torch.equal(model(**batch).logits, tuned)
    with torch.no_grad():
        again.placed[0].piece.slow.a.zero_()
    pieces = [p.piece for p in again.placed if p.site.role == "attention.query"]
    assert not any(piece.weight_delta().any() for piece in pieces)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        again.placed[2].piece.beta.add_(1.0)
    assert not torch.equal(model(**batch).logits, twin(**batch).logits)
    one, two = (peftcore.adapters(m)["default"].placed[2:] for m in (model, twin))
    assert one[0].piece.beta is one[1].piece.beta
    assert two[0].piece.beta is two[1].piece.beta is not one[0].piece.beta


def test_layers_of_unequal_width_have_biases_of_their_own() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 4))
    plan = peftcore.plan(model, "kadaptation", phm_dim=4, targets=["linear"])
    assert plan.trainable == 2 * 16 + (8 + 8) + (8 + 4) + 8 + 4


def test_twelve_layers_of_width_768_have_the_published_counts() -> None:
    model = Blocks(12, 768, ("q", "v"))
    query, value = (["path:layers.*.q"], ["path:layers.*.v"])
    plan = peftcore.plan(model, "kadaptation", targets=[*query, *value])
    # a model that no plugin knows has one role for all, hence one set of slow weights for two
    slow = 2 * 32 * 32
    assert plan.trainable + slow == 12 * (4 * 32 * 24 + 768) + 4 * 32 * 32 == 50_176
    down = Blocks(12, 3072, ("down",), 768)
    sibling = {**SIBLING, "bottleneck": 64, "targets": ["linear"]}
    assert peftcore.plan(down, "compacter", **sibling).trainable == 48_384
    trained = {**sibling, "train_rule": True}
    assert peftcore.plan(down, "compacter", **trained).trainable == 48_384 + 64


@pytest.mark.skipif("bert" not in installed().backbones, reason="no BERT")
def test_bert_base_has_the_published_count_of_its_shape() -> None:
    from peftcore import build_on_meta

    model = build_on_meta("bert-base-cased", head="none")
    assert peftcore.plan(model, "kadaptation").trainable == 50_176
    assert peftcore.plan(model, "compacter", **SIBLING, bottleneck=64).trainable == 48_384


def test_t5_base_has_the_published_shares_of_compacter() -> None:
    """Karimi Mahabadi et al. 2021, table 1: Compacter 0.073 %, Compacter++ 0.047 %."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(
        d_model=768, d_ff=3072, num_layers=12, num_heads=12, vocab_size=32128
    )
    with torch.device("meta"):
        model = transformers.T5ForConditionalGeneration(config)
    feed_forward = ["path:**.DenseReluDense.wo"]
    both = ["path:**.SelfAttention.o", *feed_forward]
    norms = 62 * 768
    for targets, adapters, share in ((both, 48, 0.073), (feed_forward, 24, 0.047)):
        plan = peftcore.plan(model, "compacter", targets=targets)
        assert plan.base == 222_903_552
        assert plan.trainable == adapters * (2 * (768 + 24) + 24 + 768) + 4**3 + norms
        assert round(plan.percent("of_base"), 3) == share


def test_compacter_starts_as_released_or_as_the_base() -> None:
    model, x = nn.Sequential(nn.Linear(256, 256)), torch.randn(2, 256)
    bare = model(x)
    adapter = peftcore.attach(model, "compacter", targets=["linear"])
    piece = adapter.placed[0].piece
    assert piece.down.b.shape == (256 // 32,) and not piece.down.b.any() and not piece.up.b.any()
    assert piece.rule.A.std().item() == pytest.approx(0.01, rel=0.2)
    # √2 times the limit of Glorot and Bengio 2010 for a matrix of m by 1, of which rank 1 is made
    for fast in (piece.down.u, piece.down.v, piece.up.u, piece.up.v):
        limit = 2**0.5 * (6 / (fast.shape[1] + 1)) ** 0.5
        assert 0.6 * limit < fast.abs().max().item() <= limit
    adapter.detach()
    adapter = peftcore.attach(model, "compacter", init="identity", targets=["linear"])
    assert torch.equal(model(x), bare)
    adapter.detach()
    uniform = {"phm_c_init": "uniform", "targets": ["linear"]}
    rule = peftcore.attach(model, "compacter", **uniform).placed[0].piece.rule.A
    assert rule.std().item() == pytest.approx(3**-0.5, rel=0.2) and rule.abs().max() <= 1


@pytest.mark.parametrize("gain", [None, 1.0])
def test_the_start_of_the_fast_weights_has_the_gain_of_the_authors(gain: float | None) -> None:
    model = nn.Sequential(nn.Linear(640, 640))
    config = {} if gain is None else {"gain": gain}
    piece = peftcore.attach(model, "kadaptation", targets=["linear"], **config).placed[0].piece
    limit = (gain or 2**0.5) * (6 / (640 / 32 + 1)) ** 0.5
    assert 0.95 * limit < piece.u.abs().max().item() <= limit
    assert piece.u.std().item() == pytest.approx(limit / 3**0.5, rel=0.05)
    assert not piece.v.any()


def test_compacter_trains_the_norms_of_its_layers_unless_told_otherwise() -> None:
    plan = peftcore.plan(Toy(), "compacter", bottleneck=4)
    assert {s.info.name for s in plan.selected} == {
        f"blocks.{i}.norm{j}.{leaf}" for i in (0, 1) for j in (1, 2) for leaf in ("weight", "bias")
    }
    last = {"roles": ["mlp.down"], "layers": "last 1"}
    plan = peftcore.plan(Toy(), "compacter", bottleneck=4, targets=last)
    assert {s.info.block for s in plan.selected} == {1}
    assert not peftcore.plan(Toy(), "compacter", bottleneck=4, train_norms=False).selected


@pytest.mark.parametrize("layer_norm", [True, False])
def test_compacter_is_a_bottleneck_of_kronecker_sums(layer_norm: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 12)).double()
    base, x = copy.deepcopy(model), torch.randn(2, 3, 5, dtype=torch.double)
    config = {"bottleneck": 8, "layer_norm": layer_norm, "targets": ["linear"]}
    piece = moved(model, "compacter", **config).placed[0].piece
    A, z = piece.rule.A, base(x)

    def dense(phm: nn.Module) -> Tensor:
        return sum(torch.kron(A[i], torch.outer(phm.u[i], phm.v[i])) for i in range(4))

    read = z
    if layer_norm:
        centred = z - z.mean(-1, keepdim=True)
        normal = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        read = normal * piece.norm.weight + piece.norm.bias
    inner = read @ dense(piece.down) + piece.down.b
    inner = inner / 2 * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (inner + 0.044715 * inner**3)))
    expected = z + inner @ dense(piece.up) + piece.up.b
    torch.testing.assert_close(model(x), expected)


def test_a_rule_that_is_not_trained_is_stored_all_the_same(tmp_path) -> None:
    model, batch = Toy().eval(), tokens()
    adapter = moved(model, "compacter", bottleneck=8, train_rule=False)
    tuned = model(**batch).logits
    adapter.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    rules = [name for name in stored if ".rule." in name]
    assert rules == ["blocks.0.attention.output.compacter.rule.A"]
    adapter.detach()
    peftcore.load(model, tmp_path / "a")
    assert torch.equal(model(**batch).logits, tuned)


@pytest.mark.parametrize("bias", [True, False])
def test_a_weight_that_the_model_reads_itself_can_be_updated(bias: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, bias=bias)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    with pytest.raises(TargetError, match=r"dropout 0.1 cannot act .*reads the weight"):
        peftcore.attach(model, "kadaptation", phm_dim=4, dropout=0.1)
    if not bias:
        with pytest.raises(AttachError, match="has no bias that KroneckerWithBias could change"):
            peftcore.attach(model, "kadaptation", phm_dim=4)
    x, plain = torch.randn(2, 3, 8), copy.deepcopy(model)
    adapter = moved(model, "kadaptation", phm_dim=4, bias=bias, scale=4.0)
    with torch.no_grad():
        for item in adapter.placed:
            attention = plain.get_submodule(item.site.path)
            rows = slice(*item.site.features)
            attention.in_proj_weight[rows] += item.piece.weight_delta()
            if bias:
                attention.in_proj_bias[rows] += item.piece.beta
    tuned = model(x)
    torch.testing.assert_close(tuned, plain(x))
    if not bias:
        adapter.merge()
        torch.testing.assert_close(model(x), tuned)


@pytest.mark.parametrize(
    ("method", "config", "message"),
    [
        ("kadaptation", {}, r"phm_dim: 32 does not divide 16, .*Write phm_dim: 16"),
        ("kadaptation", {"phm_dim": 3}, r"3 does not divide 16, .* phm_dim: 1"),
        ("kadaptation", {"phm_dim": 0}, "phm_dim: "),
        ("kadaptation", {"phm_dim": 4, "dropout": 1.0}, "dropout: "),
        ("kadaptation", {"phm_dim": 4, "targets": ["norm"]}, "is of kind norm"),
        ("kadaptation", {"bias": False, "init": "released"}, "only the bias trains"),
        ("kadaptation", {"targets": {"roles": ["mlp.up"], "layers": [2]}}, "names block 2"),
        ("compacter", {"bottleneck": 6}, "bottleneck 6 is no multiple of phm_dim 4"),
        ("compacter", {"bottleneck": 0}, "bottleneck: "),
        ("compacter", {"phm_dim": 3, "bottleneck": 9}, "3 does not divide 16"),
        ("compacter", {}, r"32nd of the 16 features of .*phm_dim 4. Write bottleneck: 4"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(
    method: str, config: dict, message: str
) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, method, **config)
    assert "_peftcore" not in model.__dict__
    assert all(p.requires_grad for p in model.parameters())


def test_compacter_refuses_convolutions() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Linear(8, 8))
    with pytest.raises(TargetError, match="is of kind conv1d"):
        peftcore.attach(model, "compacter", targets=["conv"])
