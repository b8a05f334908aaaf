"""Scores against loops that are written out, and a model that is left as it was."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

import peftcore
from peftcore import AttachError, Examples, backbone_named, backbone_of, survey
from peftcore.testing import Toy
from peftcore_sparse.config import SparseConfig
from peftcore_sparse.scores import from_examples

FROM_DATA = ("fisher", "gradient", "saliency", "movement", "lottery")


def toy(count: int = 6) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    model = Toy().double().eval()
    return model, [backbone_named("toy").batch(model, rows=1) for _ in range(count)]


def scores(model: nn.Module, batches: Any, **config: Any) -> dict[str, Tensor]:
    """Return the scores by name of the site."""
    chosen = SparseConfig(samples=len(batches), **config)
    found = survey(model, backbone_of(model)).sites
    sites = [site for site in found if site.matches(chosen.targets)]
    values = from_examples(chosen, model, sites, Examples(batches))
    return {site.name: value for site, value in zip(sites, values, strict=True)}


def gradients(model: nn.Module, batch: Any, names: list[str]) -> list[Tensor]:
    model.zero_grad()
    model(**batch).loss.backward()
    out = [model.get_parameter(name).grad.clone() for name in names]  # type: ignore[union-attr]
    model.zero_grad()
    return out


@pytest.mark.parametrize("score", ["fisher", "gradient", "saliency"])
def test_scores_equal_a_loop_over_the_examples(score: str) -> None:
    model, batches = toy()
    found = scores(model, batches, score=score)
    names = [f"{name}.weight" for name in found]
    each = [gradients(model, batch, names) for batch in batches]
    for i, (name, value) in enumerate(found.items()):
        of_one = torch.stack([grads[i] for grads in each])
        expected = of_one.square().mean(0) if score == "fisher" else of_one.mean(0).abs()
        if score == "saliency":
            expected = expected * model.get_submodule(name).weight.detach().abs()
        torch.testing.assert_close(value, expected)


def test_scores_of_transposed_and_fused_layers_are_in_their_layout() -> None:
    config = GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    model = GPT2LMHeadModel(config).double().eval()
    batches = [{"input_ids": (ids := torch.randint(0, 16, (1, 5))), "labels": ids}] * 2
    found = scores(model, batches, score="fisher")
    (g,) = gradients(model, batches[0], ["transformer.h.0.attn.c_attn.weight"])
    by_role = {name.rpartition("[")[2]: value for name, value in found.items()}
    for i, role in enumerate(("query", "key", "value")):
        torch.testing.assert_close(by_role[f"attention.{role}]"], g.T[8 * i : 8 * i + 8].square())


@pytest.mark.parametrize("score", ["movement", "lottery"])
def test_scores_of_a_tuning_equal_the_same_tuning_by_hand(score: str) -> None:
    model, batches = toy()
    settings = {"steps": 3, "learning_rate": 1e-2}
    found = scores(model, batches, score=score, **settings)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0)
    moved = {name: torch.zeros_like(value) for name, value in found.items()}
    for start in (0, 2, 4):
        (sum(twin(**batch).loss for batch in batches[start : start + 2]) / 2).backward()
        for name in found:
            weight: Any = twin.get_submodule(name).weight
            moved[name] -= weight.detach() * weight.grad
        optimizer.step()
        optimizer.zero_grad()
    for name, value in found.items():
        one, two = (m.get_submodule(name).weight.detach() for m in (model, twin))
        expected = moved[name] if score == "movement" else (two - one).abs()
        torch.testing.assert_close(value, expected, atol=1e-9, rtol=1e-6)


def test_a_tuning_in_half_precision_moves_the_weights_all_the_same() -> None:
    model, batches = toy()
    model = model.to(torch.bfloat16)
    found = scores(model, batches, score="lottery", steps=2, learning_rate=1e-6)
    assert all(0 < float(value.max()) < 3e-6 for value in found.values())


class Classifier(nn.Module):
    """Two classes from two numbers; the loss is a cross-entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.linear(x)
        return type("Output", (), {"logits": logits, "loss": F.cross_entropy(logits, labels)})


