"""Whisper transcribes with an adapter on it."""

from typing import Any

import pytest
import torch
from torch import nn

import peftcore
from peftcore import AttachError, backbone_named
from peftcore.testing import perturb, tiny

WHISPER = backbone_named("whisper")
ATTENTION = ["attention.*", "cross_attention.*"]


@pytest.fixture
def model() -> nn.Module:
    return WHISPER.tiny(head="speech-seq2seq")


def transcribe(model: nn.Module) -> torch.Tensor:
    torch.manual_seed(3)
    features = torch.randn(2, 8, 24)
    out = model.generate(
        features, max_new_tokens=8, num_beams=2, return_dict_in_generate=True, output_scores=True
    )
    return out.sequences, torch.stack(out.scores)


def test_generation_with_lora_equals_that_of_the_merged_model(model: nn.Module) -> None:
    bare, bare_scores = transcribe(model)
    adapter = peftcore.attach(model, "lora", rank=4, targets=ATTENTION)
    assert len(adapter.placed) == 24
    perturb(adapter)
    tuned, scores = transcribe(model)
    assert not torch.equal(scores[0], bare_scores[0])
    adapter.merge()
    merged, merged_scores = transcribe(model)
    assert torch.equal(merged, tuned)
    torch.testing.assert_close(merged_scores, scores, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    adapter.detach()
    again, again_scores = transcribe(model)
    assert torch.equal(again, bare) and torch.equal(again_scores, bare_scores)


def test_generation_agrees_with_the_logits_of_a_whole_text(model: nn.Module) -> None:
    """Step by step on a cache as in one call, with pieces on both sides."""
    for method in ("lora", "ia3", "pfeiffer"):
        perturb(peftcore.attach(model, method, name=method))
    peftcore.activate(model, "lora", "ia3", "pfeiffer")
    torch.manual_seed(3)
    features = torch.randn(2, 8, 24)
    out = model.generate(
        features, max_new_tokens=6, return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad():
        logits = model(features, decoder_input_ids=out.sequences).logits
    steps = torch.stack(out.logits, 1)
    torch.testing.assert_close(logits[:, -1 - steps.shape[1] : -1], steps, atol=1e-5, rtol=1e-4)


def test_an_edit_of_the_encoder_is_the_same_in_a_call_and_in_generation(model: nn.Module) -> None:
    """Generation runs the encoder by itself; nothing of an earlier call may be left over."""
    targets = ["path:**.encoder.layers.*"]
    perturb(peftcore.attach(model, "loreft", rank=2, targets=targets))
    first, scores = transcribe(model)
    second, again = transcribe(model)
    assert torch.equal(first, second) and torch.equal(scores, again)


def test_an_adapter_after_the_positions_of_the_decoder_is_refused(model: nn.Module) -> None:
    """Their table is read with positions that are none of its arguments."""
    with pytest.raises(AttachError, match=r"decoder\.embed_positions: the model reads the weight"):
        peftcore.attach(model, "adapter", targets=["path:**.decoder.embed_positions"])


def test_the_prompt_of_the_decoder_is_what_it_is_given_and_nothing_that_it_generates() -> None:
    _, model, batch = tiny("whisper", "speech-seq2seq")
    given = torch.tensor([[50, 7, 8, 9]]).expand(2, -1)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}

    def written(**more: Any) -> torch.Tensor:
        out = model.generate(
            batch["input_features"], decoder_input_ids=given, return_dict_in_generate=True,
            output_logits=True, **options, **more,
        )  # fmt: skip
        return torch.stack(out["logits"])

    bare = written()
    block = {"roles": ["block"], "stack": "decoder"}
    perturb(peftcore.attach(model, "loreft", rank=2, positions="all", targets=block))
    found = written()
    assert not torch.allclose(found, bare, atol=1e-4)
    torch.testing.assert_close(written(use_cache=False), found, atol=1e-4, rtol=1e-4)
    # with labels behind the prompt, training means the same tokens
    ids = torch.cat([given, found[:2].argmax(-1).T], 1)
    labels = ids.roll(-1, 1).masked_fill(torch.arange(6) < 3, -100)
    labels[:, -1] = found[2].argmax(-1)
    trained = model(batch["input_features"], decoder_input_ids=ids, labels=labels).logits
    torch.testing.assert_close(trained[:, 3:].transpose(0, 1), found, atol=1e-4, rtol=1e-4)
