"""The formula, Hugging Face PEFT's numbers, counts, mistakes."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import peftcore
from peftcore import TargetError, installed
from peftcore.testing import Toy


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    config = BertConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return BertModel(config), {"input_ids": torch.randint(1, 32, (2, 7))}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=24, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config), {"input_ids": torch.randint(0, 32, (2, 7))}


@pytest.mark.parametrize(
    "make, leaves, inputs",
    [
        (bert, ["key", "value", "output.dense"], ["output.dense"]),
        (llama, ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    ],
)
def test_outputs_and_gradients_equal_those_of_peft(
    make: Any, leaves: list[str], inputs: list[str]
) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model, batch = make()
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1.0, 0.2)  # the biases of a new model are zero
    config = peft.IA3Config(target_modules=leaves, feedforward_modules=inputs)
    theirs = peft.get_peft_model(copy.deepcopy(model), config)
    ours = peftcore.attach(
        model,
        "ia3",
        targets=[f"path:**.{leaf}" for leaf in leaves],
        feedforward=[f"path:**.{leaf}" for leaf in inputs],
    )
    assert sum(p.numel() for p in ours.parameters()) == theirs.get_nb_trainable_parameters()[0]
    pairs = []
    for item in ours.placed:
        layer: Any = theirs.base_model.model.get_submodule(item.site.path)
        pairs.append((item.piece.ia3_l, layer.ia3_l["default"]))
    with torch.no_grad():
        for a, b in pairs:
            a.add_(0.3 * torch.randn_like(a))
            b.copy_(a.view_as(b))
    outs = [each(**batch)[0] for each in (model, theirs)]
    for out in outs:
        out.square().mean().backward()
    torch.testing.assert_close(*outs, atol=1e-5, rtol=1e-5)
    for a, b in pairs:
        assert a.grad.any()
        torch.testing.assert_close(a.grad, b.grad.view_as(a), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("feedforward", [None, ["linear"]])
def test_output_and_weight_form_are_the_formula(feedforward: list[str] | None) -> None:
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(2, 3, 6)
    adapter = peftcore.attach(model, "ia3", targets=["linear"], feedforward=feedforward)
    scale = nn.init.normal_(adapter.parameters()[0])
    weight, bias = model[0].weight, model[0].bias
    expected = x * scale @ weight.T + bias if feedforward else (x @ weight.T + bias) * scale
    torch.testing.assert_close(model(x), expected)
    adapter.merge()
    torch.testing.assert_close(model(x), expected)


def test_the_bias_is_scaled_where_the_model_reads_it_directly() -> None:
    torch.manual_seed(0)
    model, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 3, 8)
    nn.init.normal_(model.in_proj_bias)
    targets = ["attention.key", "attention.value", "attention.output"]
    adapter = peftcore.attach(model, "ia3", targets=targets, feedforward=None)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    tuned = model(x, x, x)[0]
    tuned.square().sum().backward()
    adapter.check_alive()
    with peftcore.disabled(model), torch.no_grad():
        for name, rows in (("attention.key", slice(8, 16)), ("attention.value", slice(16, 24))):
            scale = next(i.piece.ia3_l for i in adapter.placed if i.site.role == name)
            model._parameters["in_proj_weight"][rows] *= scale[:, None]
            model._parameters["in_proj_bias"][rows] *= scale
        scale = next(i.piece.ia3_l for i in adapter.placed if i.site.role == targets[2])
        torch.testing.assert_close(model(x, x, x)[0] * scale, tuned)


@pytest.mark.parametrize("feedforward", [None, ["linear"]])
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 6), (8, 3, 6)], ids=str)
def test_a_routed_batch_runs_the_layer_once_and_equals_the_separate_runs(
    feedforward: list[str] | None, shape: tuple[int, ...]
) -> None:
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(shape)
    names = ["a", None, "b", "a"]
    scales = {}
    for name in ("a", "b"):
        adapter = peftcore.attach(
            model, "ia3", targets=["linear"], feedforward=feedforward, name=name
        )
        scales[name] = nn.init.normal_(adapter.parameters()[0])
    times = len(x) // len(names)
    expected = []
    for part, name in zip(x.split(times), names, strict=True):
        with peftcore.route(model, [name]):
            expected.append(model(part))
    wanted = torch.cat(expected)
    grads = torch.autograd.grad(wanted.square().sum(), list(scales.values()))
    with peftcore.route(model, names), FlopCounterMode(display=False) as counter:
        mixed = model(x)
    assert counter.get_total_flops() == 2 * x.numel() * 5  # one product for all rows
    torch.testing.assert_close(mixed, wanted)
    with peftcore.disabled(model):
        assert torch.equal(mixed.split(times)[1], model(x).split(times)[1])
    found = torch.autograd.grad(mixed.square().sum(), list(scales.values()))
    torch.testing.assert_close(found, grads)


def test_adapters_that_scale_different_sides_share_a_batch_too() -> None:
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(2, 3, 6)
    outs = []
    for row, (name, feedforward) in enumerate((("a", None), ("b", ["linear"]))):
        adapter = peftcore.attach(
            model, "ia3", targets=["linear"], feedforward=feedforward, name=name
        )
        nn.init.normal_(adapter.parameters()[0])
        outs.append(model(x)[row])
    with peftcore.route(model, ["a", "b"]):
        torch.testing.assert_close(model(x), torch.stack(outs))


def test_llama_7b_has_two_widths_and_the_inner_one_a_block() -> None:
    known = {c for spec in installed().backbones.values() for c in spec.configs}
    if "llama-7b" not in known:
        pytest.skip("no installed backbone has llama-7b")
    plan = peftcore.plan(peftcore.build_on_meta("llama-7b", head="causal-lm"), "ia3")
    assert plan.trainable == 32 * (2 * 4096 + 11008) == 614_400
    assert round(plan.percent(), 4) == 0.0091


@pytest.mark.parametrize(
    "config, words",
    [
        ({"targets": ["norm"]}, "is of kind norm; ia3 acts on linear layers"),
        ({"feedforward": ["mlp.dwon"]}, "Did you mean mlp.down"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_clear_error(config: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        peftcore.plan(Toy(), "ia3", **config)
