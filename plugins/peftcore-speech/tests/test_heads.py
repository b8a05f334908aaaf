"""PEFT-SER as its authors computed it: classifier, adapter, prompts, LoRA, with the same weights.

What stands here as `ser_...` is their formula (usc-sail/peft-ser, model/wavlm_plus.py, whisper.py,
adapter.py) on transformers' modules, written anew.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import peftcore
from peftcore import ConfigError, backbone_named
from peftcore.testing import perturb
from peftcore_speech.heads import LayersClassifier, LayersHead
from peftcore_speech.hearing import narrow

RATE = 16000
ADAPTER = {
    "wavlm": ["path:**.layers.*.layer_norm", "mlp.down"],
    "wav2vec2": ["path:**.layers.*.layer_norm", "mlp.down"],
    "whisper": ["path:**.layers.*.final_layer_norm", "mlp.down"],
}


def network(family: str) -> Any:
    torch.manual_seed(0)
    model: Any = backbone_named(family).tiny()
    return model.encoder if family == "whisper" else model


def inputs(model: Any, family: str) -> tuple[dict[str, Tensor], Tensor]:
    if family == "whisper":
        features = torch.randn(2, 8, 2 * model.config.max_source_positions).double()
        return {"input_features": features}, torch.tensor([12, 7])
    return {"input_values": torch.randn(2, 240).double()}, torch.tensor([20, 11])


def ser_block(family: str, block: Any, hidden: Tensor, bias: Tensor | None, adapt: Any) -> Any:
    """Run one block; ``adapt`` gets the hidden states before the norm of the feed-forward part."""
    if family == "whisper":
        attended = block.self_attn(block.self_attn_layer_norm(hidden), attention_mask=None)[0]
        hidden = hidden + attended
        inner = block.fc2(F.gelu(block.fc1(block.final_layer_norm(hidden))))
        return hidden + inner + adapt(hidden), None
    if family == "wavlm":
        attended, _, bias = block.attention(hidden, position_bias=bias)
    else:
        attended = block.attention(hidden)[0]
    hidden = hidden + attended
    adapted = adapt(hidden)
    normed = block.layer_norm(hidden)
    return block.final_layer_norm(normed + block.feed_forward(normed) + adapted), bias


def ser_layers(
    family: str, model: Any, call: dict[str, Tensor], adapts: Any, prompts: Any = None
) -> tuple[Tensor, ...]:
    """Return the hidden states behind each block, as the released encoders collect them."""
    if family == "whisper":
        hidden = F.gelu(model.conv2(F.gelu(model.conv1(call["input_features"])))).transpose(1, 2)
        hidden = hidden + model.embed_positions.weight
    else:
        extracted = model.feature_extractor(call["input_values"]).transpose(1, 2)
        hidden = model.feature_projection(extracted)[0]
        hidden = model.encoder.layer_norm(hidden + model.encoder.pos_conv_embed(hidden))
    out, bias = [], None
    for i, block in enumerate(model.layers if family == "whisper" else model.encoder.layers):
        if prompts is not None:
            hidden = torch.cat([prompts[i].expand(len(hidden), -1, -1), hidden], 1)
        hidden, bias = ser_block(family, block, hidden, bias, adapts[i])
        if prompts is not None:
            hidden = hidden[:, prompts[i].shape[0] :]
        out.append(hidden)
    if family == "whisper":
        out[-1] = model.layer_norm(out[-1])
    return tuple(out)


def ser_head(head: LayersHead, layers: tuple[Tensor, ...], length: Tensor) -> Tensor:
    """Return what the released classifier makes of the layers; convolutions as products."""
    shares = torch.softmax(head.sum.weights, -1)
    mixed = sum(share * layer for share, layer in zip(shares, layers, strict=True))
    for conv, last in ((head.frames[0], False), (head.frames[3], False), (head.frames[6], True)):
        mixed = mixed @ conv.weight[..., 0].T + conv.bias
        mixed = mixed if last else mixed.relu()
    mask = (torch.arange(mixed.shape[1]) < length[:, None]).float()
    mean = (mixed * mask[..., None]).sum(1) / length[:, None]
    return head.out[2](head.out[0](mean).relu())


def silent(hidden: Tensor) -> Tensor:
    return torch.zeros_like(hidden)


def ser_adapter(bottleneck: Any, released: bool) -> Callable[[Tensor], Tensor]:
    """Return the released module: 0.1 up(relu(down h)) + h; without its own residual otherwise."""

    def adapt(hidden: Tensor) -> Tensor:
        down, up = bottleneck.down, bottleneck.up
        added = 0.1 * (F.relu(hidden @ down.weight.T + down.bias) @ up.weight.T + up.bias)
        return added + hidden if released else added

    return adapt


@pytest.mark.parametrize("family", ADAPTER)
@pytest.mark.parametrize("released", [True, False])
def test_adapter_and_classifier_are_those_of_the_authors(family: str, released: bool) -> None:
    model = network(family)
    classifier = LayersClassifier(model, 4, 24, 0.1, embedded=False).eval().double()
    for parameter in classifier.head.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = {"bottleneck": 6, "released": released, "targets": ADAPTER[family]}
    adapter = peftcore.attach(classifier, "ser_adapter", **config)
    perturb(adapter)
    call, length = inputs(model, family)
    bottlenecks = [m.bottleneck for m in classifier.modules() if type(m).__name__ == "Begin"]
    assert len(bottlenecks) == 2
    with torch.no_grad():
        ours = classifier(frames=length, **call)
        with peftcore.disabled(classifier):
            adapts = [ser_adapter(one, released) for one in bottlenecks]
            theirs = ser_head(classifier.head, ser_layers(family, model, call, adapts), length)
            without = classifier(frames=length, **call)
            plain = ser_layers(family, model, call, [silent, silent])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    torch.testing.assert_close(without, ser_head(classifier.head, plain, length), rtol=0, atol=1e-6)
    assert (ours - without).abs().max() > 1e-3


@pytest.mark.parametrize("family", ADAPTER)
def test_embedding_prompts_are_those_of_the_authors(family: str) -> None:
    model = network(family).double()
    adapter = peftcore.attach(model, "embedding_prompt", num_virtual_tokens=3)
    prompts = [p.detach() for p in adapter.parameters()]
    call, _ = inputs(model, family)
    with torch.no_grad():
        ours = model(**call, output_hidden_states=True).hidden_states[1:]
        with peftcore.disabled(model):
            theirs = ser_layers(family, model, call, [silent, silent], prompts)
            plain = ser_layers(family, model, call, [silent, silent])
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    assert (ours[-1] - plain[-1]).abs().max() > 1e-3


def test_only_whisper_can_be_narrowed() -> None:
    with pytest.raises(ConfigError, match=r"task\.window_seconds: Wav2Vec2Model of x hears"):
        narrow(network("wav2vec2"), 2, "x")
    model = network("whisper")
    narrow(model, 10, "x")
    call = {"input_features": torch.randn(1, 8, 8)}
    assert model(**call).last_hidden_state.shape == (1, 4, 32)
    with pytest.raises(ConfigError, match="1 seconds are 0 positions of x, which has 4"):
        narrow(model, 1, "x")
