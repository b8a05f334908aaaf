"""ELEVATER: a miniature of its data on disk, its draws, its sweep and scores, CLIP's head."""

import io
import json
import math
import random
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

import peftcore
from peftcore import ConfigError, DataError, backbone_named, installed
from peftcore.testing import CommandContract, run_in_process
from peftcore_train.data import Row, content, located
from peftcore_train.profile.repeated import repeated
from peftcore_train.schema import DataSection
from peftcore_train.testing import bars_of
from peftcore_vision.elevater.benchmark import (
    STRENGTHS,
    best_rate,
    best_strength,
    performance_efficiency,
)
from peftcore_vision.elevater.catalogue import DATA_SETS
from peftcore_vision.elevater.layout import read_index
from peftcore_vision.elevater.running import summary
from peftcore_vision.elevater.sampling import few_shots, held_out
from peftcore_vision.elevater.task import Elevater, ElevaterConfig


class TestCommand(CommandContract):
    command = "elevater"


def png(shade: int, chance: np.random.Generator) -> bytes:
    """Return a small image of one shade with noise."""
    pixels = (chance.integers(0, 30, (16, 16, 3)) + shade).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Write hateful-memes' layout (COCO) and eurosat_clip's (lines), with few small images."""
    root, chance = tmp_path_factory.mktemp("elevater"), np.random.default_rng(0)
    lines = root / "classification" / DATA_SETS["eurosat_clip"].folder
    coco = root / "classification" / DATA_SETS["hateful-memes"].folder
    lines.mkdir(parents=True)
    coco.mkdir()
    with zipfile.ZipFile(lines / "2750.zip", "w") as images:
        for split, count in (("train", 7), ("test", 2)):
            index = []
            for i in range(10 * count):
                name = f"a b/{split}_{i}.png"
                images.writestr(name, png(24 * (i % 10), chance))
                index.append(f"2750.zip@{name} {i % 10}")
            (lines / f"{split}.txt").write_text("\n".join(index) + "\n")
    (lines / "labels.txt").write_text(
        "\n".join(f"land {'abcdefghij'[i]}" for i in range(10)) + "\n"
    )
    with zipfile.ZipFile(coco / "img.zip", "w") as images:
        for i in range(24):
            images.writestr(f"img/{i}.png", png(200 * (i % 2), chance))
    for split, ids in (("train", range(16)), ("test", range(16, 24))):
        data = {
            "images": [
                {"id": i + 1, "file_name": f"img/{i}.png", "zip_file": "img.zip"} for i in ids
            ],
            "annotations": [{"id": i, "image_id": i + 1, "category_id": 1 + i % 2} for i in ids],
            "categories": [{"id": 2, "name": "hateful"}, {"id": 1, "name": "fine"}],
        }
        (coco / f"{split}_meta.json").write_text(json.dumps(data))
    return root


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Write a small random CLIP of both towers, with a tokenizer of letters."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(folder)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "projection_dim": 16,
    }
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **sizes, "num_attention_heads": 4, "vocab_size": len(words), "eos_token_id": 53,
            "bos_token_id": 52, "pad_token_id": 53, "max_position_embeddings": 40,
        },
        vision_config={**sizes, "num_attention_heads": 4, "image_size": 16, "patch_size": 4},
        projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).eval().save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size).save_pretrained(folder)
    return folder


def test_the_catalogue_has_the_benchmarks_classes_and_sizes():
    assert len(DATA_SETS) == 20 and sum(one.classes for one in DATA_SETS.values()) == 1151
    mean_head = sum((512 + 1) * one.classes for one in DATA_SETS.values()) / 20
    assert round(mean_head) == 29_523 and round(50_176 + mean_head) == 79_699
    sizes = {name: one.sizes for name, one in DATA_SETS.items()}
    assert sizes["gtsrb"] == (26640, 12569, 12630) and sizes["mnist"] == (60000, 0, 10000)
    assert Counter(one.metric for one in DATA_SETS.values()) == {
        "accuracy": 14, "mean-per-class": 4, "roc_auc": 1, "11point_mAP": 1
    }  # fmt: skip


def test_index_files_are_read_as_lines_and_as_coco_and_images_out_of_zip_files(root):
    place = root / "classification" / "eurosat_clip_20210930"
    index = read_index(place / "test.txt", place / "labels.txt")
    assert len(index.rows) == 20 and index.names[3] == "land d"
    row = index.rows[13]
    assert row.values == {"image": "2750.zip@a b/test_13.png", "label": [3]}
    assert row.where == "test.txt:14"
    with zipfile.ZipFile(place / "2750.zip") as images:
        assert content(located(row, "image"), "x") == images.read("a b/test_13.png")
    coco = root / "classification" / "hateful_memes_20211014"
    index = read_index(coco / "test_meta.json", None)
    assert index.names == ["fine", "hateful"]
    assert index.rows[1].values == {"image": "img.zip@img/17.png", "label": [1]}
    assert not [p for p in root.rglob("*.png")], "nothing is unpacked"


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("2750.zip@../../etc/passwd", "the member '../../etc/passwd' points out of the zip file"),
        ("2750.zip@/etc/passwd", "points out of the zip file"),
        ("2751.zip@a.png", "2751.zip: no such file. Did you mean 2750.zip?"),
        ("2750.zip@a b/tset_1.png", "holds no member 'a b/tset_1.png'. Did you mean"),
        ("train.txt.zip@a", "no such file"),
    ],
)
def test_an_image_that_is_not_in_its_zip_file_is_named(root, image, sentence):
    place = root / "classification" / "eurosat_clip_20210930"
    with pytest.raises(DataError) as caught:
        located(Row({"image": image}, "train.txt:3", str(place)), "image")
    assert sentence in str(caught.value) and "train.txt:3" in str(caught.value)


def test_damaged_indexes_and_zip_files_are_named_with_their_line(tmp_path):
    for text, sentence in (
        ("a.zip@1.png 0\na.zip@2.png x\n", "i.txt:2: 'a.zip@2.png x' is not a path"),
        ("a.zip@1.png 0\n\na.zip@3.png 0,7\n", "i.txt:3: class 7, but there are 2, from 0."),
        ("nothing\n", "i.txt:1: 'nothing' is not a path"),
    ):
        (tmp_path / "i.txt").write_text(text)
        (tmp_path / "labels.txt").write_text("one\ntwo\n")
        with pytest.raises(DataError) as caught:
            read_index(tmp_path / "i.txt", tmp_path / "labels.txt")
        assert sentence in str(caught.value)
    (tmp_path / "i.json").write_text('{"images": [')
    with pytest.raises(DataError, match=r"i\.json: not readable as COCO's JSON"):
        read_index(tmp_path / "i.json", None)
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"t:1: column 'image': .*bad\.zip is no zip file"):
        located(Row({"image": "bad.zip@a.png"}, "t:1", str(tmp_path)), "image")


def test_few_shots_are_the_rows_that_the_toolkit_draws():
    classes = [[i % 3] for i in range(60)]
    for seed in (0, 1, 2):
        # the toolkit's greedy draw, written out: shuffle, then take what still lacks
        order = list(range(60))
        random.Random(seed).shuffle(order)
        left, expected = [5, 5, 5], []
        for row in order:
            if left[row % 3]:
                left[row % 3] -= 1
                expected.append(row)
        assert few_shots(classes, 3, 5, seed) == expected
    several = [[0, 1], [1], [0], [2], [1, 2], []] * 4
    drawn = few_shots(several, 3, 2, 0)
    counts = Counter(one for row in drawn for one in several[row])
    assert min(counts.values()) >= 2 and len(drawn) < 8
    with pytest.raises(DataError, match=r"task\.shots 30: class 0 has 20 rows; 3 of 3 classes"):
        few_shots(classes, 3, 30, 0)
    # a fifth of each class, rounded up, the first in order
    assert held_out([[0]] * 6 + [[1]] * 5, 2, several=False) == [0, 1, 6]
    held = held_out(several, 3, several=True)
    counts = Counter(one for row in held for one in several[row])
    assert all(counts[one] >= math.ceil(8 * 0.2) for one in range(3))


def test_the_sweep_of_l2_tries_seven_and_then_halves_its_steps():
    tried = []

    def score(strength: float) -> float:
        tried.append(STRENGTHS.index(strength))
        return -abs(STRENGTHS.index(strength) - 43)

    best = best_strength(score)
    assert tried[:7] == [0, 16, 32, 48, 64, 80, 96] and len(STRENGTHS) == 97
    assert tried[7:9] == [40, 56] and best.value == STRENGTHS[43] and len(tried) == len({*tried})
    assert STRENGTHS[0] == pytest.approx(1e-6) and STRENGTHS[96] == pytest.approx(1e6)
    rate, best = best_rate(lambda r, s: r if s == STRENGTHS[16] else 0.0, (0.1, 0.3, 0.2))
    assert rate == 0.3 and best == (STRENGTHS[16], 0.3)


def test_score_and_performance_efficiency_are_means_over_data_sets_and_the_formula():
    runs = [
        {"dataset": "a", "score": 0.5, "parameters": 100},
        {"dataset": "a", "score": 0.7, "parameters": 100},
        {"dataset": "b", "score": 0.2, "parameters": 300},
    ]
    found = summary(runs)
    assert found["score"] == pytest.approx(0.4) and found["datasets"]["a"] == pytest.approx(0.6)
    assert found["parameters"] == 200
    expected = 0.689 * math.exp(-math.log10(1 + 79_699 / 1e8))
    assert performance_efficiency(0.689, 79_699) == pytest.approx(expected, abs=1e-12)
    assert performance_efficiency(0.5, 0) == 0.5


def test_the_classifier_of_clip_starts_as_its_text_tower_classifies(clip):
    from transformers import CLIPModel, CLIPTokenizer

    names, prompts = ["land a", "land b", "sea"], ("a photo of {}", "the {}")
    loaded = backbone_named("clip-vision").load(
        str(clip), head="image-classification", num_labels=3, feature_norm="l2"
    )
    assert loaded.fresh == ("classifier.weight", "classifier.bias")
    task = peftcore.resolve(installed().tasks["image-classification"].task)(
        peftcore.resolve(installed().tasks["image-classification"].config)(
            labels=names, prompts=prompts
        )
    )
    model = task.build(loaded)
    whole, tokenizer = CLIPModel.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        seen = F.normalize(whole.get_image_features(pixel_values=images).pooler_output, dim=-1)
        words = []
        for name in names:
            texts = [
                whole.get_text_features(**tokenizer(p.format(name), return_tensors="pt"))
                for p in prompts
            ]
            each = torch.cat([F.normalize(t.pooler_output, dim=-1) for t in texts])
            words.append(F.normalize(each.mean(0), dim=-1))
        torch.testing.assert_close(model(images), seen @ torch.stack(words).T, atol=1e-5, rtol=0)
    _, vit, _ = peftcore.testing.tiny("timm-vit", "image-classification")
    with pytest.raises(ConfigError, match=r"task\.prompts: a-vit is not CLIP"):
        task.build(peftcore.Loaded(vit, source="a-vit"))
    knows = backbone_named("clip-vision")
    for options, sentence in (
        ({}, "has no classifier of its own. Give num_labels."),
        ({"num_labels": 3, "feature_norm": "l3"}, "feature_norm 'l3' is neither none nor l2."),
    ):
        with pytest.raises(ConfigError) as caught:
            knows.load(str(clip), head="image-classification", **options)
        assert sentence in str(caught.value)


def test_the_benchmark_sweeps_trains_and_scores_with_kadaptation_on_clip(root, clip, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    content = {
        "name": "elevater",
        "backbone": {"source": str(clip), "options": {"feature_norm": "l2"}},
        "methods": [{"method": "kadaptation", "phm_dim": 4}],
        "task": {"type": "elevater", "dataset": "hateful-memes", "prompts": ["a photo of {}"]},
        "data": {"source": str(root)},
        "train": {"device": "cpu", "optimizer": "sgd", "batch_size": 8},
        "output": str(tmp_path / "runs"),
        "elevater": {
            "datasets": ["hateful-memes", "eurosat_clip"],
            "seeds": [0],
            "learning_rates": [0.1],
            "weight_decay": 1e-4,
            "sweep_epochs": 1,
            "final_epochs": 1,
        },
    }
    if "kadaptation" not in installed().methods:
        content["methods"] = []
    recipe.write_text(yaml.safe_dump(content))
    done = run_in_process("elevater", recipe, "--json", "-q")
    assert done.exit_code == 0, done.output + repr(done.exception)
    found = json.loads(done.stdout)
    assert [run["metric"] for run in found["runs"]] == ["auroc", "accuracy"]
    assert found["score"] == pytest.approx(sum(found["datasets"].values()) / 2)
    assert not found["whole"] and found["performance_efficiency"] < found["score"]
    folder = Path(found["directory"])
    sweep = json.loads((folder / "hateful-memes" / "seed-0" / "sweep.json").read_text())
    assert len(sweep) == 1 and not (folder / "hateful-memes" / "seed-0" / "trial").exists()
    final = json.loads((folder / "eurosat_clip" / "seed-0" / "final" / "results.json").read_text())
    # five of ten classes each, all of them in the last run; a fifth is validation as well
    assert final["rows"] == {"train": 50, "validation": 10, "test": 20}
    assert final["reloaded_equal"]
    again = run_in_process("elevater", "--resume", folder, "--json", "-q")
    assert json.loads(again.stdout)["runs"] == found["runs"]
    content["task"]["dataset"] = "eurosat"
    recipe.write_text(yaml.safe_dump(content))
    done = run_in_process("check", recipe)
    assert "'eurosat' is not a data set of ELEVATER. Did you mean eurosat_clip?" in done.stderr


def test_looking_at_images_in_zip_files_and_comparing_them_are_told(root):
    document = {"source": str(root)}
    task = Elevater(ElevaterConfig(dataset="eurosat_clip"))
    rows = task.read(DataSection.model_validate(document), "test")
    assert bars_of(lambda: task.check(rows)) == {"looking at files": "20 files"}
    compared = bars_of(lambda: repeated({"test": rows}, task.columns()))
    assert compared == {"comparing test": "20 rows"}


def test_an_image_of_training_that_is_tested_too_is_found_inside_zip_files(tmp_path):
    place, chance = tmp_path / DATA_SETS["eurosat_clip"].folder, np.random.default_rng(0)
    place.mkdir()
    shades = [png(24 * (i % 10), chance) for i in range(70)]
    (place / "labels.txt").write_text("\n".join("abcdefghij"))
    for split, found in (("train", shades), ("test", [*shades[10:13], png(99, chance)])):
        with zipfile.ZipFile(place / f"{split}.zip", "w") as images:
            for i, shade in enumerate(found):
                images.writestr(f"{i}.png", shade)
        lines = [f"{split}.zip@{i}.png {i % 10}" for i in range(len(found))]
        (place / f"{split}.txt").write_text("\n".join(lines))
    task = Elevater(ElevaterConfig(dataset="eurosat_clip", shots=None, whole=True))
    data = DataSection(source=str(tmp_path))
    rows = {split: task.read(data, split) for split in ("train", "test")}
    found = repeated(rows, task.columns())
    assert found.between == {"test in train": {"exact": 3, "normalised": 3}}
    leaks = {one.where: one.what for one in found.findings if one.kind == "leak"}
    assert set(leaks) == {"test.txt:1", "test.txt:2", "test.txt:3"}
    assert "stands in train too, as train.txt:12" in leaks["test.txt:2"]
