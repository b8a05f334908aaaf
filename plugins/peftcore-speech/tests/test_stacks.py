"""Targets of Whisper that name one of its two stacks of blocks."""

from typing import Any

import pytest
import torch

import peftcore
from peftcore import TargetError, Targets, backbone_named, survey
from peftcore.testing import loss_of, perturb, run, tiny


def chosen(targets: Any) -> list[str]:
    knows, model, _ = tiny("whisper", "speech-seq2seq")
    wanted = Targets.model_validate(targets)
    return [site.path for site in survey(model, knows).sites if site.matches(wanted)]


@pytest.mark.parametrize("stack, blocks", [("encoder", 2), ("decoder", 2)])
def test_a_stack_has_the_blocks_of_its_side(stack: str, blocks: int) -> None:
    assert chosen({"roles": ["attention.query"], "stack": stack}) == [
        f"model.{stack}.layers.{i}.self_attn.q_proj" for i in range(blocks)
    ]
    both = chosen(["attention.query"])
    assert len(both) == 4 and both[:2] == chosen({"roles": "attention.query", "stack": "encoder"})


@pytest.mark.parametrize(
    "layers, indices",
    [("0", [0]), ("1", [1]), ("first 1", [0]), ("last 1", [1]), ("0-1", [0, 1]), ([1], [1])],
)
@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_layers_count_the_blocks_of_the_stack(stack: str, layers: Any, indices: list[int]) -> None:
    found = chosen({"roles": ["mlp.up"], "stack": stack, "layers": layers})
    assert found == [f"model.{stack}.layers.{i}.fc1" for i in indices]


def test_without_a_stack_layers_count_through_both() -> None:
    assert chosen({"roles": ["mlp.up"], "layers": "1-2"}) == [
        "model.encoder.layers.1.fc1", "model.decoder.layers.0.fc1",
    ]  # fmt: skip


def test_what_is_in_no_block_belongs_to_its_side_and_the_head_to_none() -> None:
    for stack in ("encoder", "decoder"):
        targets = {"roles": ["embeddings.position", "head"], "stack": stack}
        assert chosen(targets) == [f"model.{stack}.embed_positions"]
    assert "model.encoder.layer_norm" in chosen({"roles": ["norm"], "stack": "encoder"})
    assert chosen({"roles": ["norm"], "stack": "encoder", "exclude": ["path:**.layers.**"]}) == [
        "model.encoder.layer_norm"
    ]


def test_parameters_have_the_stack_of_their_module() -> None:
    knows, model, _ = tiny("whisper", "speech-seq2seq")
    wanted = Targets(roles=("norm",), stack="decoder", layers="last 1")
    found = [p.name for p in survey(model, knows).parameters if p.matches(wanted)]
    assert found and all(name.startswith("model.decoder.layers.1.") for name in found)


def test_an_adapter_of_the_encoder_leaves_the_decoder_alone() -> None:
    _, model, batch = tiny("whisper", "speech-seq2seq")
    targets = {"roles": ["attention.*"], "stack": "encoder", "layers": "1"}
    adapter = peftcore.attach(model, "lora", rank=2, targets=targets)
    assert [item.site.path for item in adapter.placed] == [
        f"model.encoder.layers.1.self_attn.{part}_proj" for part in ("k", "v", "q", "out")
    ]
    bare = run(model.model.decoder, {"input_ids": batch["decoder_input_ids"]})
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    perturb(adapter)
    for one, two in zip(
        run(model.model.decoder, {"input_ids": batch["decoder_input_ids"]}), bare, strict=True
    ):
        assert torch.equal(one, two)


def test_a_plan_counts_one_side_of_a_named_size() -> None:
    model = peftcore.build_on_meta("whisper-small")
    targets = {"roles": ["mlp.up"], "stack": "decoder", "layers": "last 3"}
    plan = peftcore.plan(model, "lora", rank=8, targets=targets)
    assert [item.site.block for item in plan.placed] == [21, 22, 23]
    assert plan.trainable == 3 * 8 * (768 + 4 * 768)


@pytest.mark.parametrize(
    "head, targets, sentence",
    [
        (
            "speech-seq2seq",
            {"roles": ["mlp.up"], "stack": "decodr"},
            r"lora\.targets: this model has no stack 'decodr'\. Did you mean decoder\?"
            r" Its stacks: encoder, decoder\.",
        ),
        (
            "speech-seq2seq",
            {"roles": ["mlp.up"], "stack": "decoder", "layers": "2"},
            r"layers '2' names block 2, but the stack decoder has 2 blocks \(0 to 1\)",
        ),
        (
            "speech-seq2seq",
            {"roles": ["cross_attention.query"], "stack": "encoder"},
            r"lora\.targets: no site is left after stack, layers and exclude",
        ),
        (
            "audio-classification",
            {"roles": ["mlp.up"], "stack": "decoder"},
            r"has no stack 'decoder'\..* Its stacks: encoder\.",
        ),
    ],
)
def test_a_stack_that_is_not_there_is_refused(
    head: str, targets: dict[str, Any], sentence: str
) -> None:
    _, model, _ = tiny("whisper", head)
    with pytest.raises(TargetError, match=sentence):
        peftcore.plan(model, "lora", targets=targets)


def test_a_model_of_one_stack_has_no_name_for_it() -> None:
    model = backbone_named("wav2vec2").tiny()
    targets = {"roles": ["mlp.up"], "stack": "encoder"}
    with pytest.raises(TargetError, match=r"no stack 'encoder'\. It is one: leave stack out"):
        peftcore.plan(model, "lora", targets=targets)
