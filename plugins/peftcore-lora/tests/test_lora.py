"""The method on models: contract, settings, mistakes, published counts."""

import math

import pytest
import torch
from torch import nn

import peftcore
from peftcore import ConfigError, TargetError
from peftcore.testing import MethodContract, Toy


class TestLora(MethodContract):
    method = "lora"


class TestRankStabilisedEverywhere(MethodContract):
    method = "lora"
    config = {
        "rank": {"default": 4, "mlp.*": 2},
        "alpha": 3,
        "use_rslora": True,
        "targets": ["all-linear", "embeddings"],
    }
    # what these have at the role embeddings is no plain table of tokens, or is not there
    on = {
        **{
            name: {"targets": ["all-linear"]}
            for name in ("gemma", "wavlm", "wav2vec2", "hubert", "timm-vit", "clip-vision")
        },
        "timm-cnn": {"rank": 4, "targets": ["conv"]},
    }


class TestWithDropout(MethodContract):
    method = "lora"
    config = {"dropout": 0.3}
    refused_on = {"wavlm": r"dropout 0\.3 cannot act at .* Write dropout: 0"}


def scales(model: nn.Module, **config: object) -> set[float]:
    return {item.piece.scale for item in peftcore.plan(model, "lora", **config).placed}


def test_scale_is_one_unless_alpha_is_given() -> None:
    assert scales(Toy(), rank=4) == {1.0}
    assert scales(Toy(), rank=4, alpha=8) == {2.0}
    assert scales(Toy(), rank=4, alpha=8, use_rslora=True) == {8 / math.sqrt(4)}


def test_rank_alpha_and_dropout_can_be_given_per_role() -> None:
    plan = peftcore.plan(
        Toy(),
        "lora",
        rank={"default": 2, "mlp.*": 4},
        alpha={"default": None, "mlp.down": 8},
        dropout={"attention.*": 0.1, "default": 0},
        targets=["attention.query", "mlp.*"],
    )
    found = {
        p.site.role: (len(p.piece.lora_A), p.piece.scale, p.piece.dropout) for p in plan.placed
    }
    assert found == {
        "attention.query": (2, 1.0, 0.1),
        "mlp.up": (4, 1.0, 0),
        "mlp.down": (4, 2.0, 0),
    }


def test_rank_above_the_layer_is_one_clear_error() -> None:
    with pytest.raises(
        TargetError, match=r"rank 17 is above .*blocks.0.attention.query.* rank: 16"
    ):
        peftcore.plan(Toy(), "lora", rank=17)
    assert peftcore.plan(Toy(), "lora", rank=16).trainable == 2 * 2 * 16 * 32


@pytest.mark.parametrize(
    "role, kind", [("norm", "norm"), ("attention", "module"), ("block", "module")]
)
def test_places_without_a_low_rank_update_are_named(role: str, kind: str) -> None:
    with pytest.raises(TargetError, match=rf"lora.targets: blocks.0.*\({role}\) is of kind {kind}"):
        peftcore.plan(Toy(), "lora", targets=[role])


def test_layers_that_do_more_than_a_plain_one_are_refused() -> None:
    class Scaled(nn.Embedding):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return super().forward(tokens) * 3

    with pytest.raises(
        TargetError, match=r"0 .*is a Scaled, which does more than a plain Embedding"
    ):
        peftcore.plan(nn.Sequential(Scaled(8, 4)), "lora", rank=2, targets=["embeddings"])


def test_dropout_that_cannot_act_is_an_error_that_says_what_to_write() -> None:
    with pytest.raises(TargetError, match=r'token number.* dropout: {"embeddings": 0, "default"'):
        peftcore.plan(Toy(), "lora", dropout=0.1, targets=["embeddings"])
    attention = nn.Sequential(nn.MultiheadAttention(8, 2))
    with pytest.raises(TargetError, match="reads the weight there and never calls"):
        peftcore.plan(attention, "lora", rank=2, dropout=0.1)


