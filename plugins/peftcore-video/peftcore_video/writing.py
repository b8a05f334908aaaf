"""Frames to a file of video."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


def write_video(
    path: Path, frames: "Sequence[NDArray[Any]]", rate: int = 5, gop: int = 12, **options: str
) -> Path:
    """Write frames, [H, W, 3] uint8 each and of even sizes, as H.264; return where.

    Args:
        path: the file; its suffix says what container it is.
        frames: at least one.
        rate: frames a second.
        gop: frames from one key frame to the next.
        options: of the container, such as ``movflags="faststart"``.
    """
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "10"})
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.height, stream.width = frames[0].shape[:2]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
