"""The released layouts of MSR-VTT and ActivityNet Captions, one row for each video.

MSR-VTT (Xu et al. 2016) is ``MSRVTT_data.json``, the lists of CLIP4Clip (Luo et al. 2021) beside it
and ``videoN.mp4`` below. ActivityNet Captions (Krishna et al. 2017) is ``train.json``,
``val_1.json`` and ``v_NAME.mp4``; the sentences of a video are one paragraph.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peftcore import DataError, nearest
from peftcore_train.data import Row, read_rows
from peftcore_train.schema import Split
from peftcore_video.frames import SUFFIXES
from peftcore_video.streaming import items

Protocol = Literal["9k", "7k", "captioning"]
#: Files that tell a layout.
MSRVTT, ACTIVITYNET = "MSRVTT_data.json", ("train.json", "val_1.json")
#: Columns of the rows.
VIDEO, CAPTION = "video", "caption"
_TEST = "MSRVTT_JSFUSION_test.csv"
_PARTS = {"train": "train", "validation": "validate", "test": "test"}


@dataclass
class Release:
    """What a layout is read with.

    Attributes:
        root: its folder.
        protocol: of MSR-VTT: training on 9,000 or 7,010 videos and the test 1k-A, or the official
            parts of captioning.
        share: of the training videos that are for validation, where a release has no such part.
        seed: of the draw of these.
        leave_out: videos that are not there are left out, instead of being problems.
        problems: where what is wrong is put.
    """

    root: Path
    protocol: Protocol
    share: float
    seed: int
    leave_out: bool
    problems: list[DataError] = field(default_factory=list)


def is_release(root: Path) -> bool:
    """Tell whether a folder holds one of the layouts."""
    return (root / MSRVTT).is_file() or all((root / name).is_file() for name in ACTIVITYNET)


def rows_of(release: Release, split: Split) -> list[Row]:
    """Return a row for each video of a split, with all its captions as a list.

    Raises:
        DataError: a file of the release is missing or damaged.
    """
    if (release.root / MSRVTT).is_file():
        captions, wheres = _msrvtt(release, split)
    else:
        captions, wheres = _activitynet(release, split)
    return list(_with_files(release, captions, wheres))


def _msrvtt(release: Release, split: Split) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the captions of each video of a split of MSR-VTT, and where each stands."""
    if release.protocol != "captioning" and split == "test":
        return _pairs(release)
    chosen = None
    if release.protocol != "captioning":
        named = read_rows(release.root / f"MSRVTT_train.{release.protocol}.csv")
        chosen = {str(row.text("video_id")): row.where for row in named}
        chosen = _part(chosen, release, split)
    captions: dict[str, list[str]] = defaultdict(list)
    parts: dict[str, str] = {}
    orphans: dict[str, str] = {}
    for key, item, where in items(release.root / MSRVTT):
        if key == "videos":
            parts[str(_of(item, "video_id", where))] = str(item.get("split", ""))
        elif key == "sentences":
            video, text = str(_of(item, "video_id", where)), _of(item, "caption", where)
            if not isinstance(text, str) or not text.strip():
                release.problems.append(DataError(f"{where}: {video} has an empty caption."))
                continue
            orphans.setdefault(video, where)
            captions[video].append(text)
    if chosen is None:
        wanted = _PARTS[split]
        chosen = {v: orphans.get(v, MSRVTT) for v, part in parts.items() if part == wanted}
    _without(release, split, {v: w for v, w in orphans.items() if v not in parts})
    return _chosen(release, captions, chosen)


def _pairs(release: Release) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the caption of each video of 1k-A."""
    captions: dict[str, list[str]] = defaultdict(list)
    wheres = {}
    for row in read_rows(release.root / _TEST):
        video = row.text("video_id")
        captions[video].append(row.text("sentence"))
        wheres[video] = row.where
    return captions, wheres


def _activitynet(release: Release, split: Split) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Return the paragraph of each video of a split of ActivityNet Captions."""
    file = release.root / (ACTIVITYNET[1] if split == "test" else ACTIVITYNET[0])
    captions: dict[str, list[str]] = {}
    wheres: dict[str, str] = {}
    for video, item, where in items(file):
        said = item.get("sentences") if isinstance(item, dict) else None
        if not isinstance(said, list) or not all(isinstance(s, str) for s in said):
            release.problems.append(DataError(f"{where}: {video} has no list of sentences."))
            continue
        text = " ".join(s.strip() for s in said if s.strip())
        if not text:
            release.problems.append(DataError(f"{where}: {video} has no captions."))
            continue
        captions[video], wheres[video] = [text], where
    if split != "test":
        wheres = _part(wheres, release, split)
    return {v: captions[v] for v in wheres}, wheres


def _part(wheres: dict[str, str], release: Release, split: Split) -> dict[str, str]:
    """Return the training or the validation part of the training videos."""
    names = sorted(wheres)
    count = max(1, round(release.share * len(names)))
    held = set(random.Random(f"{release.seed}-validation").sample(names, count))
    return {v: w for v, w in wheres.items() if (v in held) == (split == "validation")}


def _chosen(
    release: Release, captions: Mapping[str, list[str]], chosen: Mapping[str, str]
) -> tuple[dict[str, list[str]], dict[str, str]]:
    for video, where in chosen.items():
        if video not in captions:
            hint = nearest(video, captions)
            problem = f"{where}: {video} has no caption in {MSRVTT}.{hint}"
            release.problems.append(DataError(problem))
    kept = {video: captions[video] for video in chosen if video in captions}
    return kept, {video: chosen[video] for video in kept}


def _without(release: Release, split: Split, orphans: Mapping[str, str]) -> None:
    """Tell of captions of a video that the release does not list; once, with training."""
    if split == "train":
        for video, where in orphans.items():
            problem = f"{where}: captions of {video}, which is none of the videos of {MSRVTT}."
            release.problems.append(DataError(problem))


def _with_files(
    release: Release, captions: Mapping[str, list[str]], wheres: Mapping[str, str]
) -> Iterable[Row]:
    """Yield the rows of videos whose files are there."""
    files = {p.stem: p for p in sorted(release.root.rglob("*")) if p.suffix.lower() in SUFFIXES}
    for video, texts in captions.items():
        if video in files:
            values = {VIDEO: str(files[video].relative_to(release.root)), CAPTION: texts}
            yield Row(values, wheres[video], str(release.root))
        elif not release.leave_out:
            release.problems.append(
                DataError(
                    f"{wheres[video]}: captions without a video: no {video}.mp4 is in"
                    f" {release.root.name}.{nearest(video, files)} Fetch it, or write"
                    " task.leave_out_missing: true."
                )
            )


def _of(item: Any, key: str, where: str) -> Any:
    if not isinstance(item, dict) or key not in item:
        raise DataError(f"{where}: an item without {key!r}.")
    return item[key]
