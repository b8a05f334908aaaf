"""Image classification: the contract of tasks, kinds of files, and what is changed at random."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform
from timm.models import save_for_hf

from peftcore import DataError
from peftcore.testing import run_in_process, tiny
from peftcore_train.data import read_rows
from peftcore_train.testing import TaskContract
from peftcore_vision.pictures import Views, opened

COLOURS = {"blue": (20, 30, 220), "red": (220, 40, 10)}
_KEPT: list[TemporaryDirectory] = []  # type: ignore[type-arg]


@cache
def images() -> dict[str, list[dict]]:
    """Write images of two colours with noise, and return rows with their paths."""
    _KEPT.append(TemporaryDirectory())
    folder, chance = Path(_KEPT[0].name), np.random.default_rng(0)
    rows = []
    for i in range(8):
        name, colour = list(COLOURS.items())[i % 2]
        noise = chance.integers(0, 36, (20 + i, 24, 3))
        Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        rows.append({"image": str(folder / f"{i}.png"), "label": name})
    return {"train": rows, "validation": rows[:5], "test": rows[3:]}


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    _, model, _ = tiny("timm-vit", "image-classification")
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


class TestImageClassification(TaskContract):
    task = "image-classification"
    answers = ("label",)
    config = {"crop_scale": 0.8}
    epochs = 2
    learning_rate = 1e-2

    @property
    def rows(self):
        return images()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, vit: Path) -> Path:
        return vit


@pytest.fixture
def views() -> Views:
    return Views(create_transform((3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3), "x")


def test_what_is_seen_at_random_depends_on_the_generator_alone(views):
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)
    image = Image.fromarray(noise)

    def seen(seed: int, **how) -> torch.Tensor:
        return views.changed(image, torch.Generator().manual_seed(seed), **how)

    plain = views.plain(image)
    for how in ({"scale": 0.3, "flip": True}, {"scale": None, "flip": True}):
        before = torch.random.get_rng_state()
        drawn = [seen(seed, **how) for seed in range(8)]
        assert torch.equal(before, torch.random.get_rng_state())
        assert all(torch.equal(a, seen(seed, **how)) for seed, a in enumerate(drawn))
        assert {one.shape for one in drawn} == {(3, 16, 16)}
        assert any(not torch.equal(one, drawn[0]) for one in drawn)
    assert all(torch.equal(one, plain) or torch.equal(one, plain.flip(-1)) for one in drawn)
    assert torch.equal(seen(0, scale=None, flip=False), plain)


def test_an_image_processor_of_transformers_is_a_view_too():
    from transformers import CLIPImageProcessor

    size = {"height": 16, "width": 16}
    views = Views(CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size), "x")
    white = Image.new("RGB", (40, 30), "white")
    part = views.changed(white, torch.Generator(), scale=0.3, flip=True)
    assert views.size == (16, 16) and torch.allclose(part, views.plain(white))


def test_images_of_every_kind_are_read_as_rgb_of_8_bits(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = {
        "grey.png": Image.fromarray(grey),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
        "deep.tif": Image.fromarray(grey.astype(np.uint16) * 257),
        "alpha.png": Image.fromarray(np.stack([grey] * 3 + [np.full_like(grey, 255)], -1)),
    }
    for name, image in made.items():
        image.save(tmp_path / name)
        found = np.asarray(opened(tmp_path / name, "x:1"))
        assert np.array_equal(found, np.stack([grey] * 3, -1)), name
    Image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert np.asarray(opened(tmp_path / "clear.png", "x:1")).min() == 255


@pytest.fixture
def recipe(tmp_path, vit) -> Path:
    for split in ("train", "validation", "test"):
        for number, (name, colour) in enumerate(COLOURS.items()):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(4):
                shade = tuple(max(0, c - i - 9 * number - len(split)) for c in colour)
                Image.new("RGB", (20, 20), shade).save(
                    tmp_path / "data" / split / name / f"{i}.jpg"
                )
    content = {
        "name": "images",
        "backbone": {"source": str(vit)},
        "methods": ["lora"],
        "task": {"type": "image-classification"},
        "data": {"source": str(tmp_path / "data")},
        "train": {"device": "cpu", "max_steps": 1, "batch_size": 4},
        "output": str(tmp_path / "runs"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("multi_label=true --set task.threshold=7", "threshold is not between 0 and 1"),
        ("threshold=0.3", "threshold goes with multi_label: true"),
    ],
)
def test_a_threshold_that_does_nothing_is_refused(field, sentence, recipe):
    done = run_in_process("check", recipe, *f"--set task.{field}".split())
    assert done.exit_code == 2 and sentence in done.stderr, done.output


def test_spoilt_images_are_named_at_once(recipe, tmp_path):
    train = tmp_path / "data" / "train"
    whole = (train / "red" / "1.jpg").read_bytes()
    (train / "red" / "2.jpg").write_text("no image")
    (train / "red" / "3.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "Red").mkdir()
    (train / "Red" / "0.jpg").write_bytes(whole)
    (train / "notes.docx").touch()
    done = run_in_process("check", recipe)
    assert done.exit_code == 2
    for sentence in (
        "error: train/red/2.jpg: ",
        "error: train/red/3.jpg: ",
        "error: train/notes.docx: it ends in .docx, and no file of such a format is a row",
        "error: train/Red/0.jpg: label 'Red' (1 rows) differs from 'red'",
        "warning: train/red/1.jpg: label 'red', but 'Red' for the same input at train/Red/0.jpg.",
    ):
        assert sentence in done.stderr, done.stderr
    assert done.stderr.count("is no image that can be read") == 2
    assert run_in_process("train", recipe, "-q").exit_code == 2
    assert not list((tmp_path / "runs").glob("*"))


def test_a_folder_of_images_is_trained_and_predicted(recipe, tmp_path):
    assert run_in_process("train", recipe, "-q").exit_code == 0
    (run,) = (tmp_path / "runs").iterdir()
    done = run_in_process("predict", run, "--input", tmp_path / "data" / "test")
    assert done.exit_code == 0, done.output
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 8
    (row, *_) = read_rows(tmp_path / "data" / "test")
    row.path("image").write_bytes(b"")
    with pytest.raises(DataError, match="is no image that can be read"):
        opened(row.path("image"), row.where)


@pytest.mark.parametrize(("method", "moved"), [("norm_tuning", True), ("tsa", False)])
def test_batch_norms_that_are_trained_gather_statistics_and_others_keep_theirs(
    method, moved, recipe, tmp_path
):
    _, model, _ = tiny("timm-cnn", "image-classification")
    save_for_hf(model, str(tmp_path / "cnn"), safe_serialization=True)
    source = f"backbone.source={tmp_path / 'cnn'}"
    done = run_in_process("train", recipe, "-q", "--set", source, "--set", f"methods=[{method}]")
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "runs").iterdir()
    saved = load_file(run / "adapter" / "adapter.safetensors")
    assert any(".statistics.running_mean" in name for name in saved) == moved
