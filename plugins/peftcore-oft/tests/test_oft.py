"""The formulas against naive references, counts, mistakes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import peftcore
from peftcore import ConfigError, TargetError, installed
from peftcore.testing import Toy
from peftcore_oft.pieces import _constrained


def layer(method: str, width: int = 16, **config: Any) -> tuple[nn.Sequential, Any]:
    """Return a linear layer with a method that does something, and its piece."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, 10))
    adapter = peftcore.attach(model, method, targets=["linear"], **config)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return model, adapter.placed[0].piece


def dense(blocks: Tensor) -> Tensor:
    return torch.block_diag(*blocks)


def rotation_of(piece: Any) -> Tensor:
    """Return R of OFT, made as the paper writes it."""
    blocks = []
    for free in piece.oft_R:
        s = torch.zeros(piece.block, piece.block)
        s[tuple(torch.triu_indices(piece.block, piece.block, 1))] = free
        s = s - s.T
        blocks.append((torch.eye(piece.block) - s) @ torch.linalg.inv(torch.eye(piece.block) + s))
    return torch.block_diag(*blocks)


def test_oft_is_the_papers_formula() -> None:
    model, piece = layer("oft", block_size=4)
    x, rotation = torch.randn(3, 16), rotation_of(piece)
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(16), atol=1e-5, rtol=0)
    expected = F.linear(x @ rotation, model[0].weight, model[0].bias)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    changed = piece(model[0].weight)
    torch.testing.assert_close(F.linear(x, changed, model[0].bias), expected, atol=1e-5, rtol=1e-5)


def test_all_keep_the_norms_and_angles_of_the_rows() -> None:
    for method, config in (("oft", {"block_size": 8}), ("hra", {"rank": 4})):
        model, piece = layer(method, **config)
        weight, changed = model[0].weight, piece(model[0].weight)
        torch.testing.assert_close(changed @ changed.T, weight @ weight.T, atol=1e-5, rtol=1e-5)


def test_constrained_oft_stays_in_the_ball_and_moves_along_it() -> None:
    _, piece = layer("oft", block_size=4, coft=True, eps=0.01)
    skews = 2 * (_constrained(piece.oft_R, 0.01) ** 2).sum()
    torch.testing.assert_close(skews.sqrt(), torch.tensor(0.01))
    with torch.no_grad():
        piece.oft_R.mul_(1e-6)
    assert torch.equal(_constrained(piece.oft_R, 0.01), piece.oft_R)


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_boft_is_a_product_of_permuted_blocks(factors: int) -> None:
    model, piece = layer("boft", block_size=4, butterfly_factors=factors)
    product = torch.eye(16)
    for i, blocks in enumerate(piece.rotations()):
        order = torch.eye(16)[piece.there[i]]
        product = order @ dense(blocks) @ order.T @ product
    torch.testing.assert_close(product @ product.T, torch.eye(16), atol=1e-5, rtol=0)
    x, weight, bias = torch.randn(3, 16), model[0].weight, model[0].bias
    expected = F.linear(x @ product, weight) * piece.boft_s + bias
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(F.linear(x, piece(weight), bias), expected, atol=1e-5, rtol=1e-5)


def test_butterfly_factors_mix_what_blocks_keep_apart() -> None:
    _, one = layer("boft", block_size=4)
    _, three = layer("boft", block_size=4, butterfly_factors=3)
    rows = torch.eye(16)[:10]
    assert (one(rows).abs() > 1e-6).sum() == 10 * 4
    assert (three(rows).abs() > 1e-6).all()


def test_hra_is_a_chain_of_reflections() -> None:
    model, piece = layer("hra", rank=6)
    chain = torch.eye(16)
    for u in piece.hra_u.T:
        chain = chain @ (torch.eye(16) - 2 * torch.outer(u, u) / u.square().sum())
    x, weight, bias = torch.randn(3, 16), model[0].weight, model[0].bias
    expected = F.linear(x, weight @ chain, bias)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(F.linear(x, piece(weight), bias), expected, atol=1e-5, rtol=1e-5)


def test_pairs_of_reflections_start_as_the_identity() -> None:
    model = nn.Sequential(nn.Linear(16, 10))
    x = torch.randn(3, 16)
    expected = model(x)
    adapter = peftcore.attach(model, "hra", targets=["linear"], rank=6)
    u = adapter.placed[0].piece.hra_u
    assert torch.equal(u[:, ::2], u[:, 1::2]) and u.any()
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)
    model(x).square().sum().backward()
    assert u.grad.any()


class Cache(list[Tensor]):
    def get_seq_length(self) -> int:
        return len(self)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x: Tensor, cache: Cache) -> Tensor:
        cache.append(x)
        return self.layer(x)  # type: ignore[no-any-return]


