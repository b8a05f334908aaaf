"""Readers of clouds: the released layouts in miniature, and everything that is spoilt."""

import os
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from peftcore import DataError
from peftcore_pointcloud.classification import PointClassification, PointClassificationConfig
from peftcore_pointcloud.clouds import cloud_at
from peftcore_pointcloud.clouds.unpickling import unpickled
from peftcore_train.schema import DataSection
from peftcore_train.testing import bars_of

CHANCE = np.random.default_rng(0)


def cloud(points: int = 20) -> np.ndarray:
    """Return x, y, z and a normal, as ModelNet40's files hold them."""
    return CHANCE.normal(size=(points, 6)).astype("float32")


def read(source: Path, split: str, /, **options):
    task = {name: options.pop(name) for name in ("few_shot", "validation") if name in options}
    made = PointClassification(PointClassificationConfig(points=16, **task))
    rows = made.read(DataSection(source=str(source), **options), split)
    return made, rows


@pytest.fixture
def modelnet(tmp_path) -> Path:
    names = {"airplane": "airplane", "night_stand": "night_stand"}
    (tmp_path / "modelnet40_shape_names.txt").write_text("\n".join(names) + "\n")
    for split, numbers in (("train", range(1, 11)), ("test", range(11, 14))):
        ids = [f"{name}_{number:04}" for name in names for number in numbers]
        (tmp_path / f"modelnet40_{split}.txt").write_text("\r\n".join(ids) + "\r\n")
        for name in ids:
            folder = tmp_path / name.rpartition("_")[0]
            folder.mkdir(exist_ok=True)
            np.savetxt(folder / f"{name}.txt", cloud(), fmt="%.6f", delimiter=",")
    return tmp_path


def test_modelnet40_is_read_from_its_lists(modelnet):
    task, train = read(modelnet, "train")
    _, validation = read(modelnet, "validation")
    _, test = read(modelnet, "test")
    assert len(train) == 18 and len(validation) == 2 and len(test) == 6
    assert not {r.values["cloud"] for r in train} & {r.values["cloud"] for r in validation}
    assert {row.values["label"] for row in validation} == {"airplane", "night_stand"}
    row = test[-1]
    assert row.where == "modelnet40_test.txt:6" and row.values["label"] == "night_stand"
    text = np.loadtxt(modelnet / "night_stand/night_stand_0013.txt", delimiter=",")
    torch.testing.assert_close(task.cloud(row), torch.tensor(text[:, :3], dtype=torch.float32))


def test_the_cached_pickle_of_modelnet40_is_read_by_its_names_of_classes(modelnet):
    for split, count in (("train", 8), ("test", 3)):
        content = [
            [cloud() for _ in range(count)],
            [np.array([i % 2], dtype="int32") for i in range(count)],
        ]
        with (modelnet / f"modelnet40_{split}_8192pts_fps.dat").open("wb") as file:
            pickle.dump(content, file)
    task, rows = read(modelnet, "test")
    assert [row.values["label"] for row in rows] == ["airplane", "night_stand", "airplane"]
    assert rows[2].where == "modelnet40_test_8192pts_fps.dat#2"
    assert torch.equal(task.cloud(rows[2]), torch.from_numpy(content[0][2][:, :3]))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_pickles_of_arrays_are_read_in_every_protocol(protocol, tmp_path):
    arrays = [[cloud(), cloud()], [np.array([1]), np.int64(3)]]
    (tmp_path / "x.dat").write_bytes(pickle.dumps(arrays, protocol))
    found = unpickled(tmp_path / "x.dat")
    assert all(np.array_equal(a, b) for a, b in zip(found[0], arrays[0], strict=True))
    assert found[1][1] == 3
    old = pickle.dumps(arrays, 2).replace(b"numpy._core", b"numpy.core")  # of numpy 1
    (tmp_path / "old.dat").write_bytes(old)
    assert np.array_equal(unpickled(tmp_path / "old.dat")[0][0], arrays[0][0])


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Harmful(), "(posix|nt).mkdir"),
        ([[np.array([Harmful()], dtype=object)], [1]], "(posix|nt).mkdir"),
        ([[print], [1]], "builtins.print"),
        ([[Path("x")], [1]], "pathlib"),
    ],
)
def test_a_pickle_with_code_is_refused_and_nothing_is_run(content, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modelnet40_train_8192pts_fps.dat").write_bytes(pickle.dumps(content))
    with pytest.raises(
        DataError, match=f"^modelnet40_train.* names {named}.*Nothing of it was run"
    ):
        read(tmp_path, "train")
    assert not (tmp_path / "ran").exists()


def scan(folder: Path, name: str, data: np.ndarray, labels) -> None:
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / name, "w") as file:
        file["data"], file["label"] = data, np.asarray(labels)


