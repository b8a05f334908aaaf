"""What trains and what does not, files, counts, mistakes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2Model

import peftcore
from peftcore import (
    AttachError,
    CheckpointError,
    ConfigError,
    Examples,
    TargetError,
    backbone_named,
    installed,
    read,
    survey,
    validated,
)
from peftcore.testing import FakeQuantLinear, Toy, run, same
from peftcore_sparse.config import SparseConfig
from peftcore_sparse.method import Sparse
from peftcore_sparse.pieces import SparseLinear

WEIGHTS = 2 * (4 * 16 * 16 + 2 * 16 * 32)


def small() -> tuple[nn.Module, dict[str, Tensor]]:
    model = Toy().eval()
    return model, backbone_named("toy").batch(model, rows=4)


def train(model: nn.Module, adapter: peftcore.Adapter, batch: Any, steps: int = 10) -> Any:
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("p", [0.4, 0.8])
@pytest.mark.parametrize("scope", ["global", "tensor"])
@pytest.mark.parametrize("prune", ["freeze", "zero"])
@pytest.mark.parametrize("score", ["magnitude", "fisher"])
def test_only_the_chosen_weights_move_and_they_are_as_many_as_p_leaves(
    p: float, scope: str, prune: str, score: str
) -> None:
    model, batch = small()
    names = [n for n, p in model.named_parameters() if n.startswith("blocks") and p.dim() == 2]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    examples = Examples([backbone_named("toy").batch(model, rows=1) for _ in range(4)])
    adapter = peftcore.attach(
        model, "sparse", p=p, scope=scope, prune=prune, score=score, samples=4, examples=examples
    )
    sizes = [before[name].numel() for name in names]
    k = sum(n - n * round(10 * p) // 10 for n in ([WEIGHTS] if scope == "global" else sizes))
    assert adapter.plan.trainable == sum(q.numel() for q in adapter.parameters()) == k
    train(model, adapter, batch)
    masks = {item.site.path: item.piece.index for item in adapter.placed}
    adapter.merge()
    moved = 0
    for name, value in model.state_dict().items():
        if name not in names:
            assert name not in before or torch.equal(value, before[name])
            continue
        inside = torch.zeros(value.numel(), dtype=torch.bool)
        inside[masks.get(name.removesuffix(".weight"), [])] = True
        base = before[name].flatten() if prune == "freeze" else torch.zeros(value.numel())
        assert torch.equal(value.flatten()[~inside], base[~inside])
        moved += int((value.flatten() != before[name].flatten())[inside].sum())
    assert moved > 0.9 * k


def test_weight_decay_acts_on_the_weights_and_not_on_their_changes() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4)), torch.zeros(1, 4)
    weight = model[0].weight.detach().clone()
    adapter = peftcore.attach(model, "sparse", p=0.5, targets=["linear"])
    optimizer = torch.optim.SGD(adapter.parameters(), lr=0.5, weight_decay=0.5)
    model(x).sum().backward()
    optimizer.step()
    adapter.merge()
    index = adapter.placed[0].piece.index
    expected = weight.flatten().index_copy(0, index, 0.75 * weight.flatten()[index])
    torch.testing.assert_close(model[0].weight.flatten(), expected)


def test_the_gradient_is_that_of_the_whole_weight_at_the_chosen_places() -> None:
    model, batch = small()
    model(**batch).loss.backward()
    whole = {n: p.grad.flatten().clone() for n, p in model.named_parameters()}
    adapter = peftcore.attach(model, "sparse", p=0.7)
    model.zero_grad()
    model(**batch).loss.backward()
    for item in adapter.placed:
        expected = whole[f"{item.site.path}.weight"][item.piece.index]
        torch.testing.assert_close(item.piece.values.grad, expected)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_layer_keeps_no_copy_of_its_weight_and_its_gradients_are_those_of_the_plain_formula(
    zero: bool, dtype: torch.dtype
) -> None:
    linear, x = nn.Linear(8, 6, dtype=dtype), torch.randn(2, 3, 8, dtype=dtype)
    given = [x, linear.weight.detach(), torch.randn(10, dtype=dtype), linear.bias.detach()]
    index = torch.randperm(48)[:10].sort().values
    piece = SparseLinear(index, zero=zero)
    gradients, kept = [], []
    for plain in (True, False):
        leaves = [t.clone().requires_grad_() for t in given]
        piece.values = nn.Parameter(leaves[2].detach())
        known = [*leaves[:2], piece.values, piece.index]

        def note(t: Tensor, known: list[Tensor] = known) -> Tensor:
            kept.append(t.data_ptr() in [k.data_ptr() for k in known])
            return t

        with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
            kept.clear()
            if plain:
                out = nn.functional.linear(leaves[0], piece(leaves[1]), leaves[3])
            else:
                out = piece.through(linear, leaves[0], leaves[1], leaves[3])
        out.sin().sum().backward()
        gradients.append([leaves[0].grad, leaves[1].grad, piece.values.grad, leaves[3].grad])
    assert kept == [True] * 4
    for i, (one, two) in enumerate(zip(*gradients, strict=True)):
        if zero and i == 1:
            assert one is two is None  # nothing of the weight is left
            continue
        assert one.dtype == two.dtype == dtype
        torch.testing.assert_close(one, two)


def test_under_autocast_a_layer_computes_as_the_plain_formula_does() -> None:
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6)), torch.randn(4, 8)
    adapter = peftcore.attach(model, "sparse", p=0.5, targets=["linear"])
    found = []
    for plain in (False, True):
        adapter.parameters()[0].grad = None
        with torch.autocast("cpu", torch.bfloat16):
            first, second = model
            h = x
            for layer, item in zip((first, second), adapter.placed, strict=True):
                new = item.piece(layer.weight)
                h = nn.functional.linear(h, new, layer.bias) if plain else layer(h)
        assert h.dtype == torch.bfloat16
        h.float().square().sum().backward()
        found.append((h, adapter.parameters()[0].grad))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=2e-2, rtol=2e-2)


def test_a_method_before_it_gets_its_gradients_through_it() -> None:
    if "ia3" not in installed().methods:
        pytest.skip("ia3 is not installed")
    model, x = Toy().double(), torch.randn(3, 16, dtype=torch.float64)
    layer, targets = model.blocks[0].attention.key, ["path:blocks.0.attention.key"]
    first: Any = {"method": "ia3", "targets": targets, "feedforward": None}
    adapter = peftcore.attach(model, [first, {"method": "sparse", "p": 0.5, "targets": targets}])
    scale, sparse = (item.piece for item in adapter.placed)
    nn.init.uniform_(scale.ia3_l)
    layer(x).square().sum().backward()
    found = [p.grad.clone() for p in adapter.parameters()]
    for p in adapter.parameters():
        p.grad = None
    weight, bias = layer.weight, layer.bias
    new = sparse(scale(weight))
    nn.functional.linear(x, new, scale.new_bias(bias)).square().sum().backward()
    for p, gradient in zip(adapter.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, p.grad)


def test_an_optimiser_holds_state_for_what_trains_only() -> None:
    model, batch = small()
    adapter = peftcore.attach(model, "sparse", p=0.8)
    optimizer = train(model, adapter, batch, 1)
    held = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
    assert sum(t.numel() for t in held) == 2 * adapter.plan.trainable == 2 * 820


@pytest.mark.parametrize("prune", ["freeze", "zero"])
def test_two_of_four_inputs_are_left_after_training(prune: str) -> None:
    model, batch = small()
    adapter = peftcore.attach(model, "sparse", pattern="2:4", prune=prune)
    assert adapter.plan.trainable == WEIGHTS // 2
    before = {item.site.path: item.site.weight().clone() for item in adapter.placed}
    train(model, adapter, batch)
    adapter.merge()
    for path, old in before.items():
        new = model.get_submodule(path).weight
        differing = new != (old if prune == "freeze" else torch.zeros_like(old))
        assert (differing.unflatten(1, (-1, 4)).sum(-1) <= 2).all()


def test_whole_rows_train_and_convolutions_and_embeddings_can() -> None:
    model = nn.Sequential(nn.Embedding(6, 8), nn.Conv1d(5, 4, 3), nn.Linear(6, 2))
    ids = torch.randint(0, 6, (2, 5))
    adapter = peftcore.attach(
        model, "sparse", p=0.5, pattern="rows", scope="tensor",
        targets=["embeddings", "conv", "linear"],
    )  # fmt: skip
    assert [len(item.piece.values) for item in adapter.placed] == [3 * 8, 2 * 15, 6]
    bare = [layer.weight.detach().clone() for layer in model]
    with torch.no_grad():
        for item in adapter.placed:
            item.piece.values.add_(1)
    adapter.merge()
    for layer, old in zip(model, bare, strict=True):
        moved = (layer.weight != old).flatten(1)
        assert (moved.all(1) == moved.any(1)).all() and int(moved.any(1).sum()) == len(old) // 2
    assert model(ids).shape == (2, 4, 2)


def test_transposed_layers_keep_what_does_not_train() -> None:
    model = GPT2Model(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    stored = model.h[0].mlp.c_fc.weight.detach().clone()
    adapter = peftcore.attach(model, "sparse", p=0.9, targets=["mlp.up"])
    (item,) = adapter.placed
    with torch.no_grad():
        item.piece.values.zero_()
    adapter.merge()
    expected = stored.T.flatten().index_fill(0, item.piece.index, 0).view(32, 8).T
    assert torch.equal(model.h[0].mlp.c_fc.weight, expected)
    assert (
        len(item.piece.index) == 26
        and stored.abs().max() == stored.T.flatten()[item.piece.index].abs().max()
    )


@pytest.mark.parametrize("prune, p", [("freeze", 0.999), ("zero", 0.999), ("freeze", 0.5)])
def test_a_file_holds_places_and_values_and_gives_the_same_outputs(
    prune: str, p: float, tmp_path: Path
) -> None:
    model, batch = small()
    bare = run(model, batch)
    adapter = peftcore.attach(model, "sparse", p=p, prune=prune)
    train(model, adapter, batch)
    tuned, k = run(model, batch), adapter.plan.trainable
    adapter.save(tmp_path)
    adapter.detach()
    tensors = load_file(tmp_path / "adapter.safetensors")
    for leaf, dtype in (("index", torch.int32), ("values", torch.float32)):
        chosen = [t for name, t in tensors.items() if name.endswith(f".sparse.{leaf}")]
        assert sum(t.numel() for t in chosen) == k and {t.dtype for t in chosen} == {dtype}
        assert len(chosen) == len(tensors) // 2
    assert (len(tensors) < 2 * 12) == (prune == "freeze" and p == 0.999)
    again = peftcore.load(model, tmp_path)
    assert same(run(model, batch), tuned) and again.plan.trainable == k
    assert all(item.piece.index.dtype == torch.int64 for item in again.placed)
    again.detach()
    assert same(run(model, batch), bare)


def test_loading_looks_at_no_examples_and_draws_nothing(tmp_path: Path) -> None:
    model, batch = small()
    examples = Examples([backbone_named("toy").batch(model, rows=1) for _ in range(4)])
    settings: Any = {"score": "lottery", "samples": 4, "steps": 2, "learning_rate": 1e-3}
    bare = run(model, batch)
    adapter = peftcore.attach(model, "sparse", examples=examples, **settings)
    assert same(run(model, batch), bare)  # it has returned to the start
    train(model, adapter, batch)
    tuned = run(model, batch)
    adapter.save(tmp_path)
    adapter.detach()
    peftcore.load(model, tmp_path)
    assert same(run(model, batch), tuned)


@pytest.mark.parametrize("index", [[3, 2], [1, 1], [-1, 2], [0, 256], [0.0, 1.0]], ids=str)
def test_places_that_do_not_fit_their_layer_are_refused(index: list[Any], tmp_path: Path) -> None:
    model, _ = small()
    targets = {"roles": ["attention.query"], "layers": "first 1"}
    adapter = peftcore.attach(model, "sparse", p=0.99, targets=targets)
    adapter.save(tmp_path)
    adapter.detach()
    _, tensors = read(tmp_path)
    name = "blocks.0.attention.query.sparse.index"
    tensors[name] = torch.tensor(index)
    method = Sparse(SparseConfig(targets=targets))  # type: ignore[arg-type]
    method.label = "sparse"
    sites = survey(model, backbone_named("toy")).sites
    with pytest.raises(CheckpointError, match=rf"^{name} (does not hold ascending|is no vector)"):
        method.peftcore_prepare(model, sites, None, tensors)


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"p": 0.4}, WEIGHTS - 4 * WEIGHTS // 10),
        ({"p": 0.4, "scope": "tensor"}, 8 * (256 - 102) + 4 * (512 - 204)),
        ({"p": 0.9999}, 1),
        ({"p": 0}, WEIGHTS),
        ({"pattern": "2:4"}, WEIGHTS // 2),
        ({"p": 0.3, "pattern": "rows", "scope": "tensor"}, 8 * 12 * 16 + 2 * (23 * 16 + 12 * 32)),
        ({"p": 0.8, "score": "fisher"}, 820),
    ],
    ids=str,
)
def test_a_plan_counts_exactly_and_needs_no_weights(config: dict[str, Any], expected: int) -> None:
    with torch.device("meta"):
        model = Toy()
    assert peftcore.plan(model, "sparse", **config).trainable == expected


def test_llama_7b_is_planned_without_memory() -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    model = peftcore.build_on_meta("llama-7b", head="causal-lm")
    weights = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert peftcore.plan(model, "sparse", p=0.995).trainable == weights - weights * 995 // 1000


def test_quantised_layers_are_ranked_by_their_weight_and_refused_where_data_rank() -> None:
    model, batch = small()
    for block in model.blocks:  # type: ignore[union-attr]
        block.up = FakeQuantLinear(block.up)
    for score in ("magnitude", "random"):
        bare = run(model, batch)
        adapter = peftcore.attach(model, "sparse", score=score, p=0.5, targets=["mlp.up"])
        torch.testing.assert_close(run(model, batch), bare)
        train(model, adapter, batch, 1)
        adapter.check_alive()
        adapter.detach()
    with pytest.raises(
        TargetError, match=r"sparse\.score: fisher needs a gradient of the weight, and blocks"
    ):
        peftcore.plan(model, "sparse", score="fisher")


def test_random_places_follow_the_seed() -> None:
    model, _ = small()
    found = []
    for seed in (1, 1, 2):
        adapter = peftcore.attach(model, "sparse", score="random", seed=seed)
        found.append([item.piece.index.tolist() for item in adapter.placed])
        adapter.detach()
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "config, words",
    [
        ({"p": 1}, "p: input should be less than 1"),
        ({"p": -0.1}, "p: input should be greater than or equal to 0"),
        ({"pattern": "2:4", "p": 0.4}, "p 0.4 with pattern 2:4, which trains two of four"),
        ({"labels": "sampled"}, "labels: sampled is for score: fisher, this is magnitude"),
        ({"score": "lottery", "samples": 8}, "8 samples do not suffice for 64 steps"),
        ({"score": "magnitud"}, "score: input should be 'magnitude'"),
    ],
    ids=str,
)
def test_wrong_settings_are_one_clear_error(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        validated(SparseConfig, config, where="methods[0]", label="sparse")


@pytest.mark.parametrize(
    "config, words",
    [
        ({"targets": ["norm"]}, "of kind norm; sparse acts on linear layers, convolutions and"),
        ({"targets": ["mlp.dwon"]}, "Did you mean mlp.down"),
        (
            {"pattern": "2:4", "targets": ["path:odd"]},
            "2:4 needs inputs in fours, and odd .linear. has 6",
        ),
    ],
    ids=str,
)
def test_wrong_targets_are_one_clear_error(config: dict[str, Any], words: str) -> None:
    model = Toy()
    model.odd = nn.Linear(6, 2)
    with pytest.raises(TargetError, match=words):
        peftcore.plan(model, "sparse", **config)


def test_a_tied_weight_is_refused() -> None:
    config = BertConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    with pytest.raises(TargetError, match="are one tied parameter, and it would change in one"):
        peftcore.plan(model, "sparse", targets=["path:**.word_embeddings"])
    peftcore.plan(model, "sparse")


class Padded(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(nn.functional.pad(input, (1, 1, 1, 1)))


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input) + 1


class Doubled(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "layer", [Padded(4, 4, 3), Scaled(4, 4), Doubled(4, 4)], ids=lambda layer: type(layer).__name__
)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_layer_that_does_more_than_its_class_is_refused(layer: nn.Module, pattern: str) -> None:
    model = nn.Sequential(layer)
    for make in (peftcore.plan, peftcore.attach):
        with pytest.raises(AttachError, match=f"a {type(layer).__name__} computes more than"):
            make(model, "sparse", targets=["path:0"], pattern=pattern)
    assert type(model[0]) is type(layer)


@pytest.mark.parametrize("pattern", ["unstructured", "rows"])
def test_a_layer_that_is_taken_whole_is_not_ranked_again_in_slices(pattern: str) -> None:
    model = GPT2Model(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8))
    settings: Any = {"p": 0.5, "pattern": pattern, "targets": ["attention.*"]}
    planned = peftcore.plan(model, "sparse", **settings).trainable
    adapter = peftcore.attach(model, "sparse", **settings)
    assert adapter.plan.trainable == planned == (8 * 24 + 8 * 8) // 2
    assert {item.site.role for item in adapter.placed} <= {"attention.qkv", "attention.output"}


@pytest.mark.parametrize(
    "given, words",
    [
        (None, "sparse looks at 3 examples before it starts"),
        ([{}, {}], "3 examples were asked for and 2 are there"),
        ([{"labels": None}] * 3, "Toy returned no loss for an example"),
        ([{"rows": 2}] * 3, "a batch has 2. Give batches of one example each"),
    ],
    ids=str,
)
def test_examples_that_do_not_suffice_are_one_clear_error(given: Any, words: str) -> None:
    model, batch = small()
    bare, flags = run(model, batch), [p.requires_grad for p in model.parameters()]
    examples = None
    if given is not None:
        make = backbone_named("toy").batch
        examples = Examples(
            [{**make(model, rows=g.get("rows", 1)), **{k: g[k] for k in g if k != "rows"}}
             for g in given]
        )  # fmt: skip
    with pytest.raises(AttachError, match=words):
        peftcore.attach(model, "sparse", score="fisher", samples=3, examples=examples)
    assert same(run(model, batch), bare) and not peftcore.adapters(model)
    assert [p.requires_grad for p in model.parameters()] == flags


def test_scores_that_are_not_finite_are_refused() -> None:
    model, _ = small()
    with torch.no_grad():
        model.get_parameter("blocks.1.up.weight")[0, 0] = torch.nan
    with pytest.raises(AttachError, match=r"the magnitude of blocks\.1\.up is NaN or infinite"):
        peftcore.attach(model, "sparse")
