"""The formula against naive references, cost, mistakes, published counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import AttachError, ConfigError, TargetError, installed
from peftcore.testing import Toy
from peftcore_dora.pieces import drawn


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500, hidden_size=64, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=172, max_position_embeddings=64,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def layer(
    width: int = 12, out: int = 20, bias: bool = True, **config: Any
) -> tuple[nn.Sequential, Any]:
    """Return a linear layer with a DoRA that does something, and its piece."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(width, out, bias=bias))
    adapter = peftcore.attach(model, "dora", **{"rank": 4, "targets": ["linear"], **config})
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, 1.0, 0.5)
    return model, adapter.placed[0].piece


def naive(model: nn.Sequential, piece: Any, x: Tensor, dropped: Tensor | None = None) -> Tensor:
    """Return the formula of the released code, with V made."""
    weight, bias = model[0].weight, model[0].bias
    v = weight if piece.lora_A is None else weight + piece.scale * piece.lora_B @ piece.lora_A
    gain = piece.magnitude / v.detach().norm(dim=1)
    if dropped is None:
        return F.linear(x, gain[:, None] * v, bias)
    return F.linear(x, weight, bias) + F.linear(dropped, gain[:, None] * v - weight)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("config", [{}, {"alpha": 6}, {"magnitude_only": ["linear"]}], ids=str)
def test_output_and_gradients_are_the_formula(bias: bool, config: dict[str, Any]) -> None:
    if "magnitude_only" in config:
        config = {**config, "targets": {"roles": ["linear"], "exclude": ["path:0"]}}
        model = nn.Sequential(nn.Linear(12, 20, bias=bias), nn.Linear(20, 3))
        config = {"targets": ["path:1"], "magnitude_only": ["path:0"]}
        piece: Any = peftcore.attach(model, "dora", rank=2, **config).placed[0].piece
        assert piece.lora_A is None
        nn.init.normal_(piece.magnitude, 1.0, 0.5)
    else:
        model, piece = layer(bias=bias, **config)
    x = torch.randn(2, 3, 12, requires_grad=True)
    inputs = [x, *(p for p in piece.parameters())]
    out, expected = model[0](x), naive(model, piece, x)
    torch.testing.assert_close(out, expected)
    ours, theirs = (torch.autograd.grad(o.sin().sum(), inputs) for o in (out, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_both_terms_see_the_same_dropped_input() -> None:
    model, piece = layer(dropout=0.4)
    x = torch.randn(5, 12, requires_grad=True)
    torch.manual_seed(3)
    out = model.train()(x)
    torch.manual_seed(3)
    expected = naive(model, piece, x, x * drawn(x, 0.4) / 0.6)
    torch.testing.assert_close(out, expected)
    inputs = [x, *piece.parameters()]
    ours, theirs = (torch.autograd.grad(o.sin().sum(), inputs) for o in (out, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.eval()(x), naive(model, piece, x))


def test_row_norms_of_the_new_weight_are_the_magnitudes() -> None:
    model, piece = layer()
    torch.testing.assert_close(piece(model[0].weight).norm(dim=1), piece.magnitude.abs())


def test_a_row_of_zeros_stays_zero_and_finite() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1] = 0
    adapter = peftcore.attach(model, "dora", rank=2, targets=["linear"])
    x = torch.randn(5, 4)
    expected = F.linear(x, model[0].weight, model[0].bias)
    torch.testing.assert_close(model(x), expected)
    model(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters())


class Overwriting(nn.Sequential):
    """Two layers with an operation behind the first that writes over its output, or does not."""

    def __init__(self, inplace: bool):
        super().__init__(nn.Linear(6, 8), nn.Linear(8, 3))
        self.inplace_here = inplace

    def forward(self, x: Tensor) -> Tensor:
        hidden = self[0](x)
        hidden = hidden.relu_() if self.inplace_here else hidden.relu()
        return self[1](hidden)


def bert(inplace: bool) -> nn.Module:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16, hidden_act="relu",
    )  # fmt: skip
    model = BertModel(config)
    for block in model.encoder.layer:
        block.intermediate.intermediate_act_fn = nn.ReLU(inplace=inplace)
    return model


@pytest.mark.parametrize(
    "make, config",
    [
        (lambda inplace: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace), nn.Linear(8, 3)), {}),
        (Overwriting, {}),
        (Overwriting, {"targets": ["path:1"], "magnitude_only": ["path:0"]}),
        (Overwriting, {"dropout": 0.3}),
        (bert, {"targets": ["mlp.*"]}),
    ],
    ids=["module", "function", "magnitude", "dropout", "bert"],
)
def test_what_writes_over_the_output_changes_no_gradient(make: Any, config: Any) -> None:
    found = []
    for inplace in (False, True):
        torch.manual_seed(0)
        model = make(inplace)
        adapter = peftcore.attach(model, "dora", **{"rank": 2, "targets": ["linear"], **config})
        for parameter in adapter.parameters():
            nn.init.normal_(parameter, 1.0, 0.5)
        x = torch.randint(1, 32, (2, 7)) if make is bert else torch.randn(5, 6)
        torch.manual_seed(1)  # the same dropout
        out = model.train()(x)
        (out if isinstance(out, Tensor) else out[0]).square().sum().backward()
        found.append([p.grad for p in adapter.parameters()])
    assert all(gradient.any() for gradient in found[0])
    torch.testing.assert_close(found[1], found[0])


