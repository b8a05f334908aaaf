"""What a person does with clouds: convert them, vote, pre-train, train with torch-geometric."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch_geometric.loader import DenseDataLoader
from torch_geometric.transforms import Compose

from peftcore import DataError, backbone_named
from peftcore.testing import run_in_process, tiny
from peftcore_pointcloud import views
from peftcore_pointcloud.classification import PointClassification, PointClassificationConfig
from peftcore_pointcloud.dataset import PointClouds
from peftcore_pointcloud.neighbours import farthest_points
from peftcore_pointcloud.reconstruction import PointReconstruction, PointReconstructionConfig
from peftcore_train.data import Row
from peftcore_train.schema import DataSection
from peftcore_train.testing import TaskContract

_FOLDER = TemporaryDirectory()


@cache
def _rows(folder: Path) -> dict[str, list[dict]]:
    chance, rows = np.random.default_rng(0), []
    for i in range(8):
        np.save(folder / f"{i}.npy", chance.normal(size=(20 + i, 3)) * (1, 1, 0.1 * i))
        rows.append({"cloud": str(folder / f"{i}.npy")})
    return {"train": rows, "validation": rows[:5], "test": rows[3:]}


def write(folder: Path, count: int = 6) -> Path:
    """Write clouds of two classes as folders of text."""
    chance = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, shape in (("ball", (1, 1, 1)), ("stick", (0.1, 0.1, 1))):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                points = chance.normal(size=(40, 3)) * shape
                np.savetxt(folder / split / label / f"{i}.xyz", points)
    return folder


def test_clouds_of_any_layout_become_h5_in_farthest_order(tmp_path):
    write(tmp_path / "in")
    done = run_in_process("clouds", tmp_path / "in", tmp_path / "out", "--points", "30", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"train.h5": 12, "test.h5": 12}
    data = PointClouds(str(tmp_path / "in"), "test")
    stored = PointClouds(str(tmp_path / "out"), "test", labels=data.labels)
    assert stored.labels == ["ball", "stick"] and len(stored) == 12
    for plain, kept in zip(data, stored, strict=True):
        index = farthest_points(plain.pos[None], 30)[0]
        assert torch.equal(kept.pos, plain.pos[index]) and torch.equal(kept.y, plain.y)
    for arguments, sentence in (
        (["in", "out"], "is there already"),
        (["in", "new", "--points", "41"], "train/ball/0.xyz: 40 points, fewer than --points 41"),
        (["in", "new2", "--file", "val=x"], "write train=FILE or test=FILE"),
        (["nowhere", "new3"], "no layout of clouds"),
    ):
        source, output, *more = arguments
        done = run_in_process("clouds", tmp_path / source, tmp_path / output, *more)
        assert done.exit_code == 2 and sentence in done.stderr, done.output
    assert not (tmp_path / "new" / "train.h5").exists()


def test_a_loop_on_a_loader_of_torch_geometric_trains(tmp_path):
    transform = Compose([views.UnitSphere(), views.Candidates(16, "farthest")])
    data = PointClouds(str(write(tmp_path)), "train", transform)
    _, model, _ = tiny("point-transformer", "point-classification")
    optimizer, losses = torch.optim.Adam(model.parameters(), 1e-3), []
    model.train()
    for _ in range(4):
        for batch in DenseDataLoader(data, batch_size=5):
            loss = F.cross_entropy(model(batch.pos), batch.y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(DataError, match="label 'stick' is none of ball"):
        PointClouds(str(tmp_path), "train", labels=["ball"])[-1]


def test_transforms_do_what_they_say_and_draw_from_the_generator_alone():
    points = torch.randn(60, 3) + 5
    unit = views.applied([views.UnitSphere()], points)
    torch.testing.assert_close(unit.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(unit.norm(dim=1).max(), torch.tensor(1.0))
    before = torch.random.get_rng_state()

    def made(*steps, seed=0):
        return views.applied(steps, points, torch.Generator().manual_seed(seed))

    moved = made(views.ScaleAndShift((0.5, 2.0), 0.3))
    assert torch.equal(before, torch.random.get_rng_state())
    factor = (moved[1] - moved[0]) / (points[1] - points[0])
    torch.testing.assert_close(
        moved - factor * points, (moved[0] - factor * points[0]).expand(60, 3), atol=1e-4, rtol=0
    )
    assert (factor > 0.5).all() and (factor < 2).all() and len(set(factor.tolist())) == 3
    assert torch.equal(moved, made(views.ScaleAndShift((0.5, 2.0), 0.3)))
    assert not torch.equal(moved, made(views.ScaleAndShift((0.5, 2.0), 0.3), seed=1))
    turned = made(views.changes((1, 1), 0.0, "y"))
    torch.testing.assert_close(turned[:, 1], points[:, 1])
    torch.testing.assert_close(turned.norm(dim=1), points.norm(dim=1))
    for how in ("farthest", "first", "random"):
        few = made(views.Candidates(7, how))
        assert len(few) == 7 and all((points == row).all(1).any() for row in few)
    assert torch.equal(made(views.Candidates(7, "first")), points[:7])


def test_votes_are_the_mean_of_views_and_smoothing_is_the_papers(tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(40, 3)))
    config = {"points": 16, "votes": 3, "label_smoothing": 0.2, "labels": list("abcde")}
    task = PointClassification(PointClassificationConfig(**config))
    row = Row({"cloud": "a.npy", "label": "c"}, "x:1", str(tmp_path))
    _, model, _ = tiny("point-transformer", "point-classification")
    features = {**task.named(row), "answer": 2}
    voted = task.augment(features, torch.Generator().manual_seed(0))
    batch = task.collate([voted])
    assert batch["points"].shape == (1, 3, 16, 3)
    with torch.no_grad():
        single = torch.cat([model(view[None]) for view in batch["points"][0]])
        torch.testing.assert_close(task.logits(model, batch), single.mean(0, keepdim=True))
        plain = task.collate([features])
        log = model(plain["points"]).log_softmax(-1)[0]
        share = torch.full((5,), 0.2 / 4)
        share[2] = 0.8
        torch.testing.assert_close(task.loss(model, plain), -(share * log).sum())


class TestPointReconstruction(TaskContract):
    task = "point-reconstruction"
    config = {"points": 16, "scale": (1.0, 1.0), "shift": 0.0}
    predicts = False
    methods = ("full",)
    epochs = 2
    learning_rate = 1e-2
    remembered = 0.9

    @property
    def rows(self):
        return _rows(Path(_FOLDER.name))

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, tmp_path_factory) -> Path:
        folder = tmp_path_factory.mktemp("network")
        _, model, _ = tiny("point-transformer", "masked-reconstruction")
        model.save_pretrained(folder)
        return folder


def test_groups_of_all_scales_are_reconstructed_by_a_recipe(tmp_path):
    source = write(tmp_path / "clouds")
    torch.manual_seed(0)
    tiny("point-m2ae", "masked-reconstruction")[1].save_pretrained(tmp_path / "network")
    recipe = {
        "name": "scales",
        "backbone": {"source": str(tmp_path / "network")},
        "methods": ["full"],
        "task": {"type": "point-reconstruction", "points": 32, "mask_ratio": 0.8},
        "data": {"source": str(source)},
        "train": {"epochs": 1, "batch_size": 4, "device": "cpu"},
        "output": str(tmp_path / "runs"),
    }
    (tmp_path / "r.yaml").write_text(json.dumps(recipe))
    done = run_in_process("train", tmp_path / "r.yaml", "-q", "--json")
    assert done.exit_code == 0, done.stderr
    assert 0 < json.loads(done.stdout)["test"]["loss"] < 100

    # rows differ in how many groups are hidden; the loss is the mean over groups, as released
    task = PointReconstruction(PointReconstructionConfig(points=32, mask_ratio=0.8))
    loaded = backbone_named("point-m2ae").load(
        str(tmp_path / "network"), head="masked-reconstruction"
    )
    rows = task.read(DataSection(source=str(source)), "test")[:6]
    chance = torch.Generator().manual_seed(0)
    batch = task.collate([task.augment(task.encode(row, loaded), chance) for row in rows])
    scores = task.score(loaded.model, batch)
    assert scores["count"].unique().numel() > 1
    loss = scores["loss"].sum() / scores["count"].sum()
    torch.testing.assert_close(task.loss(loaded.model, batch), loss)
