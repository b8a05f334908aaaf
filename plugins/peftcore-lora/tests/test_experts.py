"""LoRA of experts, which a model keeps as one parameter for each projection."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

import peftcore
from peftcore import AttachError, TargetError, backbone_of, plan, survey
from peftcore.testing import perturb, same

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 24, "moe_intermediate_size": 24,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "num_experts_per_tok": 2, "num_local_experts": 4, "num_experts": 4, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"rank": 3, "alpha": 6, "targets": ["mlp.experts.*"]}
FAMILIES = ["mixtral", "qwen3_moe", "gpt_oss"]
PARTS = ("gate_up_proj", "down_proj")
#: gpt-oss keeps each weight as [experts, in, out], the others as [experts, out, in].
TRANSPOSED = "gpt_oss"


def make(family: str, **sizes: Any) -> nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **sizes})
    return AutoModelForCausalLM.from_config(config).eval()


def outputs(model: nn.Module) -> list[Tensor]:
    ids = torch.arange(1, 25).view(2, 12)
    with torch.no_grad():
        return [model(ids).logits]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_expert_has_an_update_of_its_own(family: str) -> None:
    model, other = make(family), make(family)
    adapter = peftcore.attach(model, "lora", **EXPERTS)
    perturb(adapter)
    for item in adapter.placed:
        held = other.get_submodule(item.site.path)._parameters[item.site.weight_name]
        assert held is not None
        for expert in range(4):
            update = 2 * item.piece.lora_B[expert] @ item.piece.lora_A[expert]
            held.data[expert] += (update.T if family == TRANSPOSED else update).detach()
    for one, two in zip(outputs(model), outputs(other), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kernel", ["eager", "grouped_mm", "batched_mm"])
def test_experts_are_trained_saved_loaded_merged_and_given_back(
    family: str, kernel: str, tmp_path: Path
) -> None:
    model = make(family)
    model.config._experts_implementation = kernel
    bare = outputs(model)
    adapter = peftcore.attach(model, "lora", **EXPERTS)
    assert same(outputs(model), bare)
    ids = torch.arange(1, 25).view(2, 12)
    model(ids, labels=ids).loss.backward()
    adapter.check_alive()
    perturb(adapter)
    tuned = outputs(model)
    assert not same(tuned, bare)
    adapter.save(tmp_path / "adapter")
    adapter.merge()
    torch.testing.assert_close(outputs(model), tuned)
    peftcore.unmerge(model)
    adapter.detach()
    assert same(outputs(model), bare)
    peftcore.load(model, tmp_path / "adapter")
    assert same(outputs(model), tuned)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_equals_peft_on_parameters_with_as_many_numbers(family: str) -> None:
    from peft import LoraConfig, get_peft_model

    model = make(family)
    adapter = peftcore.attach(model, "lora", **EXPERTS)
    perturb(adapter)
    names = [f"mlp.experts.{part}" for part in PARTS]
    config = LoraConfig(r=3, lora_alpha=6, target_modules=[], target_parameters=names)
    theirs = get_peft_model(make(family), config).eval()
    found = dict(theirs.named_parameters())
    ours = {(i.site.path, i.site.weight_name): i.piece for i in adapter.placed}
    count = sum(p.numel() for n, p in found.items() if "lora_" in n)
    assert count == adapter.plan.trainable == sum(p.numel() for p in adapter.parameters())
    for wrapper in (m for m in theirs.modules() if type(m).__name__ == "ParamWrapper"):
        path = next(n for n, m in theirs.base_model.model.named_modules() if m is wrapper)
        piece = ours[path.removesuffix(".base_layer"), wrapper.parameter_name]
        A, B = wrapper.lora_A["default"].weight, wrapper.lora_B["default"].weight
        with torch.no_grad():
            A.copy_(piece.lora_A.reshape(A.shape))  # [experts, r, in]
            B.copy_(piece.lora_B.permute(1, 2, 0).reshape(B.shape))  # [out, r, experts]
    for one, two in zip(outputs(model), outputs(theirs), strict=True):
        torch.testing.assert_close(one, two)


def test_a_loop_over_experts_makes_the_weights_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("mixtral")
    model.config._experts_implementation = "eager"
    adapter = peftcore.attach(model, "lora", **EXPERTS)
    made: list[str] = []
    kind = type(adapter.placed[0].piece)
    form = kind.weight_delta
    monkeypatch.setattr(kind, "weight_delta", lambda piece: made.append("") or form(piece))
    outputs(model)
    assert len(made) == len(adapter.placed) == 4


@pytest.mark.parametrize(
    "family, sizes",
    [
        ("deepseek_v3", {
            "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
            "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
            "v_head_dim": 8, "num_key_value_heads": 4, "head_dim": 4,
        }),
        ("llama4_text", {"intermediate_size_mlp": 24, "moe_layers": [0, 1]}),
    ],
)  # fmt: skip
def test_experts_of_a_family_that_no_plugin_knows_are_found(
    family: str, sizes: dict[str, Any]
) -> None:
    model = make(family, **sizes)
    found = survey(model, backbone_of(model))
    assert found.backbone.name == "structural"
    experts = [s for s in found.sites if s.role.startswith("mlp.experts.")]
    assert {(s.role, s.layer.in_features, s.layer.out_features) for s in experts} == {
        ("mlp.experts.gate_up", 32, 48), ("mlp.experts.down", 24, 32),
    }  # fmt: skip
    adapter = peftcore.attach(model, "lora", **EXPERTS)
    ids = torch.arange(1, 25).view(2, 12)
    model(ids, labels=ids).loss.backward()
    adapter.check_alive()


@pytest.mark.parametrize(
    "method, config, sentence",
    [
        ("lora", {"dropout": 0.1}, r"dropout 0\.1 cannot act at .*mlp\.experts\.gate_up"),
        ("lora", {"init": "pissa"}, r"experts have no other start than the default"),
        ("lora", {"rank": 25}, r"whose weight has rank 24 at most"),
        ("dora", {}, r"is of kind experts; dora acts on linear layers"),
    ],
)
def test_what_cannot_act_at_experts_is_refused(
    method: str, config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(TargetError, match=sentence):
        plan(make("mixtral"), method, targets=["mlp.experts.*"], **config)


def test_rows_cannot_have_experts_of_their_own() -> None:
    model = make("mixtral")
    peftcore.attach(model, "lora", **EXPERTS)
    with (
        pytest.raises(AttachError, match=r"mlp\.experts\[mlp\.experts\.gate_up\] directly"),
        peftcore.route(model, ["default", None]),
    ):
        pass
