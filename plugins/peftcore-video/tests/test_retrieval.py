"""Retrieval: the contract of the task, ranks on a matrix made by hand, and vectors by formula."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from peftcore import ConfigError, DataError, backbone_named
from peftcore_train.data import Row
from peftcore_train.testing import TaskContract
from peftcore_video.ranks import retrieval_metrics, similarity, text_ranks, video_ranks
from peftcore_video.retrieval import VideoRetrieval, VideoRetrievalConfig, contrastive_loss


class Towers(TaskContract):
    """A task whose backbone is the whole of CLIP, which its recipe must name."""

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, clip: Path) -> Path:
        return clip

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _rows(cls, clips: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
        cls.config = {**cls.config, "cache": str(tmp_path_factory.mktemp("cache"))}
        cls.rows = {"train": clips, "validation": clips[:5], "test": clips[3:]}

    def recipe(self, folder: Path, source: Path, **options: Any) -> Path:
        path = super().recipe(folder, source, **options)
        content = yaml.safe_load(path.read_text())
        content["backbone"]["name"] = "vision-language"
        path.write_text(yaml.safe_dump(content))
        return path


class TestVideoRetrieval(Towers):
    task = "video-retrieval"
    config = {"frames": 3}
    compares = True
    # there is no head
    methods = ({"method": "probe", "targets": ["attention.*", "mlp.*"]},)
    epochs, learning_rate, remembered = 2, 1e-2, 0.95


def test_ranks_of_a_matrix_made_by_hand() -> None:
    # rows are texts; the first two are of video 0, the third of 1 and the last of 2
    scores = torch.tensor([
        [0.9, 0.1, 0.2, 0.3],
        [0.5, 0.5, 0.5, 0.1],
        [0.7, 0.4, 0.4, 0.6],
        [0.2, 0.6, 0.1, 0.2],
    ])  # fmt: skip
    own = torch.tensor([0, 0, 1, 2])
    assert text_ranks(scores, own).tolist() == [1, 2, 3.5, 4]
    # video 3 has no text here; of 0 the better text counts, and the other is no rival
    assert video_ranks(scores[:, :3], own).tolist() == [1, 3, 4]


def test_vectors_that_are_all_the_same_get_what_chance_gets() -> None:
    same = torch.ones(5, 5, dtype=torch.double)
    assert text_ranks(same, torch.arange(5)).tolist() == [3] * 5
    assert video_ranks(same, torch.arange(5)).tolist() == [3] * 5


def test_the_metrics_are_those_of_the_ranks() -> None:
    metrics = retrieval_metrics()
    vectors = F.normalize(torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(0)), dim=-1)
    there = torch.ones(6, 1, dtype=torch.bool)
    known = torch.tensor([7, 7, 3, 4, 5, 6])
    videos = vectors[[0, 0, 2, 3, 4, 5]]  # both texts of video 7 have one video
    metrics.update(frames=videos, seen=there, words=vectors, read=there, known=known)
    found = {name: float(value) for name, value in metrics.compute().items()}
    # every text but the second is its own video
    cosines = vectors[:, 0] @ vectors[[0, 2, 3, 4, 5], 0].T
    rank = 1 + int((cosines[1] > cosines[1, 0]).sum())
    expected = [(5 + (rank <= k)) / 6 for k in (1, 5, 10)] + [1, (5 + rank) / 6]
    names = ("recall@1", "recall@5", "recall@10", "median_rank", "mean_rank")
    assert [found[f"text_to_video_{name}"] for name in names] == pytest.approx(expected)
    assert [found[f"video_to_text_{name}"] for name in names] == [1] * 5
    # further rows are ranked anew
    metrics.update(frames=videos, seen=there, words=vectors.roll(1, 0), read=there, known=known)
    assert float(metrics.compute()["text_to_video_recall@1"]) < 1


def test_the_fine_similarity_is_that_of_its_formula() -> None:
    chance = torch.Generator().manual_seed(0)
    frames = F.normalize(torch.randn(3, 4, 5, generator=chance), dim=-1)
    words = F.normalize(torch.randn(2, 6, 5, generator=chance), dim=-1)
    counts, lengths = (4, 2, 1), (6, 3)
    seen = torch.arange(4) < torch.tensor(counts)[:, None]
    read = torch.arange(6) < torch.tensor(lengths)[:, None]
    found = similarity(frames, seen, words, read)
    for a, length in enumerate(lengths):
        for b, count in enumerate(counts):
            pairs = words[a, :length] @ frames[b, :count].T
            expected = (pairs.amax(1).mean() + pairs.amax(0).mean()) / 2
            torch.testing.assert_close(found[a, b], expected)


def test_another_caption_of_the_same_video_is_no_negative() -> None:
    logits = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([0, 1])
    both = [
        F.cross_entropy(part[[0, 1]], own, reduction="none")
        for kept in ((0, 2), (1, 2))
        for part in (logits[list(kept)][:, list(kept)], logits[list(kept)][:, list(kept)].T)
    ]
    # rows 0 and 1 are of one video: each has row 2 as its only negative, which has both of them
    last = (
        F.cross_entropy(logits[2:], torch.tensor([2])),
        F.cross_entropy(logits[:, 2:].T, torch.tensor([2])),
    )
    expected = (both[0][0] + both[1][0] + both[2][0] + both[3][0] + sum(last)) / 6
    torch.testing.assert_close(contrastive_loss(logits, torch.tensor([5, 5, 8])), expected)


@pytest.mark.parametrize("similarity", ["mean", "fine"])
def test_a_pair_is_compared_by_its_own_frames_and_words(
    clip: Path, clips: list[dict[str, str]], similarity: str
) -> None:
    """Rows beside others, whose texts and videos are longer, are compared as they are alone."""
    loaded = backbone_named("vision-language").load(str(clip))
    task = VideoRetrieval(VideoRetrievalConfig(frames=3, similarity=similarity))
    short = {"caption": "red box", "video": clips[0]["video"]}
    rows = [task.encode(Row(row, "x:1"), loaded) for row in (short, *clips[3:6])]
    rows[0]["frames"] = task.decoded(rows[0])[:2]
    with torch.no_grad():
        found = task.vectors(loaded.model, task.collate(rows))
        whole = task.alike(found)
        for i, row in enumerate(rows):
            alone = task.alike(task.vectors(loaded.model, task.collate([row])))
            torch.testing.assert_close(alone[0, 0], whole[i, i])
    if similarity == "mean":
        frames = task.collate(rows[:1])["pixel_values"]
        vectors = F.normalize(loaded.model.get_image_features(frames).pooler_output, dim=-1)
        torch.testing.assert_close(found["frames"][0, 0], F.normalize(vectors.mean(0), dim=0))
    else:
        assert task.score(loaded.model, task.collate(rows))["words"].shape == (4, 12, 8)


def test_a_tower_alone_is_told_what_is_needed(clip: Path) -> None:
    loaded = backbone_named("clip-vision").load(str(clip))
    with pytest.raises(
        ConfigError, match=r"needs both towers of CLIP\. Write backbone\.name: vision"
    ):
        VideoRetrieval(VideoRetrievalConfig()).build(loaded)


def test_texts_are_cut_only_where_the_recipe_says_so(
    clip: Path, clips: list[dict[str, str]]
) -> None:
    loaded = backbone_named("vision-language").load(str(clip))
    row = Row({**clips[0], "caption": " ".join(["red"] * 11)}, "x:7")
    with pytest.raises(DataError, match=r"x:7: 13 tokens are more than the 12 of task.max_length"):
        VideoRetrieval(VideoRetrievalConfig()).encode(row, loaded)
    cut = VideoRetrieval(VideoRetrievalConfig(truncation=True)).encode(row, loaded)
    assert cut["input_ids"][-1] == 2 and len(cut["input_ids"]) == 12