def test_sampled_labels_give_the_true_fisher_information() -> None:
    model = Classifier()
    x = torch.tensor([[1.0, -2.0]])
    chance = model.linear(x).softmax(-1)[0, 0].item()
    batches = [{"x": x, "labels": torch.tensor([0])}] * 400
    one, again, other = (
        scores(model, batches, score="fisher", labels="sampled", seed=seed, targets=["linear"])
        for seed in (0, 0, 1)
    )
    expected = chance * (1 - chance) * x.square().expand(2, 2)
    torch.testing.assert_close(one["linear"], expected, rtol=0.15, atol=0)
    assert torch.equal(one["linear"], again["linear"])
    assert not torch.equal(one["linear"], other["linear"])


def test_sampled_labels_of_tokens_stand_where_the_loss_expects_them() -> None:
    config = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(0, 3, (1, 6))
    labels = ids.clone()
    labels[0, :2] = -100
    seen: list[Tensor] = []

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append(model(**batch).loss)
        return seen[-1]

    class Always3(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 60 * (torch.arange(8) == 3)

    model.lm_head = Always3(8, 8, bias=False)
    for labelled in ("gold", "sampled"):
        chosen = SparseConfig(score="fisher", samples=1, labels=labelled)
        sites = [s for s in survey(model, backbone_of(model)).sites if s.matches(chosen.targets)]
        batch = {"input_ids": ids, "labels": labels}
        from_examples(chosen, model, sites, Examples([batch], loss))
    # no label is 3, so the loss is large; every drawn one is
    assert seen[0] > 40 and seen[1] < 1e-3


def test_sampled_labels_need_a_cross_entropy_of_classes() -> None:
    model, batches = toy(2)
    settings: Any = {"score": "fisher", "labels": "sampled", "samples": 2}
    bare = [{name: value for name, value in b.items() if name != "labels"} for b in batches]
    other = Examples(bare, lambda model, batch: model(**batch).logits.square().sum())
    with pytest.raises(AttachError, match="this loss never does"):
        peftcore.attach(model, "sparse", examples=other, **settings)
    soft = Examples(
        batches, lambda m, batch: F.cross_entropy(lo := m(**batch).logits, lo.detach().softmax(-1))
    )
    with pytest.raises(AttachError, match="these are probabilities"):
        peftcore.attach(model, "sparse", examples=soft, **settings)


class Normed(nn.Module):
    """A model with statistics, dropout and a buffer that it writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.head.eval()
        self.norm.weight.requires_grad_(False)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        self.calls += 1
        torch.rand(1)
        h = self.drop(self.norm(self.conv(x)).relu().mean((2, 3)))
        return type("Output", (), {"loss": F.cross_entropy(self.head(h), labels)})


@pytest.mark.parametrize("score", FROM_DATA)
@pytest.mark.parametrize("enough", [True, False])
def test_the_model_is_left_as_it_was(score: str, enough: bool) -> None:
    model = Normed().train()
    model.head.eval()
    batches = [{"x": torch.randn(1, 3, 6, 6), "labels": torch.tensor([i % 2])} for i in range(4)]
    state = {name: (value, value.clone()) for name, value in model.state_dict().items()}
    addresses = [p.data_ptr() for p in model.parameters()]
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    random_state = torch.get_rng_state()
    settings: Any = {"score": score, "samples": 4 if enough else 5, "steps": 2, "p": 0.5}
    given = Examples(batches)
    if enough:
        with torch.no_grad():
            adapter = peftcore.attach(model, "sparse", targets=["conv"], examples=given, **settings)
        values, index = adapter.placed[0].piece.values, adapter.placed[0].piece.index
        assert len(index) == 54 and torch.equal(values, model.conv.weight.flatten()[index])
        adapter.detach()
    else:
        with pytest.raises(AttachError, match="5 examples were asked for and 4 are there"):
            peftcore.attach(model, "sparse", targets=["conv"], examples=given, **settings)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert [m.training for m in model.modules()] == modes
    assert all(p.grad is None for p in model.parameters())
    now = model.state_dict()
    for name, (value, before) in state.items():
        assert torch.equal(now[name], before) and now[name].data_ptr() == value.data_ptr()


def test_scores_are_those_of_the_base_where_another_adapter_is_active() -> None:
    model, batches = toy(3)
    settings: Any = {"score": "fisher", "samples": 3, "p": 0.8}
    first = peftcore.attach(model, "sparse", examples=Examples(batches), **settings)
    index = [item.piece.index.clone() for item in first.placed]
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.normal_()
    second = peftcore.attach(model, "sparse", examples=Examples(batches), name="second", **settings)
    assert all(torch.equal(a, b.piece.index) for a, b in zip(index, second.placed, strict=True))
