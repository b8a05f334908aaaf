"""The recipes under examples/: what each arm trains, and small runs of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.models import save_for_hf

import peftcore
from peftcore import build_on_meta, installed
from peftcore.testing import tiny
from peftcore_train import recipes
from peftcore_train.planning import plans_of

EXAMPLES = Path(__file__).parents[3] / "examples"
D = 768  # width of ViT-B/16; each of its 12 blocks has 2 norms and the widths 3 D, D, 4 D and D

#: Dutt et al.'s table on ViT-B/16: published counts, or the closed form of the method.
VIT = {
    "full": 85_798_656,
    "linear-probe": 0,
    "bitfit": 102_912,
    "layernorm": 38_400,
    "attention": 28_499_712,
    "vpt-shallow": 10 * D,
    "vpt-deep": 12 * 10 * D,
    "lora": 294_912,
    "adapter": 12 * 2 * (2 * D * 64 + 64 + D),
    "adaptformer": 12 * (2 * D * 64 + 64 + D),
    "ssf": 205_824,
    # 4 matrices of attention and 4 each of the two layers of the MLP, as D x D
    "fact-tt": 2 * D * 8 + 12 * 12 * 8**2,
    "kadaptation": 50_176,
    "svdiff": 12 * 4 * D,
    # biases, the weights of norms, and one factor for each of two branches
    "difffit": 102_912 + 25 * D + 12 * 2,
}


def lacking(recipe: dict) -> set[str]:
    """Return the methods of a recipe that are not installed."""
    arms = [arm["methods"] for arm in recipe["compare"].values()]
    names = {m if isinstance(m, str) else m["method"] for arm in arms for m in arm}
    return names - set(installed().methods)


def test_each_arm_of_the_table_of_methods_trains_what_is_published() -> None:
    path = EXAMPLES / "vision-methods-vit.yaml"
    if missing := lacking(recipes.read(path).data):
        pytest.skip(f"not installed: {', '.join(missing)}")
    plans = plans_of(str(path), ["backbone.source=vit-b16-224", "backbone.options={}"])
    found = {arm: plan.trainable for arm, plan in plans.items() if arm in VIT}
    assert found == VIT and plans.keys() - VIT.keys() == {"fact-tk", "compacter"}
    assert {plan.head for plan in plans.values()} == {2 * (D + 1)}


def test_the_headline_of_kadaptation_trains_as_many_parameters_as_published() -> None:
    if "kadaptation" not in installed().methods:
        pytest.skip("kadaptation is not installed")
    recipe = recipes.read(EXAMPLES / "elevater-kadaptation.yaml").data
    model = build_on_meta("clip-vit-b32", head="image-classification", num_labels=10)
    plan = peftcore.plan(model, recipe["methods"], modules_to_save=["head"])
    assert (plan.trainable, plan.head) == (50_176, 10 * 513)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Write what examples/faces.py does, of a few random images."""
    folder, chance = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for split, count in (("train", 8), ("validation", 8), ("test", 8)):
        lines = ["image,label,light"]
        for i in range(count):
            pixels = chance.integers(0, 200, (25, 25)).astype(np.uint8)
            name = f"images/{split}-{i}.png"
            Image.fromarray(pixels).save(folder / name)
            lines.append(f"{name},{('face', 'other')[i % 2]},{0.2 + 0.3 * (i // 4):.3f}")
        (folder / f"{split}.csv").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize(
    ("recipe", "family", "arms"),
    [
        ("vision-methods-vit", "timm-vit", ("vpt-deep", "attention")),
        ("vision-methods-cnn", "timm-cnn", ("batchnorm",)),
    ],
)
def test_the_table_of_methods_is_trained_in_small(
    recipe: str, family: str, arms: tuple[str, ...], faces: Path, tmp_path: Path
) -> None:
    content = dict(recipes.read(EXAMPLES / f"{recipe}.yaml").data)
    if missing := lacking(content):
        pytest.skip(f"not installed: {', '.join(missing)}")
    _, model, _ = tiny(family, "image-classification")
    save_for_hf(model, str(tmp_path / "base"), safe_serialization=True)
    content["compare"] = {arm: content["compare"][arm] for arm in arms}
    content["backbone"] = {"source": str(tmp_path / "base")}
    content["train"] |= {"max_steps": 1, "device": "cpu"}
    content["data"] = {"source": str(faces)}
    del content["seeds"]
    runs = peftcore.train(content, output=str(tmp_path / "runs"), quiet=True)
    assert not runs.failed and set(runs) == set(arms)
    for run in runs.values():
        assert run.results["reloaded_equal"] and "auroc_min.light" in run.test
