"""MSR-VTT and ActivityNet Captions in miniatures of their layout: splits, damage, missing files."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from peftcore import DataError
from peftcore_train.data import Row
from peftcore_train.schema import DataSection, Split
from peftcore_video.retrieval import VideoRetrieval, VideoRetrievalConfig
from peftcore_video.streaming import items
from peftcore_video.videos import Videos, VideosConfig

#: Videos of the official parts of captioning.
PARTS = ["train"] * 6 + ["validate"] * 2 + ["test"] * 3


def msrvtt(root: Path) -> Path:
    """Write MSR-VTT with eleven videos of two captions each; the files are empty."""
    (root / "videos").mkdir(parents=True)
    videos = [{"video_id": f"video{i}", "split": part, "id": i} for i, part in enumerate(PARTS)]
    sentences = [
        {"video_id": f"video{i}", "caption": f"{word} {i}", "sen_id": 2 * i + (word == "two")}
        for i in range(len(PARTS))
        for word in ("one", "two")
    ]
    content = {"info": {"year": "2016"}, "videos": videos, "sentences": sentences}
    (root / "MSRVTT_data.json").write_text(json.dumps(content, indent=1))
    for name, count in (("9k", 9), ("7k", 7)):
        lines = "".join(f"video{i}\n" for i in range(count))
        (root / f"MSRVTT_train.{name}.csv").write_text("video_id\n" + lines)
    pairs = "".join(f"ret{i},msr{i},video{i},a caption of {i}\n" for i in (9, 10))
    (root / "MSRVTT_JSFUSION_test.csv").write_text("key,vid_key,video_id,sentence\n" + pairs)
    for i in range(len(PARTS)):
        (root / "videos" / f"video{i}.mp4").touch()
    return root


def activitynet(root: Path) -> Path:
    """Write ActivityNet Captions with five videos for training and two to test."""
    root.mkdir(parents=True)
    for file, numbers in (("train.json", range(5)), ("val_1.json", range(5, 7))):
        told = {
            f"v_{i}": {
                "duration": 9.5,
                "timestamps": [[0, 4.1], [3, 9.5]],
                "sentences": [f"A man is {i}. ", " Then he is not."],
            }
            for i in numbers
        }
        (root / file).write_text(json.dumps(told))
    for i in range(7):
        (root / f"v_{i}.mkv").touch()
    return root


def pairs(root: Path, split: Split, **config: Any) -> list[Row]:
    return VideoRetrieval(VideoRetrievalConfig(**config)).read(DataSection(source=str(root)), split)


def told(rows: list[Row]) -> list[tuple[str, Any]]:
    return [(row.values["video"], row.values["caption"]) for row in rows]


def test_the_pairs_of_msrvtt_are_those_of_its_lists(tmp_path: Path) -> None:
    root = msrvtt(tmp_path / "msrvtt")
    for protocol, count in (("9k", 9), ("7k", 7)):
        train = pairs(root, "train", protocol=protocol, validation=0.2)
        held = pairs(root, "validation", protocol=protocol, validation=0.2)
        both = sorted(told(train) + told(held))
        assert both == sorted(
            (f"videos/video{i}.mp4", f"{word} {i}") for i in range(count) for word in ("one", "two")
        )
        # whole videos are held out, with all their captions
        assert len(held) == 2 * round(0.2 * count)
        assert not {v for v, _ in told(train)} & {v for v, _ in told(held)}
    test = pairs(root, "test")
    assert told(test) == [(f"videos/video{i}.mp4", f"a caption of {i}") for i in (9, 10)]
    assert test[1].where == "MSRVTT_JSFUSION_test.csv:3"
    assert test[1].path("video") == root / "videos" / "video10.mp4"


def test_the_official_parts_have_a_row_for_each_video(tmp_path: Path) -> None:
    root = msrvtt(tmp_path / "msrvtt")
    task = Videos(VideosConfig(protocol="captioning"))
    for split, numbers in (("train", range(6)), ("validation", (6, 7)), ("test", range(8, 11))):
        rows = task.read(DataSection(source=str(root)), split)
        assert told(rows) == [(f"videos/video{i}.mp4", [f"one {i}", f"two {i}"]) for i in numbers]


def test_the_sentences_of_activitynet_are_a_paragraph(tmp_path: Path) -> None:
    root = activitynet(tmp_path / "anet")
    found = {split: pairs(root, split) for split in ("train", "validation", "test")}
    assert [len(found[split]) for split in found] == [4, 1, 2]
    assert told(found["test"])[0] == ("v_5.mkv", "A man is 5. Then he is not.")


def test_what_is_missing_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    root = msrvtt(tmp_path / "msrvtt")
    (root / "videos" / "video3.mp4").unlink()
    problems: list[DataError] = []
    task = Videos(VideosConfig(protocol="captioning"))
    rows = task.read(DataSection(source=str(root)), "train", problems)
    assert len(rows) == 5
    (sentence,) = map(str, problems)
    assert (
        sentence.startswith("MSRVTT_data.json:")
        and ": captions without a video: no video3" in sentence
    )
    assert "Did you mean video" in sentence and sentence.endswith("leave_out_missing: true.")
    left = pairs(root, "train", leave_out_missing=True, validation=0.1)
    assert "videos/video3.mp4" not in {video for video, _ in told(left)}
    with (root / "MSRVTT_train.9k.csv").open("a") as file:
        file.write("video77\n")
    with pytest.raises(
        DataError, match=r"train\.9k\.csv:11: video77 has no caption in MSRVTT_data"
    ):
        pairs(root, "train", leave_out_missing=True, validation=0.01)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            '"caption": "two 3"',
            '"caption": ""',
            r"MSRVTT_data\.json:\d+: video3 has an empty caption",
        ),
        (
            '"caption": "two 3"',
            '"text": "two 3"',
            r"MSRVTT_data\.json:\d+: an item without 'caption'",
        ),
        (
            '"caption": "two 3"',
            '"caption": two',
            r"MSRVTT_data\.json:\d+: not readable as JSON: exp",
        ),
        (
            '"video_id": "video5",\n   "split"',
            '"video_id": "video55",\n   "split"',
            "captions of video5, which is none of",
        ),
    ],
)
def test_a_damaged_item_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    root = msrvtt(tmp_path / "msrvtt")
    file = root / "MSRVTT_data.json"
    before = file.read_text()
    assert old in before
    file.write_text(before.replace(old, new))
    with pytest.raises(DataError, match=sentence) as caught:
        pairs(root, "train", validation=0.01)
    line = int(str(caught.value).split(":")[1])
    damaged = [i for i, text in enumerate(file.read_text().split("\n"), 1) if new in text]
    if damaged:
        assert abs(line - damaged[0]) <= 2


def test_a_video_of_activitynet_without_sentences_is_named(tmp_path: Path) -> None:
    root = activitynet(tmp_path / "anet")
    told = json.loads((root / "val_1.json").read_text())
    told["v_6"] = {"duration": 3}
    (root / "val_1.json").write_text(json.dumps(told, indent=1))
    with pytest.raises(DataError, match=r"val_1\.json:\d+: v_6 has no list of sentences"):
        pairs(root, "test")


def test_a_large_file_is_read_item_by_item(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write('{"n": 12, "sentences": [')
        file.write(",\n".join(json.dumps({"caption": "word " * 40}) for _ in range(6_000)))
        file.write("]}")
    assert path.stat().st_size > 1_200_000
    tracemalloc.start()
    count = sum(1 for _ in items(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 6_001 and peak < 500_000
    assert next(iter(items(path))) == ("n", 12, "large.json:1")
    path.write_text(path.read_text()[:100_000])
    with pytest.raises(DataError, match=r"large\.json:\d+: not readable as JSON"):
        list(items(path))
