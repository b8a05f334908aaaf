import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models import save_for_hf
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from peftcore import ConfigError, backbone_for_source, backbone_named, backbone_of
from peftcore_vision.clip import ClipVision

TIMM = ("timm-vit", "timm-cnn")
HEAD = "image-classification"

Save = Callable[..., tuple[Path, nn.Module]]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a tiny model as its library does, and return the folder and the model."""

    def saved(family: str, head: str = HEAD) -> tuple[Path, nn.Module]:
        folder = tmp_path / family
        if family == "clip-vision":
            model = backbone_named(family).tiny()
            model.save_pretrained(folder)
        else:
            model = backbone_named(family).tiny(head=head)
            save_for_hf(model, str(folder), safe_serialization=True)
        return folder, model

    return saved


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def outputs(model: nn.Module, family: str) -> torch.Tensor:
    torch.manual_seed(3)
    out = model(**backbone_named(family).batch(model))
    return out if isinstance(out, torch.Tensor) else out.image_embeds


@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_a_saved_model_comes_back_with_its_weights(family: str, save: Save) -> None:
    folder, model = save(family)
    head = "none" if family == "clip-vision" else HEAD
    loaded = backbone_for_source(str(folder)).load(str(folder), head=head)
    torch.testing.assert_close(outputs(loaded.model, family), outputs(model, family))
    assert loaded.fresh == () and loaded.source == str(folder)
    assert not loaded.model.training and backbone_of(loaded.model).name == family


@pytest.mark.parametrize("family", TIMM)
def test_without_a_head_the_features_come_out(family: str, save: Save) -> None:
    folder, model = save(family)
    loaded = backbone_named(family).load(str(folder))
    assert loaded.fresh == ()
    torch.manual_seed(3)
    x = backbone_named(family).batch(model)["x"]
    torch.testing.assert_close(
        loaded.model(x), model.forward_head(model.forward_features(x), pre_logits=True)
    )


@pytest.mark.parametrize(("family", "name"), [("timm-vit", "head"), ("timm-cnn", "fc")])
def test_a_head_of_another_size_starts_anew_and_is_told(family: str, name: str, save: Save) -> None:
    folder, _ = save(family)
    loaded = backbone_named(family).load(str(folder), head=HEAD, num_labels=3)
    assert loaded.fresh == (f"{name}.weight", f"{name}.bias")
    assert outputs(loaded.model, family).shape == (2, 3)
    assert backbone_named(family).load(str(folder), head=HEAD, num_labels=5).fresh == ()


def test_a_checkpoint_without_a_classifier_asks_for_the_number(save: Save) -> None:
    folder, _ = save("timm-vit", "none")
    with pytest.raises(ConfigError, match=r"has no classifier\. Give num_labels"):
        backbone_named("timm-vit").load(str(folder), head=HEAD)
    loaded = backbone_named("timm-vit").load(str(folder), head=HEAD, num_labels=3)
    assert loaded.fresh == ("head.weight", "head.bias")


@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_the_dtype_is_the_one_asked_for(family: str, save: Save) -> None:
    folder, _ = save(family)
    loaded = backbone_named(family).load(str(folder), dtype="bfloat16")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    with pytest.raises(ConfigError, match="dtype 'int8' is none of"):
        backbone_named(family).load(str(folder), dtype="int8")


def test_positions_are_interpolated_to_another_size_of_images(save: Save) -> None:
    folder, model = save("timm-vit")
    loaded = backbone_named("timm-vit").load(str(folder), img_size=32)
    assert model.pos_embed.shape[1] == 1 + 4 * 4 and loaded.model.pos_embed.shape[1] == 1 + 8 * 8
    assert loaded.model(**backbone_named("timm-vit").batch(loaded.model)).shape == (2, 32)
    for wrong, reason in ((30, "30 is no multiple of 4"), ("32", "'32' is no number of pixels")):
        with pytest.raises(ConfigError, match=f"img_size {reason}"):
            backbone_named("timm-vit").load(str(folder), img_size=wrong)


@pytest.mark.parametrize(("family", "size"), [("timm-vit", 32), ("timm-cnn", 48)])
def test_the_transform_makes_inputs_of_pictures(family: str, size: int, save: Save) -> None:
    folder, _ = save(family)
    loaded = backbone_named(family).load(str(folder), img_size=size)
    picture = Image.fromarray(np.full((50, 70, 3), 255, dtype=np.uint8))
    image = loaded.tokenizer(picture)
    assert image.shape == (3, size, size)
    settings = loaded.model.pretrained_cfg
    expected = (1 - torch.tensor(settings["mean"])) / torch.tensor(settings["std"])
    torch.testing.assert_close(image[:, 0, 0], expected)


@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_a_folder_can_be_built_without_its_weights(family: str, save: Save) -> None:
    folder, model = save(family)
    with torch.device("meta"):
        head = "none" if family == "clip-vision" else HEAD
        built = backbone_named(family).build(str(folder), head=head)
    shapes = {n: p.shape for n, p in built.named_parameters()}
    assert shapes == {n: p.shape for n, p in model.named_parameters()}


@pytest.mark.parametrize("options", [{}, {"num_labels": 3}, {"img_size": 32}], ids=str)
@pytest.mark.parametrize("head", ["none", HEAD])
@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_without_weights_a_load_says_the_same(
    family: str, head: str, options: dict[str, int], save: Save
) -> None:
    folder, _ = save(family)
    if family == "clip-vision":
        head, options = "none", {}
    backbone = backbone_named(family)
    found = []
    for load in (backbone.load, backbone.load_on_meta):
        loaded = load(str(folder), head=head, **options)
        tensors = [(n, p.shape, p.dtype) for n, p in loaded.model.named_parameters()]
        found.append((loaded.fresh, tensors, type(loaded.tokenizer), loaded.model.training))
    assert found[0] == found[1]
    assert {p.device.type for p in loaded.model.parameters()} == {"meta"}


@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_without_weights_damage_is_told_too(family: str, save: Save) -> None:
    folder, _ = save(family)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="the weights cannot be read"):
        backbone_named(family).load_on_meta(str(folder))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        backbone_named(family).load_on_meta(str(folder))


def test_a_size_has_no_transform_and_lacks_nothing() -> None:
    for family, size in (("timm-vit", "vit-s14"), ("clip-vision", "clip-vit-b32")):
        loaded = backbone_named(family).load_on_meta(size)
        assert (loaded.fresh, loaded.tokenizer, loaded.source) == ((), None, size)
        assert {p.device.type for p in loaded.model.parameters()} == {"meta"}


def test_the_settings_of_older_folders_are_on_the_top_level(save: Save) -> None:
    folder, _ = save("timm-cnn")
    config = json.loads((folder / "config.json").read_text())
    settings = config.pop("pretrained_cfg") | {"std": [0.5, 0.5, 0.5]}
    (folder / "config.json").write_text(json.dumps(settings | config))
    loaded = backbone_named("timm-cnn").load(str(folder), head=HEAD)
    assert tuple(loaded.model.pretrained_cfg["std"]) == (0.5, 0.5, 0.5)


def test_the_image_tower_of_a_whole_clip_is_loaded_with_its_projection(tmp_path: Path) -> None:
    text = {
        "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 8,
    }  # fmt: skip
    vision = dict(ClipVision.small)
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).eval()
    whole.save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(tmp_path)
    loaded = backbone_for_source(str(tmp_path)).load(str(tmp_path))
    assert loaded.fresh == ()
    picture = Image.fromarray(np.full((20, 30, 3), 128, dtype=np.uint8))
    pixels = loaded.tokenizer(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 16, 16)
    expected = whole.get_image_features(pixels).pooler_output
    torch.testing.assert_close(loaded.model(pixels).image_embeds, expected)
    built = backbone_named("clip-vision").build(str(tmp_path))
    assert built(pixels).image_embeds.shape == (1, 16)


def test_a_tower_saved_without_a_projection_gets_a_random_one_and_says_so(tmp_path: Path) -> None:
    backbone_named("clip-vision").tiny().vision_model.save_pretrained(tmp_path)
    loaded = backbone_named("clip-vision").load(str(tmp_path))
    assert loaded.fresh == ("visual_projection.weight",)


@pytest.mark.parametrize("family", TIMM)
def test_what_is_no_folder_of_timm_is_told(family: str, tmp_path: Path) -> None:
    backbone = backbone_named(family)
    with pytest.raises(ConfigError, match="does not exist"):
        backbone.load(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        backbone.load(str(tmp_path))
    file = tmp_path / "config.json"
    with pytest.raises(ConfigError, match="is a file"):
        file.write_text("{}")
        backbone.load(str(file))
    with pytest.raises(ConfigError, match="names no architecture of timm"):
        backbone.load(str(tmp_path))
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        backbone.load(str(tmp_path))
    file.write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        backbone.load(str(tmp_path))


def test_a_name_that_cannot_be_fetched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"timm/resnet18\.none is no folder here"):
        backbone_named("timm-cnn").load("timm/resnet18.none")
    with pytest.raises(ConfigError, match="no/such-clip is no folder here"):
        backbone_named("clip-vision").load("no/such-clip")


def test_a_model_of_another_family_is_told(save: Save) -> None:
    folder, _ = save("timm-vit")
    with pytest.raises(ConfigError, match="'vit_tiny_patch16_224', which the backbone timm-cnn"):
        backbone_named("timm-cnn").load(str(folder))
    edit_config(folder, architecture="vit_of_nobody")
    with pytest.raises(ConfigError, match="'vit_of_nobody', which the backbone timm-vit"):
        backbone_named("timm-vit").load(str(folder))
    with pytest.raises(ConfigError, match="of another family than clip-vision"):
        backbone_named("clip-vision").load(str(folder))


@pytest.mark.parametrize("keep", [0, 100, 20_000])
@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_damaged_weights_are_told(family: str, keep: int, save: Save) -> None:
    folder, _ = save(family)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="cannot be read"):
        backbone_named(family).load(str(folder))


@pytest.mark.parametrize("family", [*TIMM, "clip-vision"])
def test_missing_weights_are_told(family: str, save: Save) -> None:
    folder, _ = save(family)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors|cannot be read"):
        backbone_named(family).load(str(folder))


def test_blocks_that_would_be_random_or_dropped_are_told(save: Save) -> None:
    folder, _ = save("timm-vit")
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    edit_config(folder, model_args=arguments | {"depth": 3})
    with pytest.raises(ConfigError, match=r"lacks 12 tensors of the network, such as blocks\.2"):
        backbone_named("timm-vit").load(str(folder))
    edit_config(folder, model_args=arguments | {"depth": 1})
    with pytest.raises(ConfigError, match=r"holds blocks\.1\.attn\.proj\.bias, which"):
        backbone_named("timm-vit").load(str(folder))


def test_weights_of_another_shape_are_told(save: Save) -> None:
    folder, _ = save("timm-vit")
    arguments = json.loads((folder / "config.json").read_text())["model_args"]
    edit_config(folder, model_args=arguments | {"embed_dim": 48})
    with pytest.raises(ConfigError, match=r"has the shape \(32,\) in the checkpoint and \(48,\)"):
        backbone_named("timm-vit").load(str(folder))


def test_arguments_that_the_architecture_does_not_take_are_told(save: Save) -> None:
    folder, _ = save("timm-vit")
    edit_config(folder, model_args={"deepness": 3})
    with pytest.raises(ConfigError, match=r"timm cannot build vit_tiny_patch16_224: .*deepness"):
        backbone_named("timm-vit").load(str(folder))


def test_clip_tells_of_layers_that_would_be_random(save: Save) -> None:
    folder, _ = save("clip-vision")
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"lacks 16 tensors of the image tower, such as vision"):
        backbone_named("clip-vision").load(str(folder))


def test_a_family_recognises_its_own_checkpoints(save: Save, tmp_path: Path) -> None:
    families = [*TIMM, "clip-vision"]
    for family in families:
        folder, _ = save(family)
        assert [f for f in families if backbone_named(f).recognises(str(folder))] == [family]
    assert not any(backbone_named(f).recognises(str(tmp_path)) for f in families)
    names = {"timm/resnet50.a1_in1k": ["timm-cnn"], "timm/vit_tiny_patch16_224": ["timm-vit"]}
    for name, known in {**names, "timm/convnext_tiny": [], "someone/resnet50": []}.items():
        assert [f for f in TIMM if backbone_named(f).recognises(name)] == known