def test_scanobjectnn_is_read_from_its_h5_files(tmp_path):
    data = CHANCE.normal(size=(10, 20, 3)).astype("float32")
    for name in ("objectdataset", "objectdataset_augmentedrot_scale75"):
        scan(tmp_path, f"training_{name}.h5", data, [3, 14] * 5)
        scan(tmp_path, f"test_{name}.h5", data[:4] + 1, [3, 14, 3, 14])
    task, rows = read(tmp_path, "test")
    assert [row.values["label"] for row in rows] == [3, 14, 3, 14]
    assert rows[1].where == "test_objectdataset.h5#1"
    assert torch.equal(task.cloud(rows[1]), torch.from_numpy(data[1] + 1))
    assert (len(read(tmp_path, "train")[1]), len(read(tmp_path, "validation")[1])) == (8, 2)
    files = {"train": "training_objectdataset_augmentedrot_scale75.h5"}
    assert read(tmp_path, "train", files=files)[1][0].where.startswith(files["train"])
    with pytest.raises(DataError, match=r"split test could be .*; say which in data\.files"):
        read(tmp_path, "test", files=files)


def test_a_folder_of_validation_leaves_training_whole(tmp_path, modelnet):
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        for label in ("a", "b"):
            folder = tmp_path / "own" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                np.save(folder / f"{i}.npy", cloud())
    found = {s: read(tmp_path / "own", s)[1] for s in ("train", "validation", "test")}
    assert {split: len(rows) for split, rows in found.items()} == {
        "train": 10, "validation": 4, "test": 6,
    }  # fmt: skip
    assert found["validation"][0].where == "val/a/0.npy"
    assert len(read(tmp_path / "own", "train", limits={"train": 3})[1]) == 3
    with pytest.raises(DataError, match=r"data\.split and data\.labels are for tables"):
        read(modelnet, "train", split={"validation": 0.1, "test": 0.1})


def test_few_shot_pickles_and_draws_have_the_same_classes_in_both_parts(modelnet, tmp_path):
    parts = {"train": [(cloud(), 0, 7)] * 3 + [(cloud(), 1, 9)] * 3, "test": [(cloud(), 1, 9)] * 2}
    (tmp_path / "0.pkl").write_bytes(pickle.dumps(parts))
    task, rows = read(tmp_path / "0.pkl", "test")
    assert [row.values["label"] for row in rows] == [9, 9] and rows[1].where == "0.pkl#test/1"
    assert torch.equal(task.cloud(rows[1]), torch.from_numpy(parts["test"][1][0][:, :3]))

    shot = {"way": 2, "shot": 4, "queries": 2}
    drawn = {f: read(modelnet, "train", few_shot={**shot, "fold": f})[1] for f in (0, 0, 1)}
    names = [[row.values["cloud"] for row in rows] for rows in drawn.values()]
    assert len(names[0]) == 8 and names[0] != names[1]
    assert len(read(modelnet, "test", few_shot=shot)[1]) == 4
    with pytest.raises(DataError, match="5 classes are asked for and 2 are there"):
        read(modelnet, "test", few_shot={"way": 5})


