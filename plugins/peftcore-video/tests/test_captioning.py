"""Captioning: the contract of the task, instructions in text alone, and scores of captions."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from peftcore import ConfigError, DataError, backbone_named
from peftcore_train.data import Row
from peftcore_train.generation import as_tensor
from peftcore_train.schema import DataSection
from peftcore_train.task import Batch
from peftcore_train.testing import TaskContract
from peftcore_video.caption_metrics import caption_metrics, words
from peftcore_video.captioning import VideoCaptioning, VideoCaptioningConfig
from peftcore_video.joint import VideoJoint, VideoJointConfig
from peftcore_video.retrieval import VideoRetrieval, VideoRetrievalConfig


class TestVideoCaptioning(TaskContract):
    task = "video-captioning"
    config = {"frames": 2, "max_new_tokens": 4, "caption_metrics": ["rouge_l", "cider"]}
    answers = ("caption",)
    # the text tower does not write
    methods = (
        {
            "method": "probe",
            "targets": {"roles": ["attention.*", "mlp.*", "head"], "stack": "language"},
        },
    )
    epochs, learning_rate, remembered = 2, 1e-1, 0.8

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, captioner: Path) -> Path:
        return captioner

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _rows(cls, clips: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.config = {**cls.config, "cache": str(tmp_path_factory.mktemp("cache"))}
        cls.rows = {"train": clips, "validation": clips[:5], "test": clips[3:]}

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["targets"])


def test_the_joint_loss_is_the_weighted_sum_of_both(
    captioner: Path, clips: list[dict[str, str]]
) -> None:
    loaded = backbone_named("clip-captioner").load(str(captioner))

    def losses(**weights: float) -> float:
        task = VideoJoint(VideoJointConfig(frames=2, **weights))
        rows = [task.encode(Row(row, "x:1"), loaded) for row in clips]
        text = Row({"input": "a box", "output": "a red box"}, "x:9")
        batch = task.collate([*rows[:2], task.encode(text, loaded), *rows[2:]])
        with torch.no_grad():
            return float(task.loss(loaded.model, batch))

    both = losses(retrieval_weight=2, caption_weight=0.5)
    parts = losses(caption_weight=0), losses(retrieval_weight=0)
    assert both == pytest.approx(2 * parts[0] + 0.5 * parts[1], rel=1e-5)
    # the same towers and pairs as the task of retrieval alone has
    towers = backbone_named("vision-language").load(str(captioner))
    task = VideoRetrieval(VideoRetrievalConfig(frames=2))
    batch = task.collate([task.encode(Row(row, "x:1"), towers) for row in clips])
    with torch.no_grad():
        assert parts[0] == pytest.approx(float(task.loss(towers.model, batch)), rel=1e-4)


class TestVideoJoint(TestVideoCaptioning):
    """The sum of both losses, with the metrics of both."""

    task = "video-joint"
    compares = True
    methods = ({"method": "probe", "targets": ["attention.*", "mlp.*", "head"]},)
    remembered = 0.9


CAPTIONS = [
    ("a man is playing a guitar", ["A man plays a guitar.", "a man is playing a guitar on stage"]),
    ("a dog", ["A dog's running, quickly!", "the dog runs", "a small dog runs in a field"]),
    ("", ["someone is cooking"]),
    ("two people are talking in a car", ["two people talk in a car", "People talking - in a car."]),
]


def computed(names: tuple[str, ...], tokenisation: str = "words") -> dict[str, float]:
    metrics = caption_metrics(names, tokenisation)  # type: ignore[arg-type]
    for part in (CAPTIONS[:1], CAPTIONS[1:]):
        prediction = as_tensor([text for text, _ in part])
        references = as_tensor([json.dumps(several) for _, several in part])
        for metric in metrics.values():
            metric.update(prediction, references)
    return {name: float(metric.compute()) for name, metric in metrics.items()}


def test_metrics_of_captions_are_those_of_pycocoevalcap() -> None:
    """As its own example runs the scorers, on all rows at once."""
    bleu, cider, rouge = (
        pytest.importorskip(f"pycocoevalcap.{name}.{name}") for name in ("bleu", "cider", "rouge")
    )
    references = words({i: several for i, (_, several) in enumerate(CAPTIONS)})
    predictions = words({i: [text] for i, (text, _) in enumerate(CAPTIONS)})
    found = computed(("bleu_1", "bleu_4", "rouge_l", "cider"))
    all_of_them, _ = bleu.Bleu(4).compute_score(references, predictions, verbose=0)
    assert found["bleu_1"] == pytest.approx(all_of_them[0], abs=1e-12)
    assert found["bleu_4"] == pytest.approx(all_of_them[3], abs=1e-12)
    for name, scorer in (("rouge_l", rouge.Rouge()), ("cider", cider.Cider())):
        expected, _ = scorer.compute_score(references, predictions)
        assert found[name] == pytest.approx(float(expected), abs=1e-12) and expected > 0


def test_texts_are_scored_in_lower_case_without_punctuation() -> None:
    assert words({0: ["A dog's running, quickly!"]}) == {0: ["a dog's running quickly"]}


def test_metrics_in_java_are_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for wrong in ({"caption_metrics": ["cider", "meteor"]}, {"tokenisation": "ptb"}):
        task = VideoCaptioning(VideoCaptioningConfig(**wrong))
        with pytest.raises(ConfigError, match="runs a program in Java, and there is no java here"):
            task.check([])
    VideoCaptioning(VideoCaptioningConfig()).check([])


def test_texts_alone_are_mixed_with_videos_in_training(
    captioner: Path, clips: list[dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in clips))
    told = [{"instruction": "very small", "input": "a box", "output": "a red box"}]
    told += [{"input": f"a {colour} box", "output": "on the left"} for colour in ("red", "blue")]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in told))
    task = VideoCaptioning(VideoCaptioningConfig(frames=2, instructions=str(file)))
    rows = task.read(DataSection(source=str(tmp_path)), "train")
    task.check(rows)
    texts = [row for row in rows if "input" in row.values]
    assert len(rows) == 16 and len(texts) == 8
    assert [sum(row.where.endswith(f":{i}") for row in texts) for i in (1, 2, 3)].count(3) == 2
    loaded = backbone_named("clip-captioner").load(str(captioner))
    features = [task.encode(row, loaded) for row in (rows[0], texts[0])]
    batch = task.collate([task.augment(row, torch.Generator()) for row in features])
    assert batch["seen"].tolist() == [[True, True], [False, False]]
    both = task.score(loaded.model, batch)["loss"]
    alone = task.score(loaded.model, task.collate(features[1:]))["loss"]
    torch.testing.assert_close(both[1], alone[0])
    file.write_text('{"input": "a box"}\n')
    with pytest.raises(DataError, match=r"texts\.jsonl:1: no column 'output'"):
        task.check(task.read(DataSection(source=str(tmp_path)), "train"))


def test_one_of_several_captions_is_drawn_for_each_epoch(
    captioner: Path, clips: list[dict[str, str]]
) -> None:
    task = VideoCaptioning(VideoCaptioningConfig(frames=2))
    loaded = backbone_named("clip-captioner").load(str(captioner))
    several = {**clips[0], "caption": ["a red box", "a very small box", "on the left"]}
    row = task.encode(Row(several, "x:1"), loaded)
    labels = {
        tuple(
            task.collate([task.distort(row, torch.Generator().manual_seed(i))])["targets"].tolist()
        )
        for i in range(16)
    }
    assert labels == {tuple(ids) for ids in row["answers"]}
    for wrong, sentence in (([], "an empty list: no caption"), ([""], "which is no text")):
        with pytest.raises(DataError, match=f"x:1: column 'caption' (is|holds) .*{sentence}"):
            task.check([Row({**several, "caption": wrong}, "x:1")])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.skipif(shutil.which("java") is None, reason="there is no Java")
def test_with_java_texts_are_those_of_the_treebank() -> None:
    pytest.importorskip("pycocoevalcap")
    found = computed(("bleu_1", "meteor"), "ptb")
    assert 0 < found["meteor"] < 1 and found["bleu_1"] > 0
