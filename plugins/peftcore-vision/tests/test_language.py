"""Models of images and language: two stacks, each with its roles."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

import peftcore
from peftcore import AttachError, TargetError, backbone_named, backbone_of, plan, survey
from peftcore.testing import loss_of, perturb, run, tiny

NAME, HEAD = "vision-language", "image-text-to-text"
SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
}  # fmt: skip
CONFIG: dict[str, Any] = {
    "text_config": {**SIZES, "vocab_size": 40, "max_position_embeddings": 16},
    "vision_config": {**SIZES, "image_size": 16, "patch_size": 8},
}


def clip() -> CLIPModel:
    return CLIPModel(CLIPConfig(**CONFIG, projection_dim=16)).eval()


def siglip() -> SiglipModel:
    return SiglipModel(SiglipConfig(**CONFIG)).eval()


def places(model: nn.Module, stack: str) -> dict[str, str]:
    """Return role to the first path in a stack."""
    found: dict[str, str] = {}
    for site in survey(model, backbone_of(model)).sites:
        if site.stack == stack:
            found.setdefault(site.role, site.path)
    return found


def of_tower(tower: str) -> dict[str, str]:
    block = f"{tower}.encoder.layers.0"
    parts = {"query": "q", "key": "k", "value": "v", "output": "out"}
    return {
        "block": block,
        "attention": f"{block}.self_attn",
        **{f"attention.{part}": f"{block}.self_attn.{p}_proj" for part, p in parts.items()},
        "mlp": f"{block}.mlp",
        "mlp.up": f"{block}.mlp.fc1",
        "mlp.down": f"{block}.mlp.fc2",
        "embeddings.position": f"{tower}.embeddings.position_embedding",
    }


def test_both_towers_of_clip_have_the_roles() -> None:
    norm, table = "encoder.layers.0.layer_norm1", "text_model.embeddings.token_embedding"
    assert places(clip(), "language") == {
        **of_tower("text_model"), "embeddings": table, "norm": f"text_model.{norm}",
        "pooler": "text_projection",
    }  # fmt: skip
    assert places(clip(), "vision") == {
        **of_tower("vision_model"),
        "x-class-token": "vision_model.embeddings",
        "patch": "vision_model.embeddings.patch_embedding",
        "norm": "vision_model.pre_layrnorm",
        "pooler": "visual_projection",
    }


@pytest.mark.parametrize("make", [clip, siglip])
def test_every_parameter_of_two_towers_is_within_reach_and_every_linear_trains(make: Any) -> None:
    model = make()
    found = survey(model, backbone_of(model))
    assert found.reachable == 1
    adapter = peftcore.attach(model, "lora", rank=2, targets=["all-linear"])
    linears = {path for path, module in found.modules.items() if isinstance(module, nn.Linear)}
    assert linears <= {item.site.path for item in adapter.placed}
    loss_of(model(**backbone_of(model).batch(model))).backward()
    adapter.check_alive()


def test_the_pooling_head_of_siglip_is_reached_in_all_its_parts() -> None:
    chosen = {s.here for s in survey(siglip(), backbone_of(siglip())).sites if "head" in s.path}
    head = "vision_model.head"
    parts = [f"{head}.attention[attention.{p}] (attention.{p})" for p in ("query", "key", "value")]
    assert {
        *parts, f"{head}.attention.out_proj (attention.output)", f"{head}.mlp.fc1 (mlp.up)",
        f"{head}.mlp.fc2 (mlp.down)", f"{head}.layernorm (norm)", "text_model.head (pooler)",
    } <= chosen  # fmt: skip


def test_targets_can_say_which_network_of_llava() -> None:
    model = backbone_named(NAME).tiny(head=HEAD)

    def reached(**targets: Any) -> list[str]:
        made = plan(model, "lora", rank=2, targets={"roles": ["mlp.up", "projector"], **targets})
        return [item.site.path for item in made.placed]

    vision = [f"model.vision_tower.encoder.layers.{i}.mlp.fc1" for i in (0, 1)]
    language = [f"model.language_model.layers.{i}.mlp.up_proj" for i in (0, 1)]
    projector = [f"model.multi_modal_projector.linear_{i}" for i in (1, 2)]
    assert reached() == [*vision, *projector, *language]
    assert reached(stack="vision") == [*vision, *projector]
    assert reached(stack="language") == language
    assert reached(layers="last 1") == language[1:]
    assert reached(layers="0", stack="vision") == vision[:1]
    with pytest.raises(TargetError, match="block 2, but the stack language has 2 blocks"):
        reached(layers="2")


def test_image_blocks_that_llava_does_not_read_are_not_chosen() -> None:
    model = backbone_named(NAME).tiny(head=HEAD)
    unused = {s.path for s in survey(model, backbone_of(model)).sites if s.role == "unused"}
    assert "model.vision_tower.encoder.layers.2.mlp.fc1" in unused
    assert len(model.model.vision_tower.encoder.layers) == 3
    model.requires_grad_(True)
    loss_of(model(**backbone_of(model).batch(model))).backward()
    without = {n.rpartition(".")[0] for n, p in model.named_parameters() if p.grad is None}
    assert without <= unused and "model.vision_tower.encoder.layers.2.mlp.fc1" in without


@pytest.mark.parametrize("method", ["loreft", "prefix"])
def test_a_method_that_acts_on_a_sequence_takes_the_language_network(method: str) -> None:
    _, model, batch = tiny(NAME, HEAD)
    adapter = peftcore.attach(model, method)
    assert {item.site.stack for item in adapter.placed} == {"language"}
    perturb(adapter)
    whole = model(**batch).logits
    del batch["labels"]
    length = int(batch["attention_mask"][1].sum())
    # row 1 is padded: alone and without its padding, the same tokens are edited
    alone = {name: value[1:] for name, value in batch.items()}
    alone |= {name: alone[name][:, :length] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        whole = model(**batch).logits
        torch.testing.assert_close(model(**alone).logits[0], whole[1, :length])


def test_the_prompt_of_a_labelled_row_ends_before_its_answer() -> None:
    knows, model, batch = tiny(NAME, HEAD)
    context = knows.context(model, (), batch)
    assert context.prompt is not None and context.mask is not None
    assert context.prompt[0].tolist() == [True] * 6 + [False] * 6
    positional = (batch["input_ids"], batch["pixel_values"], batch["attention_mask"])
    assert torch.equal(knows.context(model, positional, {}).mask, context.mask)


@pytest.mark.parametrize("make", [clip, siglip])
def test_features_of_a_text_alone_are_edited_by_its_own_mask(make: Any) -> None:
    model = make()
    batch = backbone_of(model).batch(model)
    texts = {name: batch[name] for name in ("input_ids", "attention_mask")}
    perturb(peftcore.attach(model, "loreft"))
    with torch.no_grad():
        apart = model.get_text_features(**texts).pooler_output
        model(**{**batch, "attention_mask": torch.ones_like(batch["attention_mask"])})
        torch.testing.assert_close(model.get_text_features(**texts).pooler_output, apart)
        whole = model(**batch).text_embeds
        torch.testing.assert_close(nn.functional.normalize(apart, dim=-1), whole)


def test_edits_of_images_know_nothing_of_the_text() -> None:
    _, model, batch = tiny(NAME, HEAD)
    adapter = peftcore.attach(model, "loreft", targets={"roles": ["block"], "stack": "vision"})
    loss_of(model(**batch)).backward()
    adapter.check_alive()
    perturb(adapter)
    masked = run(model, batch)[0]
    longer = {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}
    assert torch.equal(run(model, longer)[0], masked)


def test_rows_are_routed_in_the_language_network_and_refused_in_the_other() -> None:
    _, model, batch = tiny(NAME, HEAD)
    one = peftcore.attach(model, "lora", name="one", targets=["mlp.*"])
    sentence = r"fc1 \(mlp\.up\) is in the stack vision, whose rows"
    with pytest.raises(AttachError, match=sentence), peftcore.route(model, ["one", None]):
        pass
    one.detach()
    targets = {"roles": ["mlp.*"], "stack": "language"}
    two = peftcore.attach(model, "lora", name="two", targets=targets)
    perturb(two)
    tuned = run(model, batch)[1]
    with peftcore.disabled(model):
        bare = run(model, batch)[1]
    with peftcore.route(model, ["two", None]):
        rows = run(model, batch)[1]
    torch.testing.assert_close(rows, torch.stack([tuned[0], bare[1]]))


@pytest.mark.parametrize("method", ["prompt", "vpt"])
def test_what_cannot_act_in_two_networks_says_why_in_one_sentence(method: str) -> None:
    with pytest.raises(AttachError, match=f"{method} cannot run on {NAME}: ") as caught:
        plan(backbone_named(NAME).tiny(), method)
    assert str(caught.value).count(". ") == 0


def test_a_named_size_has_its_published_number_of_parameters() -> None:
    model = peftcore.build_on_meta("llava-1.5-7b", head=HEAD)
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072


def test_a_padded_text_beside_images_is_what_it_is_alone() -> None:
    """The towers have masks, rows and tokens of their own; there is one image more than texts."""
    torch.manual_seed(0)
    model = clip()
    mask = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    ids = torch.randint(3, 40, (2, 8)) * mask
    images = torch.randn(3, 3, 16, 16)
    both = {"roles": ["block"], "stack": "vision"}, {"roles": ["block"], "stack": "language"}
    methods = [{"method": "loreft", "rank": 2, "positions": "f2+l2", "targets": t} for t in both]
    bare = model(input_ids=ids, attention_mask=mask, pixel_values=images)
    perturb(peftcore.attach(model, methods))
    found = model(input_ids=ids, attention_mask=mask, pixel_values=images)
    short = {"input_ids": ids[1:, :5], "attention_mask": mask[1:, :5]}
    alone = model(**short, pixel_values=images[2:])
    for embeds in ("text_embeds", "image_embeds"):
        assert not torch.allclose(found[embeds], bare[embeds], atol=1e-3)
        torch.testing.assert_close(found[embeds][-1:], alone[embeds], atol=1e-5, rtol=1e-4)
    tower = model.get_text_features(**short)
    tower = getattr(tower, "pooler_output", tower)
    tower = tower / tower.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(found.text_embeds[1:], tower, atol=1e-5, rtol=1e-4)


def test_both_towers_of_a_saved_clip_are_loaded_by_the_name_of_the_family(tmp_path: Path) -> None:
    model = clip()
    model.save_pretrained(tmp_path)
    loaded = backbone_named(NAME).load(str(tmp_path))
    assert isinstance(loaded.model, CLIPModel) and not loaded.fresh
    assert torch.equal(loaded.model.text_projection.weight, model.text_projection.weight)
    # without a name it is the image tower, as before
    assert peftcore.backbone_for_source(str(tmp_path)).name == "clip-vision"
