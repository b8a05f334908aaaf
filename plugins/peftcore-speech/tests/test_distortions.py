"""Noise and time masks: how loud and how long they are, and that chance is in the seed alone."""

import numpy as np
import pytest
import torch

from peftcore_speech.classification import AudioClassification, AudioClassificationConfig
from peftcore_speech.distortions import masked, noisy

RATE = 16000
TONE = (0.3 * np.sin(np.arange(4 * RATE) / 7)).astype("float32")


@pytest.mark.parametrize("decibels", [10, 30])
def test_noise_lies_as_far_below_a_recording_as_is_asked(decibels: float) -> None:
    made = noisy(TONE, (decibels, decibels), np.random.default_rng(0))
    ratio = np.square(TONE).sum() / np.square(made - TONE).sum()
    assert 10 * np.log10(ratio) == pytest.approx(decibels, abs=0.1)
    assert made.dtype == np.float32


def test_a_mask_is_one_part_of_a_recording_with_soft_edges() -> None:
    ones = np.ones(RATE, "float32")
    for seed in range(20):
        made = masked(ones, (0.1, 0.15), RATE, np.random.default_rng(seed))
        (changed,) = np.nonzero(made < 1)
        # each edge begins at 1, so that its first sample is not changed
        assert 0.1 * RATE - 2 <= len(changed) <= 0.15 * RATE
        assert (np.diff(changed) == 1).all()
        fade = made[changed[0] : changed[0] + RATE // 100 - 1]
        assert (np.diff(fade) < 0).all() and made[changed].min() == 0
    assert (ones == 1).all()
    assert len(masked(np.ones(5, "float32"), (0.1, 0.15), RATE, np.random.default_rng(0))) == 5


def test_chance_is_in_the_generator_and_training_alone_is_distorted() -> None:
    task = AudioClassification(AudioClassificationConfig(noise_snr=(10, 30)))
    features = {"file": "x.wav"}
    first, second = (task.distort(features, torch.Generator().manual_seed(5)) for _ in range(2))
    other = task.distort(features, torch.Generator().manual_seed(6))
    assert first == second != other and "distortion" not in features
    assert task.augment(features, torch.Generator()) == features
    for wrong in ({"noise_snr": (30, 10)}, {"time_mask": (0.1, 1.5)}, {"fold": 2}):
        with pytest.raises(ValueError, match=r"smaller one first|go with a fold_column"):
            AudioClassificationConfig(**wrong)