def test_code_that_writes_over_an_output_is_named_and_works_where_that_is_told() -> None:
    batch = {"input_ids": torch.randint(0, 24, (2, 5)), "attention_mask": torch.ones(2, 5)}

    def loss(writes: bool, **config: Any) -> tuple[Tensor, peftcore.Adapter]:
        torch.manual_seed(0)
        model = Toy()
        adapter = peftcore.attach(model, "dora", rank=2, targets=["mlp.up"], **config)
        for parameter in adapter.parameters():
            nn.init.normal_(parameter, 1.0, 0.5)
        double = torch.Tensor.mul_ if writes else torch.mul
        model.blocks[1].up.register_forward_hook(lambda _, args, out: double(out, 2))
        return model(**batch).logits.square().sum(), adapter

    with pytest.raises(AttachError, match=r"dora.inplace: blocks.1.up .* Write inplace: true"):
        loss(writes=True)[0].backward()
    grads = []
    for writes, inplace in ((False, False), (True, True)):
        out, adapter = loss(writes, inplace=inplace)
        out.backward()
        grads.append([p.grad for p in adapter.parameters()])
    torch.testing.assert_close(*grads)
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_bias_can_be_trained_beside() -> None:
    if "bitfit" not in installed().methods:
        pytest.skip("bitfit is not installed")
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(4, 6)
    peftcore.attach(model, [{"method": "dora", "rank": 2, "targets": ["linear"]}, "bitfit"])
    model(x).sum().backward()
    torch.testing.assert_close(model[0].bias.grad, torch.full((5,), 4.0))


def test_two_slices_of_a_fused_layer_act_on_their_own_rows() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    x = torch.randn(2, 3, 8)
    bare = model(x)
    adapter = peftcore.attach(model, "dora", rank=2, targets=["attention.query", "attention.value"])
    torch.testing.assert_close(model(x), bare)
    model(x).square().sum().backward()
    adapter.check_alive()
    for parameter in adapter.parameters():
        nn.init.normal_(parameter, 1.0, 0.3)
    tuned = model(x)
    adapter.merge()
    torch.testing.assert_close(model(x), tuned, atol=1e-5, rtol=1e-5)


def flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def test_a_generated_token_costs_what_it_costs_with_lora() -> None:
    if "lora" not in installed().methods:
        pytest.skip("lora is not installed")
    ids = torch.randint(0, 500, (2, 12))

    def costs(method: str) -> list[int]:
        model = llama().eval()
        peftcore.attach(model, method, rank=4, targets=["all-linear"])
        with torch.no_grad():
            cache = model(ids[:, :10]).past_key_values
            return [
                flops(lambda i=i: model(ids[:, i : i + 1], past_key_values=cache)) for i in (10, 11)
            ]

    assert costs("dora") == costs("lora")


def test_kept_norms_never_outlive_a_change() -> None:
    model, piece = layer()
    x = torch.randn(2, 12)
    model.eval()

    def check() -> None:
        torch.testing.assert_close(model(x), naive(model, piece, x))

    with torch.no_grad():
        check()
        piece.lora_B.mul_(2)
        check()
        model[0].weight.add_(0.3)
        check()
        piece.lora_A.data = piece.lora_A.data * 3
        check()
        model.load_state_dict({k: v + 0.1 for k, v in model.state_dict().items()})
        check()
        piece.magnitude.data.mul_(2)
        model.eval()
        check()


def saved_bytes(model: nn.Module, batch: dict[str, Tensor]) -> int:
    """Count the bytes kept for backward, each storage once, without the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_backward_keeps_little_more_than_with_lora(dropout: float) -> None:
    if "lora" not in installed().methods:
        pytest.skip("lora is not installed")
    model, ids = llama(), torch.randint(0, 500, (2, 64))
    roles = ["attention.query", "attention.key", "attention.value", "mlp.up", "mlp.down"]
    kept = {}
    for method in ("lora", "dora"):
        adapter = peftcore.attach(model.train(), method, rank=4, targets=roles, dropout=dropout)
        kept[method] = saved_bytes(model, {"input_ids": ids, "labels": ids})
        adapter.detach()
    assert kept["dora"] <= 1.3 * kept["lora"], kept


def meta(config: str, **options: object) -> nn.Module:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if config not in known:
        pytest.skip(f"no installed backbone has {config}")
    return peftcore.build_on_meta(config, **options)


@pytest.mark.parametrize(
    "rank, count, percent", [(32, 56_975_360, 0.8384), (16, 28_925_952, 0.4274)]
)
def test_llama_7b_has_the_published_count(rank: int, count: int, percent: float) -> None:
    roles = ["attention.query", "attention.key", "attention.value", "mlp.up", "mlp.down"]
    plan = peftcore.plan(meta("llama-7b", head="causal-lm"), "dora", rank=rank, targets=roles)
    assert plan.trainable == count
    assert round(plan.percent(), 4) == percent


@pytest.mark.parametrize(
    "config, words",
    [
        ({"rank": 17}, r"rank 17 is above .*blocks.0.attention.query.* rank: 16"),
        ({"targets": ["norm"]}, "is of kind norm; dora acts on linear layers"),
        ({"magnitude_only": ["norm"]}, r"dora.magnitude_only: blocks.0.norm1 \(norm\) is of kind"),
        ({"magnitude_only": ["attention.query"]}, "is in targets and in magnitude_only"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_error(config: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        peftcore.plan(Toy(), "dora", **config)


def test_a_layer_whose_magnitude_alone_is_trained_may_be_smaller_than_the_rank() -> None:
    plan = peftcore.plan(Toy(), "dora", rank=8, magnitude_only=["head"])
    assert plan.trainable == 4 * (16 + 2 * 8 * 16) + 3


def test_dropout_where_the_weight_is_read_directly_is_refused() -> None:
    with pytest.raises(TargetError, match="reads the weight there and never calls"):
        peftcore.plan(nn.Sequential(nn.MultiheadAttention(8, 2)), "dora", rank=2, dropout=0.1)


@pytest.mark.parametrize("config", [{"rank": 0}, {"dropout": 1.0}, {"alpha": 0}], ids=str)
def test_wrong_settings_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        peftcore.plan(Toy(), "dora", **config)
