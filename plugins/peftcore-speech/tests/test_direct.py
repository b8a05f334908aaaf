"""WavLM reads the weights of its projections and never calls them."""

import pytest
import torch
from torch import nn

import peftcore
from peftcore import AttachError, backbone_named
from peftcore.testing import perturb

WAVLM = backbone_named("wavlm")
PROJECTIONS = ["attention.query", "attention.key", "attention.value", "attention.output"]


def run(model: nn.Module, batch: dict) -> torch.Tensor:
    with torch.no_grad():
        return model(**batch).last_hidden_state


def test_lora_at_the_projections_equals_a_plain_model_with_the_sum_of_weights() -> None:
    model, plain = WAVLM.tiny(), WAVLM.tiny()
    plain.load_state_dict(model.state_dict())
    batch = WAVLM.batch(model)
    adapter = peftcore.attach(model, "lora", rank=4, alpha=8, targets=PROJECTIONS)
    perturb(adapter)
    assert len(adapter.placed) == 8
    before = run(plain, batch)
    with torch.no_grad():
        for item in adapter.placed:
            a, b = (t for _, t in sorted(item.piece.named_parameters()))
            plain.get_submodule(item.site.path).weight += 8 / 4 * b @ a
    torch.testing.assert_close(run(model, batch), run(plain, batch), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, run(plain, batch), atol=1e-3)


def test_the_gradient_of_lora_is_that_of_the_weights() -> None:
    model, plain = WAVLM.tiny().double(), WAVLM.tiny().double()
    plain.load_state_dict(model.state_dict())
    batch = WAVLM.batch(model)
    batch["input_values"] = batch["input_values"].double()
    adapter = peftcore.attach(model, "lora", rank=4, alpha=4, targets=PROJECTIONS)
    for network in (model, plain):
        network(**batch).last_hidden_state.pow(2).mean().backward()
    adapter.check_alive()
    for item in adapter.placed:
        a, b = (t for _, t in sorted(item.piece.named_parameters()))
        # W + B A with B = 0: the gradient of B is the one of W times the transpose of A
        expected = plain.get_submodule(item.site.path).weight.grad @ a.detach().T
        torch.testing.assert_close(b.grad, expected)


def test_biases_of_the_projections_train() -> None:
    model = WAVLM.tiny()
    adapter = peftcore.attach(model, "bitfit")
    model(**WAVLM.batch(model)).last_hidden_state.pow(2).mean().backward()
    moved = {s.info.name for s in adapter.plan.selected if s.info.name.endswith("q_proj.bias")}
    assert moved == {f"encoder.layers.{i}.attention.q_proj.bias" for i in (0, 1)}
    adapter.check_alive()


def test_merging_at_the_projections_keeps_the_outputs() -> None:
    model = WAVLM.tiny()
    batch = WAVLM.batch(model)
    bare = run(model, batch)
    adapter = peftcore.attach(model, "lora", rank=4, targets=PROJECTIONS)
    perturb(adapter)
    tuned = run(model, batch)
    adapter.merge()
    torch.testing.assert_close(run(model, batch), tuned, atol=1e-5, rtol=1e-5)
    adapter.unmerge()
    adapter.detach()
    assert torch.equal(run(model, batch), bare)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("adapter", {"targets": ["attention.value"]}),
        ("loreft", {"targets": ["attention.output"]}),
        ("parallel_adapter", {"targets": ["attention.query"]}),
    ],
)
def test_what_is_no_change_of_a_weight_is_refused_there(method: str, options: dict) -> None:
    model = WAVLM.tiny()
    classes = [type(m) for m in model.modules()]
    with pytest.raises(AttachError, match="reads the weight there and never calls the layer"):
        peftcore.attach(model, method, **options)
    assert [type(m) for m in model.modules()] == classes


def test_a_transform_can_stand_at_the_attention_as_a_whole() -> None:
    model = WAVLM.tiny()
    targets = ["attention", "mlp.down"]
    adapter = peftcore.attach(model, "houlsby", targets=targets)
    model(**WAVLM.batch(model)).last_hidden_state.pow(2).mean().backward()
    adapter.check_alive()
