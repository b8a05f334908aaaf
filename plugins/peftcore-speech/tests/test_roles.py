"""Which modules each role names."""

from collections.abc import Mapping

import pytest
import torch
import transformers
from torch import nn

import peftcore
from peftcore import Backbone, backbone_named, backbone_of, survey

W = "encoder.layers.0"

WAVEFORM = {
    "model": [""],
    "conv": [f"feature_extractor.conv_layers.{i}.conv" for i in (0, 1)],
    "x-feature-projection": ["feature_projection.projection"],
    "embeddings.position": ["encoder.pos_conv_embed.conv"],
    "block": [W],
    "attention": [f"{W}.attention"],
    "attention.query": [f"{W}.attention.q_proj"],
    "attention.key": [f"{W}.attention.k_proj"],
    "attention.value": [f"{W}.attention.v_proj"],
    "attention.output": [f"{W}.attention.out_proj"],
    "mlp": [f"{W}.feed_forward"],
    "mlp.up": [f"{W}.feed_forward.intermediate_dense"],
    "mlp.down": [f"{W}.feed_forward.output_dense"],
    "norm": [
        "feature_extractor.conv_layers.0.layer_norm",
        "feature_projection.layer_norm",
        "encoder.layer_norm",
        f"{W}.layer_norm",
        f"{W}.final_layer_norm",
    ],
}
WAVLM = {
    **WAVEFORM,
    "x-relative-position": [f"{W}.attention.rel_attn_embed"],
    "x-position-gate": [f"{W}.attention.gru_rel_pos_linear"],
}
DIRECT = [f"encoder.layers.{i}.attention.{x}_proj" for i in (0, 1) for x in ("k", "v", "q", "out")]


def table(backbone: Backbone, model: nn.Module, blocks: tuple[int, ...] = (0,)) -> Mapping:
    """Return role to paths, of some blocks only where a path lies in one."""
    found: dict[str, list[str]] = {}
    for site in survey(model, backbone).sites:
        if site.block is None or site.block in blocks:
            found.setdefault(site.role, []).append(site.path)
    return found


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
def test_every_role_of_a_waveform_encoder_names_exactly_these(family: str) -> None:
    backbone = backbone_named(family)
    expected = WAVLM if family == "wavlm" else WAVEFORM
    assert table(backbone, backbone.tiny()) == expected


@pytest.mark.parametrize("family", ["wav2vec2", "hubert", "wavlm"])
def test_the_large_layout_has_the_same_roles(family: str) -> None:
    backbone = backbone_named(family)
    config = transformers.AutoConfig.for_model(
        family, **backbone.small, do_stable_layer_norm=True, feat_extract_norm="layer"
    )
    expected = dict(WAVLM if family == "wavlm" else WAVEFORM)
    convolutions = [f"feature_extractor.conv_layers.{i}.layer_norm" for i in (0, 1)]
    expected["norm"] = [*convolutions, *expected["norm"][1:]]
    model = transformers.AutoModel.from_config(config)
    found = {role: sorted(paths) for role, paths in table(backbone, model).items()}
    assert found == {role: sorted(paths) for role, paths in expected.items()}
    # their class is called ...StableLayerNorm, which is not the name of a norm
    blocks = [s.layer for s in survey(model, backbone).sites if s.role == "block"]
    assert [(b.kind, b.out_features) for b in blocks] == [("module", 32)] * 2


def test_only_wavlm_reads_its_projections_directly() -> None:
    for family, expected in (("wavlm", DIRECT), ("wav2vec2", []), ("hubert", [])):
        backbone = backbone_named(family)
        sites = survey(backbone.tiny(), backbone).sites
        assert [s.path for s in sites if s.direct] == expected


@pytest.mark.parametrize(
    ("head", "paths"),
    [("ctc", ["lm_head"]), ("audio-classification", ["projector", "classifier"])],
)
def test_what_is_above_a_waveform_encoder_is_the_head(head: str, paths: list[str]) -> None:
    backbone = backbone_named("wavlm")
    assert table(backbone, backbone.tiny(head=head))["head"] == paths