def test_meshes_of_modelnet_are_read_by_points_of_their_surface(tmp_path):
    place = tmp_path / "chair" / "train"
    place.mkdir(parents=True)
    corners = "\n".join(f"{x} {y} {z}" for x in (0, 1) for y in (0, 1) for z in (0, 1))
    (place / "chair_0001.off").write_text(f"OFF\n8 2 0\n{corners}\n3 0 1 2\n3 5 6 7\n")
    _, rows = read(tmp_path, "train", validation=0.4)
    assert rows[0].values["label"] == "chair"
    points = cloud_at(rows[0].values["cloud"], str(tmp_path), "x")
    assert points.shape == (10_000, 3) and torch.equal(
        points, cloud_at(rows[0].values["cloud"], str(tmp_path), "x")
    )
    (place / "chair_0001.off").write_text("OFF\n8 2 0\n")
    with pytest.raises(DataError, match=r"^x: chair_0001\.off is no mesh"):
        cloud_at(rows[0].values["cloud"], str(tmp_path), "x")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.txt", "0,0,0\n1,nan,2\n", r"point 2 of a\.txt has coordinates that are no numbers"),
        ("a.txt", "", r"a\.txt has no points"),
        ("a.txt", "0 0 0\n1 1\n", r"row 2 of a\.txt has 2 numbers and the first one 3"),
        ("a.txt", "0 0 x\n", r"a\.txt is no table of numbers"),
        ("a.txt", "0 0\n1 1\n", r"a\.txt is of shape \(2, 2\)"),
        ("a.npy", "no array", r"a\.npy is no array"),
        ("a.obj", "", r"the suffix of a\.obj is none of \.txt"),
        ("a.h5", "no file", r"a\.h5 is no h5 file"),
        ("a.dat", "no file", r"a\.dat (is no pickle|names)"),
    ],
)
def test_a_spoilt_file_is_named(name, content, sentence, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=sentence):
        cloud_at(f"{name}#0" if name[2:] in ("h5", "dat") else name, str(tmp_path), "list:7")
    with pytest.raises(DataError, match=r"^list:7: .*no such file"):
        cloud_at("none.txt", str(tmp_path), "list:7")


@pytest.mark.parametrize(
    ("data", "labels", "sentence"),
    [
        (None, [1], r"x\.h5 has no data sets data and label.* It holds: label"),
        (np.zeros((2, 0, 3)), [1, 2], r"x\.h5: data is of shape \(2, 0, 3\)"),
        (np.zeros((0, 9, 3)), [], r"x\.h5: data is of shape \(0, 9, 3\)"),
        (np.zeros((2, 9, 3)), [1], r"label of shape \(1,\)"),
        (np.full((2, 9, 3), np.nan), [1, 2], r"point 1 of x\.h5#1 has coordinates"),
        (np.zeros((1, 9, 3)), [1], r"x\.h5 holds 1 clouds, of which '1' is none"),
    ],
)
def test_a_spoilt_h5_is_named(data, labels, sentence, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["label"] = np.asarray(labels)
        if data is not None:
            file["data"] = data
    with pytest.raises(DataError, match=sentence):
        cloud_at("x.h5#1", str(tmp_path), "x")


def test_reading_of_a_pickle_and_looking_at_clouds_are_told(modelnet, tmp_path):
    shapes = [CHANCE.normal(size=(70_000, 6)).astype("float32") for _ in range(2)]
    (tmp_path / "large.dat").write_bytes(pickle.dumps([shapes, [0, 1]]))
    assert bars_of(lambda: unpickled(tmp_path / "large.dat")) == {"reading large.dat": "3 MB"}
    task, rows = read(modelnet, "test")
    task.learn(rows)
    assert bars_of(lambda: task.check(rows)) == {"looking at clouds": "6 clouds"}
    scan(tmp_path / "h5", "test.h5", np.stack([cloud()] * 4)[..., :3], [0, 1, 0, 1])
    task, rows = read(tmp_path / "h5", "test")
    task.learn(rows)
    assert bars_of(lambda: task.check(rows)) == {"looking at clouds": "4 clouds"}
