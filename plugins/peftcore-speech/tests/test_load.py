"""Folders that save_pretrained wrote, and older layouts of them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftcore import ConfigError, backbone_for_source, backbone_named
from peftcore.testing import run, same

HEADS = {
    "wavlm": "ctc",
    "wav2vec2": "audio-classification",
    "hubert": "ctc",
    "whisper": "speech-seq2seq",
}


@pytest.mark.parametrize("family", HEADS)
def test_every_family_loads_what_it_saved(family: str, tmp_path: Path) -> None:
    backbone, head = backbone_named(family), HEADS[family]
    model = backbone.tiny(head=head)
    model.save_pretrained(tmp_path)
    assert backbone_for_source(str(tmp_path)).name == family
    loaded = backbone.load(str(tmp_path), head=head)
    batch = backbone.batch(model)
    assert loaded.fresh == () and loaded.tokenizer is None
    assert same(run(loaded.model, batch), run(model, batch))
    assert backbone.load(str(tmp_path)).fresh == ()
    assert backbone.load_on_meta(str(tmp_path), head=head).fresh == ()
    other = backbone_named("hubert" if family != "hubert" else "wavlm")
    with pytest.raises(ConfigError, match=f"a model of type '{family}'"):
        other.load(str(tmp_path))


@pytest.mark.parametrize("family", ["wavlm", "whisper"])
def test_a_new_classifier_is_random_and_said_to_be(family: str, tmp_path: Path) -> None:
    backbone = backbone_named(family)
    backbone.tiny(head=HEADS[family]).save_pretrained(tmp_path)
    loaded = backbone.load(str(tmp_path), head="audio-classification", num_labels=5)
    assert set(loaded.fresh) == {
        f"{module}.{leaf}" for module in ("projector", "classifier") for leaf in ("weight", "bias")
    }
    assert loaded.model(**_inputs(backbone.batch(loaded.model))).logits.shape == (2, 5)
    options = {"head": "audio-classification", "num_labels": 5}
    assert backbone.load_on_meta(str(tmp_path), **options).fresh == loaded.fresh


def _inputs(batch: dict) -> dict:
    return {name: value for name, value in batch.items() if name != "labels"}


def test_the_norm_and_direction_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    backbone = backbone_named("wavlm")
    model = backbone.tiny()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    conv = "encoder.pos_conv_embed.conv"
    for new, old in (("original0", "weight_g"), ("original1", "weight_v")):
        state[f"{conv}.{old}"] = state.pop(f"{conv}.parametrizations.weight.{new}")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = backbone.load(str(tmp_path))
    batch = backbone.batch(model)
    assert loaded.fresh == () == backbone.load_on_meta(str(tmp_path)).fresh
    assert same(run(loaded.model, batch), run(model, batch))


def test_a_missing_tensor_of_the_network_is_told(tmp_path: Path) -> None:
    backbone = backbone_named("wavlm")
    backbone.tiny().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    del state["encoder.pos_conv_embed.conv.parametrizations.weight.original0"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (backbone.load, backbone.load_on_meta):
        sentence = r"lacks 1 tensors of the network, such as encoder\.pos"
        with pytest.raises(ConfigError, match=sentence):
            load(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "field", "block"),
    [
        ("wavlm", "num_hidden_layers", "encoder.layers.1"),
        ("whisper", "encoder_layers", "encoder.layers.1"),
        ("whisper", "decoder_layers", "decoder.layers.1"),
    ],
)
def test_a_block_that_the_config_leaves_out_is_told(
    family: str, field: str, block: str, tmp_path: Path
) -> None:
    backbone = backbone_named(family)
    backbone.tiny(head=HEADS[family]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: 1, "num_hidden_layers": 1}))
    with pytest.raises(ConfigError, match=f"holds .*{block}, a block that the model"):
        backbone.load(str(tmp_path), head=HEADS[family])


def test_wrong_heads_and_sizes_are_told() -> None:
    with pytest.raises(ConfigError, match=r"no head 'causal-lm'.*ctc, audio-classification"):
        backbone_named("wavlm").tiny(head="causal-lm")
    with pytest.raises(ConfigError, match="Did you mean whisper-small"):
        backbone_named("whisper").build("whisper-smal")


def test_no_mask_means_that_every_frame_is_real() -> None:
    backbone = backbone_named("wav2vec2")
    model = backbone.tiny()
    batch = backbone.batch(model)
    frames = model(batch["input_values"]).last_hidden_state.shape[1]
    context = backbone.context(model, (batch["input_values"],), {})
    assert context.mask is not None
    assert torch.equal(context.mask, torch.ones(2, frames, dtype=torch.bool))
