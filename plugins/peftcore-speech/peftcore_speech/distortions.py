"""What training does to recordings, so that they are never heard twice alike."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Longest part of a second, and of a mask, in which the sound fades out and in again.
_FADE_SECONDS, _FADE_PART = 0.01, 0.1


def noisy(
    samples: "NDArray[Any]", decibels: tuple[float, float], chance: np.random.Generator
) -> "NDArray[Any]":
    """Return samples with white noise, its distance to them in dB drawn between two.

    Its root mean square is rms(x) / 10^(dB / 20), as that of audiomentations' ``AddGaussianSNR``.
    """
    distance = chance.uniform(*decibels)
    loudness = float(np.sqrt(np.square(samples, dtype="float64").mean()))
    noise = chance.standard_normal(len(samples)) * loudness / 10 ** (distance / 20)
    made: NDArray[Any] = (samples + noise).astype("float32")
    return made


def masked(
    samples: "NDArray[Any]", parts: tuple[float, float], rate: int, chance: np.random.Generator
) -> "NDArray[Any]":
    """Return samples with a part of them silent; its share of the whole is drawn between two.

    Its edges fade over a hundredth of a second, or a tenth of the mask where that is shorter, as
    ``TimeMask`` of audiomentations with ``fade``.
    """
    length = int(len(samples) * chance.uniform(*parts))
    begin = int(chance.integers(0, len(samples) - length, endpoint=True))
    mask = np.zeros(length, "float32")
    if fade := min(int(rate * _FADE_SECONDS), int(length * _FADE_PART)):
        mask[:fade] = np.linspace(1, 0, fade)
        mask[-fade:] = np.linspace(0, 1, fade)
    made: NDArray[Any] = samples.astype("float32", copy=True)
    made[begin : begin + length] *= mask
    return made