def test_a_generated_token_does_not_solve_again() -> None:
    model, x, cache = Decoder().eval(), torch.randn(1, 64), Cache()
    adapter = peftcore.attach(model, "hra", targets=["linear"], rank=4)

    def flops(cache: Cache) -> int:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x, cache)
        return counter.get_total_flops()

    token = 2 * (64 * 10 + 2 * 4 * 64)
    solving = flops(cache)
    assert flops(cache) == flops(cache) == token < solving
    before = model(x, cache)
    for parameter in adapter.parameters():
        parameter.data.mul_(1.5)  # as averaging weights does, unseen by autograd
    assert flops(Cache()) == solving
    assert not torch.equal(model(x, Cache()), before)


def test_slices_of_a_fused_layer_turn_the_input_their_own_way() -> None:
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    adapter = peftcore.attach(
        model, "oft", block_size=4, targets=["attention.query", "attention.key"]
    )
    model(x, x, x)[0].square().sum().backward()
    adapter.check_alive()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, std=0.5)
    tuned = model(x, x, x)[0]
    adapter.merge()
    torch.testing.assert_close(model(x, x, x)[0], tuned, atol=1e-5, rtol=1e-5)


def blocks_of(**config: Any) -> dict[str, int]:
    plan = peftcore.plan(Toy(), "oft", **config)
    return {item.site.role: item.piece.block for item in plan.placed}


def test_the_block_is_the_largest_divisor_unless_it_is_given() -> None:
    assert blocks_of(targets=["attention.query", "mlp.down"]) == {
        "attention.query": 16,
        "mlp.down": 32,
    }
    both = {"mlp.*": 8, "default": 4}
    assert blocks_of(targets=["attention.query", "mlp.up"], block_size=both) == {
        "attention.query": 4,
        "mlp.up": 8,
    }
    model = nn.Sequential(nn.Linear(50, 4))
    assert peftcore.plan(model, "oft", targets=["linear"]).placed[0].piece.block == 25


@pytest.mark.parametrize(
    "method, config, count",
    [
        ("oft", {}, 4_063_232),
        ("oft", {"block_share": True}, 64 * 31 * 16),
        ("boft", {"butterfly_factors": 2}, 2_359_296),
        ("hra", {}, 2_097_152),
    ],
)
def test_llama_7b_has_the_closed_form(method: str, config: dict[str, Any], count: int) -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    model = peftcore.build_on_meta("llama-7b", head="causal-lm")
    assert peftcore.plan(model, method, **config).trainable == count


@pytest.mark.parametrize(
    "method, config, words",
    [
        ("oft", {"block_size": 5}, r"blocks of 5 do not fit blocks.0.attention.query .* is 4"),
        ("boft", {"block_size": 16, "butterfly_factors": 2}, "with 2 factors, .* that does is 8"),
        (
            "boft",
            {"butterfly_factors": 5},
            r"factors 5 is above .*query.* goes with 4 factors at most.*_factors: 4 or",
        ),
        ("hra", {"rank": 18}, "rank 18 is above .* room for 16 reflections.* rank: 16 or less"),
        ("hra", {"targets": ["norm"]}, "of kind norm; hra acts on linear layers"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_error(
    method: str, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(TargetError, match=words):
        peftcore.plan(Toy(), method, **config)


@pytest.mark.parametrize("method", ["oft", "boft", "hra"])
def test_a_single_feature_cannot_be_turned(method: str) -> None:
    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 2))
    with pytest.raises(TargetError, match=r"0 \(linear\) reads one feature.* with exclude"):
        peftcore.plan(model, method, targets=["linear"])
    targets = {"roles": ["linear"], "exclude": ["path:0"]}
    config = {"rank": 2} if method == "hra" else {}
    assert len(peftcore.plan(model, method, targets=targets, **config).placed) == 1


def test_the_sizes_that_the_refusals_name_fit() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(16, 2))
    for method, config, works in (
        ("boft", {"butterfly_factors": 4}, {"path:0": 1, "default": 4}),
        ("hra", {"rank": 8}, {"path:0": 6, "default": 8}),
        ("oft", {"block_size": 16}, {"path:0": 6, "default": 16}),
    ):
        with pytest.raises(TargetError, match=f": {works['path:0']}"):
            peftcore.plan(model, method, targets=["linear"], **config)
        config = dict.fromkeys(config, works)
        assert len(peftcore.plan(model, method, targets=["linear"], **config).placed) == 2


@pytest.mark.parametrize(
    "method, config, words",
    [
        ("hra", {"rank": 3}, "rank 3 is odd"),
        ("hra", {"rank": {"default": 4, "mlp.*": 5}}, "rank 5 is odd"),
        ("oft", {"block_size": 1}, "greater than or equal to 2"),
        ("oft", {"eps": 0}, "greater than 0"),
        ("oft", {"num_cayley_neumann_terms": 3}, "greater than or equal to 4"),
        ("boft", {"butterfly_factors": 0}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(method: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        peftcore.plan(Toy(), method, **config)