def test_an_embedding_that_shrinks_its_vectors_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(50, 8, max_norm=1.0)).eval()
    with pytest.raises(TargetError, match=r"0 \(embeddings\) shrinks vectors to length 1.0"):
        peftcore.attach(model, "lora", rank=2, targets=["embeddings"])
    assert not peftcore.adapters(model)
    model[0].max_norm = None  # as the sentence says
    adapter = peftcore.attach(model, "lora", rank=2, targets=["embeddings"])
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    tokens = torch.arange(50)
    tuned = model(tokens)
    adapter.merge()
    torch.testing.assert_close(model(tokens), tuned)


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"rank": 0}, "greater than or equal to 1"),
        ({"dropout": 1.0}, "less than 1"),
        ({"alpha": 0}, "greater than 0"),
        ({"targets": ["attention.qeury"]}, "Did you mean attention.query"),
        ({"rank": {"default": 4, "mpl.up": 2}}, "Did you mean mlp.up"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        peftcore.plan(Toy(), "lora", **wrong)


def test_convolution_ranks_fit_the_groups() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=4))
    words = r"rank 6 must be a multiple of 4, the groups of 0 \(conv\). Write rank: 8,"
    with pytest.raises(TargetError, match=words):
        peftcore.plan(model, "lora", rank=6, targets=["conv"])
    with pytest.raises(TargetError, match="rank 12 is above"):
        peftcore.plan(model, "lora", rank=12, targets=["conv"])
    assert peftcore.plan(model, "lora", rank=8, targets=["conv"]).trainable == 8 * 18 + 8 * 2


def test_merging_keeps_the_output_of_convolutions_and_embeddings() -> None:
    model = nn.Sequential(
        nn.Embedding(9, 6), nn.Conv1d(4, 8, 3, padding=1), nn.Conv1d(8, 8, 3, groups=2, dilation=2)
    ).eval()
    adapter = peftcore.attach(model, "lora", rank=2, targets=["embeddings", "conv"])
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    tokens = torch.randint(0, 9, (3, 4))
    tuned = model(tokens)
    adapter.merge()
    torch.testing.assert_close(model(tokens), tuned, atol=1e-4, rtol=1e-4)


def test_fused_attention_of_torch_learns_through_its_weight() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0), 2
    )
    x = torch.randn(2, 3, 8)
    adapter = peftcore.attach(
        model, "lora", rank=2, targets=["attention.query", "attention.value", "attention.output"]
    )
    model(x).square().sum().backward()
    adapter.check_alive()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.3)
    tuned = model(x)
    adapter.merge()
    torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)


def test_adapters_of_different_rank_can_be_routed() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6)), torch.randn(3, 6)
    expected = [model(x)]
    for name, rank in (("a", 2), ("b", 3)):
        adapter = peftcore.attach(model, "lora", name=name, rank=rank, targets=["linear"])
        for parameter in adapter.parameters():
            nn.init.normal_(parameter)
        expected.append(model(x))
    with peftcore.route(model, ["b", "a", None]):
        mixed = model(x)
    torch.testing.assert_close(mixed, torch.stack([expected[2][0], expected[1][1], expected[0][2]]))


def meta(config: str, **options: object) -> nn.Module:
    known = {c for spec in peftcore.installed().backbones.values() for c in spec.configs}
    if config not in known:
        pytest.skip(f"no installed backbone has {config}")
    return peftcore.build_on_meta(config, **options)


def test_llama_7b_has_the_published_count() -> None:
    roles = ["attention.query", "attention.key", "attention.value", "mlp.up", "mlp.down"]
    plan = peftcore.plan(meta("llama-7b", head="causal-lm"), "lora", rank=32, targets=roles)
    assert plan.trainable == 56_098_816
    assert round(plan.percent(), 4) == 0.8256


def test_esm_650m_has_the_published_count() -> None:
    targets = {"roles": ["attention.key", "attention.value"], "layers": "25-32"}
    assert peftcore.plan(meta("esm2-650m"), "lora", rank=8, targets=targets).trainable == 327_680
