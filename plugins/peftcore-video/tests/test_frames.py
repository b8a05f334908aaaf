"""Frames: which are taken, whatever the container; files that are no good; the cache."""

from pathlib import Path

import av
import numpy as np
import pytest

from peftcore import DataError
from peftcore_video.cache import cached_frames
from peftcore_video.frames import Wanted, check_video, frames_of
from peftcore_video.writing import write_video


def numbered(count: int, size: tuple[int, int] = (32, 48)) -> list[np.ndarray]:
    """Return frames each of which tells its number by how bright it is."""
    return [np.full((*size, 3), 20 + 200 * i // max(count - 1, 1), np.uint8) for i in range(count)]


def brightness(frames: np.ndarray) -> list[int]:
    """Return the number that each frame of :func:`numbered` tells, of 20."""
    return [round((float(f.mean()) - 20) * 19 / 200) for f in frames]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_frames_are_those_that_decoding_all_gives(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a.{suffix}", numbered(20), gop=6)
    with av.open(str(path)) as container:
        decoded = [*container.decode(video=0)]
    plain = [frame.to_ndarray(format="rgb24") for frame in decoded]
    keys = [number for number, frame in enumerate(decoded) if frame.key_frame]
    assert len(keys) == 4
    wanted = {
        "uniform": (Wanted(5, size=32), [2, 6, 10, 14, 18]),
        "fps": (Wanted(9, "fps", fps=2, size=32), [0, 3, 5, 8, 10, 13, 15, 18]),
        "keyframes": (Wanted(9, "keyframes", size=32), keys),
        "few key frames": (Wanted(2, "keyframes", size=32), keys[1::2]),
        "all": (Wanted(99, size=32), [*range(20)]),
    }
    for name, (how, numbers) in wanted.items():
        found = frames_of(path, "x:1", how)
        assert found.shape == (len(numbers), 3, 32, 32) and found.dtype == np.uint8
        assert brightness(found) == numbers, name
        for frame, number in zip(found, numbers, strict=True):
            middle = plain[number][:, 8:40].transpose(2, 0, 1)
            assert np.abs(frame.astype(int) - middle).max() <= 2


def test_the_shorter_side_is_scaled_and_the_middle_is_cut_out(tmp_path: Path) -> None:
    frame = np.zeros((32, 64, 3), np.uint8)
    frame[:, 16:48] = 250
    path = write_video(tmp_path / "wide.mp4", [frame] * 2)
    found = frames_of(path, "x:1", Wanted(1, size=16))
    assert found.shape == (1, 3, 16, 16) and found[..., 2:-2].min() > 220


def spoilt(path: Path, kind: str) -> Path:
    """Write a file that is no good in one way."""
    if kind == "no video":
        path.write_text("no video at all")
    elif kind == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            container.mux(stream.encode(silence))
            container.mux(stream.encode())
    elif kind == "empty":
        with av.open(str(path), "w", options={"movflags": "frag_keyframe+empty_moov"}) as container:
            stream = container.add_stream("libx264", rate=5)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            container.start_encoding()
    elif kind == "cut off":
        whole = write_video(path, numbered(20), movflags="faststart").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    else:
        whole = bytearray(write_video(path, numbered(20), gop=50).read_bytes())
        start = whole.index(b"mdat") + 4
        whole[start : start + 4000] = bytes(4000)
        path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no video", "is damaged, or no video: Invalid data found"),
        ("sound", "holds sound and no video. Leave it out"),
        ("empty", "is a video without frames"),
        ("cut off", "is cut off: 1 of the 20 frames"),
        ("damaged", "is damaged"),
    ],
)
def test_a_file_that_is_no_good_is_named_in_one_sentence(
    tmp_path: Path, kind: str, sentence: str
) -> None:
    path = spoilt(tmp_path / "clip.mp4", kind)
    with pytest.raises(DataError, match=sentence) as caught:
        frames_of(path, "train.jsonl:3", Wanted(4))
    assert str(caught.value).startswith(f"train.jsonl:3: {path} ")
    if kind in ("no video", "sound", "empty"):
        with pytest.raises(DataError, match=sentence):
            check_video(path, "train.jsonl:3")


def test_the_cache_decodes_once_and_anew_where_the_file_was_changed(tmp_path: Path) -> None:
    path, folder = write_video(tmp_path / "a.mp4", numbered(20)), tmp_path / "cache"
    wanted = Wanted(4, size=16)
    first = cached_frames(path, "x:1", wanted, folder)
    (kept,) = folder.iterdir()
    np.save(kept, first + 1)
    assert np.array_equal(cached_frames(path, "x:1", wanted, folder), first + 1)
    kept.write_bytes(b"damaged")
    assert np.array_equal(cached_frames(path, "x:1", wanted, folder), first)
    cached_frames(path, "x:1", Wanted(3, size=16), folder)
    write_video(path, numbered(20)[::-1])
    assert np.array_equal(cached_frames(path, "x:1", wanted, folder), frames_of(path, "", wanted))
    names = [p.suffix for p in folder.iterdir()]
    assert names == [".npy"] * 3
