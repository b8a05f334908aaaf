"""Files of video to a few frames of the size that a model sees, by PyAV."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftcore import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from numpy.typing import NDArray

Sampling = Literal["uniform", "fps", "keyframes"]
#: Suffixes of files that are taken for videos in a folder.
SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".gif")


@dataclass(frozen=True)
class Wanted:
    """Which frames of a video are taken, and of what size.

    Attributes:
        count: most frames of a video; one that has fewer gives all that it has.
        sampling: ``uniform``, the middles of so many equal parts; ``fps``, so many a second, and of
            these the middles of equal parts where they are more; ``keyframes``, those that are
            coded by themselves, of them likewise.
        fps: frames a second of the sampling of that name.
        size: side in pixels: the shorter side is scaled to it, and the middle cut out, as for CLIP.
    """

    count: int
    sampling: Sampling = "uniform"
    fps: float = 1.0
    size: int = 224


@dataclass(frozen=True)
class _Index:
    """What the packets of a stream tell.

    Attributes:
        times: of its frames, in order.
        keys: of those that are coded by themselves.
        numbered: the times are numbers of frames, since packets tell none.
    """

    times: list[int]
    keys: list[int]
    numbered: bool = False


def check_video(path: Path, where: str) -> None:
    """Check that a file holds a video whose first frame can be decoded.

    Raises:
        DataError: it is damaged, or holds sound alone, or no frame.
    """
    with _opened(path, where) as container:
        for _ in container.decode(video=0):
            return
    raise DataError(f"{where}: {path} is a video without frames. Leave it out.")


def frames_of(path: Path, where: str, wanted: Wanted) -> "NDArray[Any]":
    """Return frames of a video in their order, [T, 3, size, size] uint8.

    Only what is between a key frame and a wanted frame is decoded.

    Args:
        path: the file.
        where: the row, for messages.
        wanted: which frames.

    Raises:
        DataError: it is damaged or cut off, or holds sound alone, or no frame.
    """
    import numpy as np

    with _opened(path, where) as container:
        stream = container.streams.video[0]
        index = _indexed(container, stream)
        if not index.times:
            raise DataError(f"{where}: {path} is a video without frames. Leave it out.")
        if stream.frames > len(index.times):
            raise DataError(
                f"{where}: {path} is cut off: {len(index.times):,} of the {stream.frames:,} frames"
                " that its header tells of are there. Fetch it anew, or leave it out."
            )
        rate = float(stream.average_rate or 25)
        seconds = 1 / rate if index.numbered else float(stream.time_base or 1 / rate)
        chosen = _chosen(index, wanted, seconds)
        found = dict(_decoded(container, stream, chosen, index, wanted.size))
    if lacking := [time for time in chosen if time not in found]:
        raise DataError(
            f"{where}: {path} is damaged: {len(lacking)} of the {len(chosen)} frames that are"
            " wanted cannot be decoded. Fetch it anew, or leave it out."
        )
    return np.stack([found[time] for time in chosen])


@contextmanager
def _opened(path: Path, where: str) -> "Iterator[InputContainer]":
    """Open a file that has a video stream; what FFmpeg says of it becomes one sentence."""
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                what = "holds sound and no video" if container.streams.audio else "holds no video"
                raise DataError(f"{where}: {path} {what}. Leave it out, or name another file.")
            yield container
    except (av.FFmpegError, UnicodeDecodeError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip().rstrip(".")
        raise DataError(
            f"{where}: {path} is damaged, or no video: {reason}. Fetch it anew, or leave it out."
        ) from None


def _indexed(container: "InputContainer", stream: Any) -> _Index:
    """Read the packets of a stream, which costs a pass over the file and no decoding.

    Where packets have no time of presentation, as in AVI, their number stands for it.
    """
    packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size]
    if any(pts is None for pts, _ in packets):
        keys = [number for number, (_, key) in enumerate(packets) if key]
        return _Index([*range(len(packets))], keys, numbered=True)
    times = sorted({pts for pts, _ in packets})
    return _Index(times, sorted(pts for pts, key in packets if key))


def _chosen(index: _Index, wanted: Wanted, seconds: float) -> list[int]:
    """Return the times of the frames that are wanted, in order.

    Args:
        index: the frames.
        wanted: which.
        seconds: what one step of the times is.
    """
    times = index.times
    if wanted.sampling == "keyframes":
        times = index.keys or times[:1]
    elif wanted.sampling == "fps":
        # the first frame of each period that has one
        periods = groupby(times, lambda t: int((t - times[0]) * seconds * wanted.fps + 1e-6))
        times = [next(group) for _, group in periods]
    if len(times) <= wanted.count:
        return list(times)
    return [times[(2 * i + 1) * len(times) // (2 * wanted.count)] for i in range(wanted.count)]


def _decoded(
    container: "InputContainer", stream: Any, chosen: list[int], index: _Index, size: int
) -> "Iterator[tuple[int, NDArray[Any]]]":
    """Yield the chosen frames with their times, decoding from the key frame before each on."""
    if index.numbered:
        container.seek(0)
        for number, frame in enumerate(container.decode(stream)):
            if number in chosen:
                yield number, _image(frame, size)
        return

    def before(time: int) -> int:
        return max((key for key in index.keys if key <= time), default=index.times[0])

    for key, times in groupby(chosen, before):
        left = list(times)
        container.seek(key, stream=stream, backward=True)
        for frame in container.decode(stream):
            if frame.pts in left and not frame.is_corrupt:
                yield frame.pts, _image(frame, size)
            if frame.pts is not None and frame.pts >= left[-1]:
                break


def _image(frame: Any, size: int) -> "NDArray[Any]":
    """Return the middle of a frame whose shorter side is scaled to a size, [3, size, size]."""
    width, height = frame.width, frame.height
    scale = size / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    scaled = frame.reformat(wide, high, format="rgb24", interpolation="BICUBIC").to_ndarray()
    top, left = (high - size) // 2, (wide - size) // 2
    return scaled[top : top + size, left : left + size].transpose(2, 0, 1)
