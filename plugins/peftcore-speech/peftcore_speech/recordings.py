"""Files of sound to samples at the rate of a model."""

from importlib import import_module
from math import gcd
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from peftcore import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Bytes of padding that some writers count and do not write; from when on a length says nothing.
_SLACK, _UNKNOWN = 16, 2**31 - 2**16


def heard(path: Path, where: str, rate: int | None = None) -> "tuple[NDArray[Any], int]":
    """Return the samples of a file, its channels mixed into one, and their rate.

    Args:
        path: the file.
        where: the row, for messages.
        rate: samples a second that are wanted; those of the file, if not given.

    Raises:
        DataError: the file is no sound, is cut off, is empty, or is silent throughout.
    """
    soundfile = _library("soundfile", path)
    _check_whole(path, where)
    try:
        said = soundfile.info(path).frames
        channels, own = soundfile.read(path, dtype="float32", always_2d=True)
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = (lines[-1] if lines else type(error).__name__).rstrip(".")
        raise DataError(f"{where}: {path} is no sound that can be read: {reason}.") from None
    # what an MP3 says of its length is rounded
    if len(channels) < 0.98 * said:
        raise DataError(
            f"{where}: {path} is cut off: {len(channels):,} of {said:,} samples can be read."
        )
    samples = channels.mean(axis=1)
    if not len(samples):
        raise DataError(f"{where}: {path} holds no sound.")
    if not (loudest := abs(samples).max()) > 0:
        what = "is silent throughout" if loudest == 0 else "holds values that are no numbers"
        raise DataError(f"{where}: {path} {what}.")
    if rate is None or rate == own:
        return samples, own
    return _resampled(samples, own, rate), rate


def length_of(path: Path, rate: int) -> int:
    """Return how many samples a file that can be heard has at a rate, without reading them."""
    info = _library("soundfile", path).info(path)
    return -(-info.frames * rate // info.samplerate)


def _check_whole(path: Path, where: str) -> None:
    """Refuse a WAV file that is shorter than its header says, which its library reads in silence.

    Raises:
        DataError: it is cut off.
    """
    with path.open("rb") as file:
        head = file.read(8)
    said, there = int.from_bytes(head[4:], "little") + 8, path.stat().st_size
    # what writes to a pipe does not know the length, and says a very great one
    if head[:4] == b"RIFF" and there + _SLACK < said < _UNKNOWN:
        raise DataError(
            f"{where}: {path} is cut off: it has {there:,} bytes, and its header says {said:,}."
        )


def _resampled(samples: "NDArray[Any]", own: int, rate: int) -> "NDArray[Any]":
    from scipy.signal import resample_poly

    common = gcd(own, rate)
    made: NDArray[Any] = resample_poly(samples, rate // common, own // common)
    return made.astype("float32")


def _library(name: str, path: Path) -> ModuleType:
    try:
        return import_module(name)
    except (ImportError, OSError):  # it may lack its library of C
        raise DataError(
            f"{path}: reading it needs {name}: pip install 'peftcore-speech[audio]'"
        ) from None