def test_the_weights_of_a_weighted_sum_of_layers_are_the_head_s_too() -> None:
    backbone = backbone_named("wavlm")
    config = transformers.WavLMConfig(**backbone.small, use_weighted_layer_sum=True)
    model = transformers.WavLMForSequenceClassification(config)
    adapter = peftcore.attach(model, "lora", targets=["mlp.up"], modules_to_save=["head"])
    names = {s.info.name for s in adapter.plan.selected}
    assert names == {"layer_weights"} | {
        f"{module}.{leaf}" for module in ("projector", "classifier") for leaf in ("weight", "bias")
    }


E, D = "encoder.layers.0", "decoder.layers.0"


def projections(role: str, *modules: str) -> dict[str, list[str]]:
    leaves = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
    parts = {f"{role}.{part}": [f"{m}.{leaf}" for m in modules] for part, leaf in leaves.items()}
    return {role: list(modules), **parts}


WHISPER = {
    "model": [""],
    "conv": ["encoder.conv1", "encoder.conv2"],
    "embeddings": ["decoder.embed_tokens"],
    "embeddings.position": ["encoder.embed_positions", "decoder.embed_positions"],
    "block": [E, D],
    **projections("attention", f"{E}.self_attn", f"{D}.self_attn"),
    **projections("cross_attention", f"{D}.encoder_attn"),
    "mlp.up": [f"{E}.fc1", f"{D}.fc1"],
    "mlp.down": [f"{E}.fc2", f"{D}.fc2"],
    "norm": [
        f"{E}.self_attn_layer_norm",
        f"{E}.final_layer_norm",
        "encoder.layer_norm",
        f"{D}.self_attn_layer_norm",
        f"{D}.encoder_attn_layer_norm",
        f"{D}.final_layer_norm",
        "decoder.layer_norm",
    ],
}  # fmt: skip


def test_every_role_of_whisper_names_exactly_these() -> None:
    backbone = backbone_named("whisper")
    found = {role: sorted(p) for role, p in table(backbone, backbone.tiny(), (0, 2)).items()}
    assert found == {role: sorted(paths) for role, paths in WHISPER.items()}


def test_blocks_of_whisper_are_counted_through_encoder_and_decoder() -> None:
    model = backbone_named("whisper").tiny()
    targets = {"roles": ["attention.query"], "layers": "1-2"}
    placed = peftcore.plan(model, "lora", targets=targets).placed
    assert [p.site.path for p in placed] == [
        "encoder.layers.1.self_attn.q_proj",
        "decoder.layers.0.self_attn.q_proj",
    ]


@pytest.mark.parametrize(
    ("head", "paths"),
    [("speech-seq2seq", ["proj_out"]), ("audio-classification", ["projector", "classifier"])],
)
def test_what_is_above_whisper_is_the_head(head: str, paths: list[str]) -> None:
    backbone = backbone_named("whisper")
    assert table(backbone, backbone.tiny(head=head))["head"] == paths


def test_the_encoder_of_whisper_can_be_tuned_by_itself() -> None:
    backbone = backbone_named("whisper")
    encoder = backbone.tiny().encoder
    assert backbone_of(encoder).name == "whisper"
    found = set(survey(encoder, backbone).roles())
    gone = {role for role in WHISPER if role.startswith("cross_")} | {"embeddings"}
    assert found == set(WHISPER) - gone
    adapter = peftcore.attach(encoder, "lora", targets=["mlp.*"])
    output = encoder(**backbone.batch(encoder)).last_hidden_state
    assert output.shape == (2, 12, 32)
    output.pow(2).mean().backward()
    adapter.check_alive()


class Wrapper(nn.Module):
    """A task's own head around a network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.classifier = nn.Linear(32, 4)

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.network(**batch).last_hidden_state.mean(1))


@pytest.mark.parametrize("family", ["wavlm", "whisper"])
def test_roles_are_found_inside_a_wrapper(family: str) -> None:
    backbone = backbone_named(family)
    model = Wrapper(backbone.tiny())
    assert backbone_of(model).name == family and backbone.entry(model) == "network"
    found = table(backbone, model)
    assert found["head"] == ["classifier"]
    assert found["block"] == ["network.encoder.layers.0"]
    adapter = peftcore.attach(model, "lora", targets=["mlp.up"], modules_to_save=["classifier"])
    model(**backbone.batch(model)).sum().backward()
    adapter.check_alive()
