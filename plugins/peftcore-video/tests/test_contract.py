"""The contract of the backbone, and what is its own: parts, counts, and a LLaMA left as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import peftcore
from peftcore import ConfigError, backbone_named, build_on_meta, installed, survey
from peftcore.testing import BackboneContract, perturb, tiny

NAME = "clip-captioner"
#: AGAdapter, reconstructed: the first in CLIP's towers, the other in the language model.
AGADAPTER: list[dict[str, Any]] = [
    {"method": "kaadapter", "rank": 4, "targets": {
        "roles": ["mlp.up", "mlp.down"], "exclude": ["path:**.language_model.**"]}},
    {"method": "llama_adapter", "adapter_len": 3, "adapter_layers": 1},
]  # fmt: skip
needs_agadapter = pytest.mark.skipif(
    bool({"kaadapter", "llama_adapter"} - set(installed().methods)), reason="methods are missing"
)


class TestClipCaptioner(BackboneContract):
    backbone = NAME

    def save(self, model: nn.Module, folder: Path) -> None:
        model.write(folder)  # type: ignore[operator]


def test_the_three_stacks_have_the_roles_of_their_families() -> None:
    knows, model, _ = tiny(NAME)
    found: dict[str, set[str]] = {}
    for site in survey(model, knows).sites:
        found.setdefault(site.stack, set()).add(site.role)
    assert {"patch", "pooler", "projector", "mlp.up"} <= found["vision"]
    assert {"embeddings", "pooler", "mlp.up"} <= found["text"]
    assert {"embeddings", "head", "mlp.gate", "attention.query"} <= found["language"]


def test_both_networks_of_the_paper_are_counted() -> None:
    model = build_on_meta("clip-bigg-llama-7b")
    counts = [
        sum(p.numel() for p in part.parameters())
        for part in (model.clip, model.projection, model.language_model)
    ]
    assert counts == [2_539_567_105, 1280 * 4096 + 4096, 6_738_415_616]


@needs_agadapter
def test_agadapter_has_the_parameters_of_its_closed_form() -> None:
    model = build_on_meta("clip-bigg-llama-7b")
    first, second = AGADAPTER
    methods = [{**first, "rank": 64}, {**second, "adapter_len": 10, "adapter_layers": 30}]
    plan = peftcore.plan(model, methods)
    ends = sum(n * (2 * d * 64 + 64 + d) for n, d in ((48, 1664), (32, 1280)))
    assert plan.trainable == ends + 32 * (64**2 + 64) + 1_229_760


@needs_agadapter
def test_agadapter_starts_as_both_towers_and_the_llama_are_bit_for_bit() -> None:
    _, model, batch = tiny(NAME)
    with torch.no_grad():
        bare = model(**batch)
        adapter = peftcore.attach(model, AGADAPTER)
        start = model(**batch)
        for name in ("logits", "frames", "text_embeds"):
            assert torch.equal(start[name], bare[name]), name
        stacks = {item.label: set[str]() for item in adapter.placed}
        for item in adapter.placed:
            stacks[item.label].add(item.site.stack)
        assert stacks == {"kaadapter": {"vision", "text"}, "llama_adapter": {"language"}}
        perturb(adapter)
        tuned = model(**batch)
        for name in ("logits", "frames", "text_embeds"):
            assert not torch.allclose(tuned[name], bare[name], atol=1e-4), name


def test_a_row_without_frames_is_a_text_alone() -> None:
    _, model, batch = tiny(NAME)
    seen = torch.tensor([[True, True], [False, False]])
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = model(**batch, seen=seen)
        alone = model.language_model(**texts).logits
    real = int(batch["attention_mask"][1].sum())
    torch.testing.assert_close(found.logits[1, 2 : 2 + real], alone[1, :real])
    assert not torch.allclose(found.logits[0, 2:], alone[0], atol=1e-3)
    assert not found.frames[1].any()


def test_parts_load_from_their_own_folders_and_the_layer_between_is_new(tmp_path: Path) -> None:
    knows, model, _ = tiny(NAME)
    model.clip.save_pretrained(tmp_path / "clip")
    model.language_model.save_pretrained(tmp_path / "llama")
    loaded = knows.load(str(tmp_path / "clip"), language_model=str(tmp_path / "llama"))
    assert loaded.fresh == ("projection.weight", "projection.bias")
    with pytest.raises(ConfigError, match=r"needs a language_model besides .*clip"):
        knows.load(str(tmp_path / "clip"))
    model.write(tmp_path / "both")
    assert peftcore.backbone_for_source(str(tmp_path / "both")).name == NAME
    (tmp_path / "both" / "projection.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match=r"projection\.safetensors cannot be read: .*Save the"):
        backbone_named(NAME).load(str(tmp_path / "both"))
