"""Medical images: DICOM, sensitive attributes, and scores against scikit-learn's."""

import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
import yaml
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from sklearn.metrics import balanced_accuracy_score, precision_recall_curve, roc_auc_score
from timm.models import save_for_hf

from peftcore import DataError
from peftcore.testing import run_in_process, tiny
from peftcore_train.data import Row
from peftcore_vision.group_metrics import OverGroups
from peftcore_vision.groups import Groups
from peftcore_vision.metrics import MacroAUROC, MeanPerClass, eleven_points, mean_eleven_points
from peftcore_vision.pictures import opened

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16) * 16


def dicom(path: Path, values: np.ndarray, **tags) -> Path:
    """Write values as a DICOM file of 12 bits."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    data.SOPClassUID = SecondaryCaptureImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID
    data.Modality, data.PhotometricInterpretation = "CR", "MONOCHROME2"
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.Rows, data.Columns = values.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelData = values.astype(np.uint16).tobytes()
    for name, value in tags.items():
        setattr(data, name, value) if value is not None else delattr(data, name)
    data.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path, window=None) -> np.ndarray:
    found = np.asarray(opened(path, "x:1", window=window))
    assert found.shape[-1] == 3 and (found == found[..., :1]).all()
    return found[..., 0]


def test_a_dicom_image_is_shown_as_its_window_and_interpretation_say(tmp_path):
    plain = grey(dicom(tmp_path / "plain.dcm", RAMP))
    assert np.array_equal(plain, (RAMP / RAMP.max() * 255).round())
    dark = grey(dicom(tmp_path / "dark.dcm", RAMP, PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(dark, 255 - plain)
    # the linear function of the standard, part 3, C.11.2.1.2, on values of the modality
    units = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    centre, width = 300.0, 800.0
    seen = np.clip((RAMP * 2.0 - 1000 - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    own = {"WindowCenter": centre, "WindowWidth": width}
    for name, tags, window in (("own", {**units, **own}, None), ("mine", units, (centre, width))):
        found = grey(dicom(tmp_path / f"{name}.dcm", RAMP, **tags), window)
        assert np.abs(found - seen).max() <= 0.5 + 1e-6
        assert found.min() == 0 and found.max() == 255


def test_colours_of_dicom_are_kept(tmp_path):
    colours = np.zeros((4, 4, 3), np.uint16)
    colours[..., 0] = 200
    path = dicom(
        tmp_path / "rgb.dcm", colours[..., 0], PhotometricInterpretation="RGB", SamplesPerPixel=3,
        PlanarConfiguration=0, BitsAllocated=8, BitsStored=8, HighBit=7,
        PixelData=colours.astype(np.uint8).tobytes(),
    )  # fmt: skip
    assert np.asarray(opened(path, "x:1"))[0, 0].tolist() == [200, 0, 0]


@pytest.mark.parametrize(
    ("tags", "sentence"),
    [
        ({"NumberOfFrames": 3}, "a DICOM file of 3 frames; one image is asked for"),
        ({"PixelData": None}, r"a DICOM file without pixels \(modality CR\)"),
        ({"PixelData": b"\0" * 100}, "bytes of pixel data is less than expected"),
    ],
)
def test_a_dicom_file_that_is_not_one_image_is_named(tmp_path, tags, sentence):
    values = np.stack([RAMP] * 3) if "NumberOfFrames" in tags else RAMP
    path = dicom(tmp_path / "bad.dcm", values, **tags)
    with pytest.raises(DataError, match=f"t.csv:2: .*bad.dcm is no image that .*{sentence}"):
        opened(path, "t.csv:2")


def rows(**columns) -> list[Row]:
    count = len(next(iter(columns.values())))
    return [Row({n: v[i] for n, v in columns.items()}, f"t.csv:{i + 2}") for i in range(count)]


def test_groups_come_from_values_and_from_numbers_that_are_cut():
    groups = Groups({"sex": (), "age": (40.0, 60.0)}, crossed=True, given={})
    found = rows(sex=["F", "M", "F"], age=["39.5", 40, "71"])
    groups.learn(found)
    assert [groups.of(row) for row in found] == [[0, 0, 0], [1, 1, 4], [0, 2, 2]]
    assert groups.values == {"sex": ["F", "M"], "age": ["below 40", "40 to 60", "from 60"]}
    assert groups.names == ["sex", "age", "sex x age"]
    for row, sentence in (
        ({"sex": "X", "age": 1}, "t.csv:2: column 'sex' holds 'X', which no training row does."),
        ({"sex": "F", "age": "?"}, "column 'age' holds '?', which is no number."),
        ({"sex": "F", "age": " "}, "column 'age' is empty; give the group, or leave the row out."),
        ({"sex": "F"}, "no column 'age'."),
    ):
        with pytest.raises(DataError) as caught:
            groups.of(Row(row, "t.csv:2"))
        assert sentence in str(caught.value)


@pytest.fixture
def scored():
    """Return logits with ties, labels of which one never occurs, and groups."""
    chance = torch.Generator().manual_seed(0)
    logits = torch.randint(-2, 3, (60, 4), generator=chance).float()
    target = torch.randint(0, 3, (60,), generator=chance)
    return logits, target, torch.randint(0, 3, (60, 2), generator=chance)


def test_scores_of_images_equal_those_of_scikit_learn(scored):
    logits, target, _ = scored
    mean, area = MeanPerClass(4), MacroAUROC()
    for part in (slice(0, 25), slice(25, 60)):
        mean.update(logits[part], target[part])
        area.update(logits[part], target[part])
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        expected = balanced_accuracy_score(target, logits.argmax(-1))
    assert float(mean.compute()) == pytest.approx(expected, abs=1e-12)
    chances = logits.double().softmax(-1).numpy()
    each = [roc_auc_score(target == label, chances[:, label]) for label in range(3)]
    assert float(area.compute()) == pytest.approx(np.mean(each), abs=1e-6)


def test_eleven_points_equal_a_table_by_hand_and_the_curve_with_ties(scored):
    # four rows enter one by one, then two with equal scores: precision 1, 1/2, 2/3, 2/4, 3/6
    values = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.5])
    target = torch.tensor([1, 0, 1, 0, 1, 0])
    # recalls to 1/3 read 1, to 2/3 read 2/3, above them 3/6
    by_hand = (4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11
    assert float(eleven_points(values, target)) == pytest.approx(by_hand, abs=1e-12)
    logits, labels, _ = scored
    hot = torch.nn.functional.one_hot(labels, 4)
    every, anchored = mean_eleven_points(), mean_eleven_points(anchored=True)
    every.update(logits, hot)
    anchored.update(logits, hot)
    for metric, curve in ((every, slice(0, -1)), (anchored, slice(None))):
        expected = []
        for label in range(3):
            precision, recall, _ = precision_recall_curve(hot[:, label], logits[:, label])
            precision, recall = precision[curve], recall[curve]  # its end is (1, 0), always
            expected.append(np.mean([precision[recall >= i / 10 - 1e-12].max() for i in range(11)]))
        assert float(metric.compute()) == pytest.approx(np.mean(expected), abs=1e-12)


def test_the_worst_group_and_the_gap_are_those_of_the_groups_alone(scored):
    logits, target, groups = scored
    logits, target = logits[:, :2], target.clamp(max=1)
    right = (logits.argmax(-1) == target).double()
    for column, name in enumerate(("sex", "age")):
        shares = [float(right[groups[:, column] == g].mean()) for g in range(3)]
        chances = logits.double().softmax(-1)[:, 1]
        areas = [
            roc_auc_score(target[groups[:, column] == g], chances[groups[:, column] == g])
            for g in range(3)
        ]
        for score, values in (("accuracy", shares), ("auroc", areas)):
            for taken, expected in (("min", min(values)), ("gap", max(values) - min(values))):
                metric = OverGroups(score, taken, ["sex", "age"])
                metric.update(logits[:30], target[:30], groups[:30])
                metric.update(logits[30:], target[30:], groups[30:])
                found = float(metric.compute()[column])
                assert found == pytest.approx(expected, abs=1e-6), (name, score)


def test_a_table_of_dicom_images_with_attributes_is_trained_and_scored_by_group(tmp_path):
    chance = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    for split, count in (("train", 12), ("val", 8), ("test", 8)):
        lines = ["image,label,sex,age"]
        for i in range(count):
            name = f"{split}-{i}.dcm"
            dicom(tmp_path / "data" / name, RAMP // 2 + chance.integers(0, 900) + 900 * (i % 2))
            lines.append(f"{name},{('benign', 'malignant')[i % 2]},{'FM'[i // 2 % 2]},{30 + 5 * i}")
        (tmp_path / "data" / f"{split}.csv").write_text("\n".join(lines))
    _, model, _ = tiny("timm-vit", "image-classification")
    save_for_hf(model, str(tmp_path / "vit"), safe_serialization=True)
    recipe = tmp_path / "recipe.yaml"
    task = {"groups": {"sex": [], "age": [45]}, "flip": False, "window": [2000, 4000]}
    content = {
        "name": "scan",
        "backbone": {"source": str(tmp_path / "vit")},
        "methods": ["bitfit"],
        "task": {"type": "image-classification", **task},
        "data": {"source": str(tmp_path / "data")},
        "train": {"device": "cpu", "epochs": 1, "metric_for_best": "auroc_min.sex"},
        "output": str(tmp_path / "runs"),
    }
    recipe.write_text(yaml.safe_dump(content))
    done = run_in_process("train", recipe, "-q")
    assert done.exit_code == 0, done.output
    (run,) = (tmp_path / "runs").iterdir()
    results = json.loads((run / "results.json").read_text())
    assert results["metric"] == "auroc_min.sex"
    assert {"accuracy_gap.age", "auroc_min.sex", "loss_max.age"} <= set(results["test"])
    kept = yaml.safe_load((run / "config.yaml").read_text())["task"]["group_values"]
    assert kept == {"sex": ["F", "M"], "age": ["below 45", "from 45"]}
    only = tmp_path / "only"
    only.mkdir()
    (tmp_path / "data" / "test-0.dcm").rename(only / "a.dcm")
    done = run_in_process("predict", run, "--input", only)
    assert done.exit_code == 0 and json.loads(done.stdout)["image"] == "a.dcm", done.output
    content["train"]["metric_for_best"] = "auroc_min.race"
    recipe.write_text(yaml.safe_dump(content))
    assert (
        "'auroc_min.race' is not a metric of this task." in run_in_process("check", recipe).stderr
    )
