"""Contracts, the formula against dense sums, what is shared, counts, sparsity, mistakes."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import peftcore
from peftcore import ConfigError, installed
from peftcore.testing import MethodContract, Toy
from peftcore_s2lora import effective
from peftcore_s2lora.method import keep_largest, scheduled


class TestWithoutSparsity(MethodContract):
    method = "s2lora"
    config = {"rank": 4, "sparsity": "none"}


class TestOnRectangularLayersToo(MethodContract):
    method = "s2lora"
    config = {"rank": 4, "scale": 2.0, "gamma": 0.1, "targets": ["all-linear"]}


class Layers(nn.Module):
    """Layers as wide as asked for, each on random inputs of its own; shapes are (in, out)."""

    def __init__(self, *shapes: tuple[int, int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*shape) for shape in shapes)

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        return [f(x) for f, x in zip(self.layers.children(), inputs, strict=True)]


def attached(model: nn.Module, **config) -> peftcore.Adapter:
    """Attach to all linear layers and move every parameter."""
    config = {"rank": 3, "sparsity": "none", "targets": ["linear"], **config}
    adapter = peftcore.attach(model, "s2lora", **config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


def coefficients(adapter: peftcore.Adapter) -> Tensor:
    return torch.cat([item.piece.coefficients for item in adapter.placed])


def dense(pair: nn.Module, c: Tensor, narrows: bool) -> Tensor:
    """Return the sum of rank-one updates, [out, in], term by term."""
    write, read = (pair.Q.T, pair.P.T) if narrows else (pair.P, pair.Q)
    return sum(c[j] * torch.outer(write[:, j], read[j]) for j in range(len(c)))


def test_the_update_and_its_gradients_are_those_of_the_dense_sums() -> None:
    shapes = [(6, 6), (6, 10), (10, 6), (6, 6), (6, 10)]
    model = Layers(*shapes).double()
    base = copy.deepcopy(model)
    inputs = [torch.randn(2, 3, n, dtype=torch.double) for n, _ in shapes]
    adapter = attached(model, scale=0.7)
    square, oblong = (adapter.placed[i].piece.pair for i in (0, 1))
    pairs = [square, oblong, oblong, square, oblong]
    assert all(i.piece.pair is p for i, p in zip(adapter.placed, pairs, strict=True))
    assert square.P.shape == (6, 3) and oblong.P.shape == (10, 3) and oblong.Q.shape == (3, 6)

    expected = base(*inputs)
    for i, (item, pair) in enumerate(zip(adapter.placed, pairs, strict=True)):
        update = 0.7 * dense(pair, item.piece.coefficients, shapes[i] == (10, 6))
        torch.testing.assert_close(item.piece.weight_delta(), update)
        expected[i] = expected[i] + inputs[i] @ update.T
    outputs = model(*inputs)
    torch.testing.assert_close(outputs, expected)
    grads = [
        torch.autograd.grad(sum(o.square().sum() for o in outs), adapter.parameters())
        for outs in (outputs, expected)
    ]
    torch.testing.assert_close(*grads)
    adapter.merge()
    torch.testing.assert_close(model(*inputs), expected)


def test_the_shared_gradient_is_the_sum_over_the_layers() -> None:
    model = Layers((6, 6), (6, 6), (6, 6)).double()
    inputs = [torch.randn(4, 6, dtype=torch.double) for _ in range(3)]
    pair = attached(model).placed[0].piece.pair
    parts = [
        torch.autograd.grad(o.square().sum(), (pair.P, pair.Q), retain_graph=True)
        for o in model(*inputs)
    ]
    sum(o.square().sum() for o in model(*inputs)).backward()
    torch.testing.assert_close(pair.P.grad, sum(p for p, _ in parts))
    torch.testing.assert_close(pair.Q.grad, sum(q for _, q in parts))


def test_it_starts_as_the_base_and_only_the_coefficients_learn_at_first() -> None:
    model, inputs = Layers((64, 64), (64, 64)), [torch.randn(5, 64) for _ in range(2)]
    bare = model(*inputs)
    adapter = peftcore.attach(model, "s2lora", targets=["linear"])
    out = model(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(out, bare, strict=True))
    sum(o.square().sum() for o in out).backward()
    alive = {name.rpartition(".")[2] for name, p in adapter.named_parameters() if p.grad.any()}
    assert alive == {"coefficients"}
    pair = adapter.placed[0].piece.pair
    for matrix in (pair.P, pair.Q):
        assert 0.018 < matrix.std() < 0.022 and abs(matrix.mean()) < 0.002


def test_effective_leaves_out_coefficients_that_are_zero() -> None:
    adapter = attached(Layers((6, 6), (6, 6), (6, 8)))
    shared = 2 * 6 * 3 + (6 + 8) * 3
    assert effective(adapter) == shared + 9 == sum(p.numel() for p in adapter.parameters())
    with torch.no_grad():
        adapter.placed[1].piece.coefficients[:2] = 0
    assert effective(adapter) == shared + 7


def test_the_penalties() -> None:
    def penalty(**config):
        adapter = attached(Layers((6, 6), (6, 6), (6, 8)).double(), **config)
        return adapter, adapter.extra_loss()

    assert penalty()[1] == 0.0
    assert penalty(beta=0.0, sparsity="l1")[1] == 0.0
    adapter, loss = penalty(sparsity="l1", beta=0.25)
    torch.testing.assert_close(loss, 0.25 * coefficients(adapter).abs().sum())
    adapter, loss = penalty(gamma=0.5)
    eye = torch.eye(3, dtype=torch.double)
    expected = 0.0
    for pair in (adapter.placed[0].piece.pair, adapter.placed[2].piece.pair):
        expected += (pair.P.T @ pair.P - eye).norm() ** 2 + (pair.Q @ pair.Q.T - eye).norm() ** 2
    torch.testing.assert_close(loss, 0.5 * expected)
    with torch.no_grad():
        for item in (adapter.placed[0], adapter.placed[2]):
            for matrix in (item.piece.pair.P, item.piece.pair.Q):
                nn.init.orthogonal_(matrix)
    assert adapter.extra_loss() < 1e-20


def test_the_proximal_step_is_the_soft_threshold_and_zeros_only_grow_in_number() -> None:
    adapter = attached(Layers((6, 6), (6, 6)), sparsity="proximal", threshold=0.3)
    before = coefficients(adapter)
    adapter.after_step(1, 10)
    expected = before.sign() * (before.abs() - 0.3).clamp_min(0)
    torch.testing.assert_close(coefficients(adapter), expected)
    alive = [effective(adapter)]
    for step in range(2, 11):
        adapter.after_step(step, 10)
        alive.append(effective(adapter))
    assert alive == sorted(alive, reverse=True) and alive[-1] == 2 * 6 * 3 < alive[0]


def test_the_budget_is_over_all_layers_and_met_exactly_in_the_end() -> None:
    model = Toy()
    ids = torch.randint(0, 24, (4, 6))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 3}
    adapter = peftcore.attach(model, "s2lora", rank=4, sparsity="topk", budget=5, scale=10)
    optimizer = torch.optim.Adam(adapter.parameters(), 1e-2)
    count, steps = 8 * 4, 12
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        whole = coefficients(adapter).detach()
        adapter.after_step(step, steps)
        now = coefficients(adapter).detach()
        kept = scheduled(count, 5, step / steps)
        assert (now != 0).sum() == kept
        assert torch.equal(now[now != 0], whole[now != 0])
        if kept < count:
            assert whole[now == 0].abs().max() <= now[now != 0].abs().min()
    assert kept == 5 and effective(adapter) == 2 * 16 * 4 + 5


def test_a_coefficient_that_was_zeroed_can_come_back() -> None:
    c = [torch.tensor([3.0, 1.0]), torch.tensor([2.0, -4.0])]
    keep_largest(c, 2)
    assert torch.equal(torch.cat(c), torch.tensor([3.0, 0.0, 0.0, -4.0]))
    c[0][1] = -5.0
    keep_largest(c, 2)
    assert torch.equal(torch.cat(c), torch.tensor([0.0, -5.0, 0.0, -4.0]))


def test_the_schedule_is_half_a_cosine() -> None:
    kept = [scheduled(1000, 10, t / 100) for t in range(101)]
    assert kept[0] == 1000 and kept[50] == 505 and kept[100] == scheduled(1000, 10, 1.5) == 10
    assert kept == sorted(kept, reverse=True)
    assert abs(kept[25] - (10 + 990 * (1 + math.sqrt(0.5)) / 2)) <= 0.5


def test_the_pair_is_stored_once_and_stays_shared(tmp_path) -> None:
    model = Toy().eval()
    ids = torch.randint(0, 24, (3, 5))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    adapter = attached(model, targets=["*attention.{query,key,value,output}"], scale=0.1)
    tuned = model(**batch).logits
    adapter.save(tmp_path / "a")
    stored = load_file(tmp_path / "a" / "adapter.safetensors")
    prefix = "blocks.0.attention.query.s2lora.pair."
    assert [n for n in stored if ".pair." in n] == [prefix + "P", prefix + "Q"]
    assert len(stored) == 2 + 8
    adapter.detach()
    again = peftcore.load(model, tmp_path / "a")
    torch.testing.assert_close(model(**batch).logits, tuned)
    copied = peftcore.adapters(copy.deepcopy(model))["default"].placed
    with torch.no_grad():
        again.placed[0].piece.pair.P.zero_()
    assert not any(item.piece.weight_delta().any() for item in again.placed)
    assert all(item.piece.pair is copied[0].piece.pair for item in copied)
    assert all(item.piece.weight_delta().any() for item in copied)


@pytest.mark.skipif("whisper" not in installed().backbones, reason="no backbone plugin for Whisper")
@pytest.mark.parametrize(
    ("name", "width", "layers", "rank", "count"),
    [
        ("whisper-small", 768, 144, 32, 53_760),
        ("whisper-medium", 1024, 288, 64, 149_504),
        ("whisper-large-v2", 1280, 384, 64, 188_416),
    ],
)
def test_whisper_has_2dr_and_r_for_each_attention_matrix(name, width, layers, rank, count) -> None:
    from peftcore import build_on_meta

    plan = peftcore.plan(build_on_meta(name), "s2lora", rank=rank)
    assert plan.trainable == 2 * width * rank + layers * rank == count


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 17}, r"rank 17 is above the size of .* rank 16 at most. Write rank: 16 or less"),
        ({"rank": 0}, "rank: "),
        ({"rank": 4, "sparsity": "topk"}, "sparsity: topk needs a budget"),
        ({"rank": 4, "sparsity": "proximal"}, "sparsity: proximal needs a threshold"),
        ({"rank": 4, "budget": 3}, "sparsity is l1. Leave budget out, or write sparsity: topk"),
        ({"rank": 4, "sparsity": "topk", "budget": 33}, "budget 33 is above 32, the number of"),
        ({"rank": 4, "sparsity": "topk", "budget": 0}, "budget"),
        ({"rank": 4, "sparsity": "l2"}, "sparsity: "),
        ({"beta": -1.0}, "beta: "),
        ({"targets": ["norm"]}, "is of kind norm; s2lora acts on linear layers"),
        ({"targets": ["attention.qeury"]}, "Did you mean attention.query"),
    ],
)
def test_bad_input_is_refused_before_anything_changes(config: dict, message: str) -> None:
    model = Toy()
    with pytest.raises(ConfigError, match=message):
        peftcore.attach(model, "s2lora", **config)
    assert "_peftcore" not in model.__dict__
    assert all(p.requires_grad for p in model.parameters())


def test_the_slices_of_a_layer_that_is_targeted_itself_are_not_counted_besides() -> None:
    model = nn.TransformerEncoderLayer(12, 2, 24, batch_first=True)
    roles = ["attention.qkv", "attention.query", "attention.value"]
    with pytest.raises(ConfigError, match=r"budget 4 is above 3, .* coefficients of 1 layers"):
        peftcore.plan(model, "s2lora", rank=3, sparsity="topk", budget=4, targets=roles)
    plan = peftcore.plan(model, "s2lora", rank=3, sparsity="topk", budget=3, targets=roles)
    assert plan.trainable == 3 * (12 + 36) + 3
