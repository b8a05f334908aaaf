"""Audio classification: the contract of tasks on raw and on log-mel models, and spoilt sound."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import soundfile
import yaml

from peftcore.testing import run_in_process
from peftcore_speech.classification import AudioClassification, AudioClassificationConfig
from peftcore_speech.recordings import heard
from peftcore_train.data import read_rows
from peftcore_train.testing import TaskContract, bars_of

RATE = 2000
_KEPT: list[TemporaryDirectory] = []  # type: ignore[type-arg]


def tone(hertz: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@cache
def recordings() -> dict[str, list[dict]]:
    """Write tones of two heights and unequal lengths, and return rows with their paths."""
    _KEPT.append(TemporaryDirectory())
    folder = Path(_KEPT[0].name)
    rows = []
    for i in range(8):
        label = ("low", "high")[i % 2]
        path = folder / f"{i}.{('wav', 'flac')[i // 4]}"
        sound = tone((60, 600)[i % 2], 0.12 + 0.01 * i)
        noise = np.random.default_rng(i).normal(0, 0.05, len(sound))
        soundfile.write(path, sound + noise, RATE)
        rows.append({"audio": str(path), "label": label})
    return {"train": rows, "validation": rows[:5], "test": rows[3:]}


class TestAudioClassification(TaskContract):
    task = "audio-classification"
    config = {"min_seconds": 0.05}
    answers = ("label",)
    epochs = 2
    learning_rate = 1e-2

    @property
    def rows(self):
        return recordings()

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, wav2vec2: Path) -> Path:
        return wav2vec2


def recipe_of(folder: Path, source: Path, data: Path, **task) -> Path:
    recipe = {
        "name": "sound",
        "backbone": {"source": str(source)},
        "methods": ["lora"],
        "task": {"type": "audio-classification", **task},
        "data": {"source": str(data)},
        "train": {"device": "cpu", "max_steps": 1, "batch_size": 4},
        "output": str(folder / "runs"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_a_model_of_log_mel_frames_hears_recordings_at_its_own_rate(tmp_path, whisper):
    (tmp_path / "data").mkdir()
    for split, rows in recordings().items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "data" / f"{split}.jsonl").write_text(lines)
    recipe = recipe_of(tmp_path, whisper, tmp_path / "data", min_seconds=0.05)
    found = json.loads(run_in_process("check", recipe, "--json").stdout)
    assert found["length_unit"] == "samples" and found["lengths"]["train"]["max"] == 16 * 190
    done = run_in_process("train", recipe, "-q", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["reloaded_equal"] is True


def test_channels_are_mixed_and_resampled_to_the_rate_of_the_model(tmp_path):
    path, slow = tmp_path / "x.flac", tone(50, 0.5, 8000)
    soundfile.write(path, np.stack([slow, np.zeros_like(slow)], 1), 8000)
    samples, rate = heard(path, "x:1", 2000)
    assert rate == 2000 and len(samples) == 1000
    # the ends of a filter are not the tone's
    assert np.abs(samples - 0.5 * tone(50, 0.5, 2000))[50:-50].max() < 1e-2


def test_spoilt_sound_is_named_at_once(tmp_path, wav2vec2):
    data = tmp_path / "data"
    for split in ("train", "validation", "test"):
        for label, hertz in (("low", 60), ("high", 600)):
            (data / split / label).mkdir(parents=True)
            for i in range(3):
                sound = tone(hertz + i + len(split), 0.3)
                soundfile.write(data / split / label / f"{i}.wav", sound, RATE)
    soundfile.write(data / "train" / "low" / "silent.wav", np.zeros(900), RATE)
    soundfile.write(data / "train" / "low" / "short.wav", tone(60, 0.01), RATE)
    soundfile.write(data / "test" / "high" / "long.wav", tone(60, 31), RATE)
    (data / "test" / "high" / "none.flac").write_text("no sound")
    (data / "validation" / "low" / "0.wav").write_bytes(b"")
    whole = (data / "train" / "high" / "0.wav").read_bytes()
    (data / "train" / "high" / "0.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(data / "train" / "high" / "1.wav", tone(600, 0.3, 4000), 4000)
    path = recipe_of(tmp_path, wav2vec2, data, sampling_rate=RATE)
    done = run_in_process("check", path)
    assert done.exit_code == 2
    for sentence in (
        "train/low/silent.wav is silent throughout.",
        "error: train/low/short.wav: 0.010 seconds, fewer than task.min_seconds: 0.25.",
        "error: test/high/long.wav: 31.0 seconds, more than task.max_seconds: 30.",
        "test/high/none.flac is no sound that can be read",
        "validation/low/0.wav is no sound that can be read",
        "train/high/0.wav is cut off: it has 622 bytes, and its header says 1,244.",
        "1.wav has 4,000 samples a second, not the 2,000 of task.sampling_rate.",
    ):
        assert sentence in done.stderr, done.stderr
    assert run_in_process("train", path, "-q").exit_code == 2
    assert not list((tmp_path / "runs").glob("*"))


def test_listening_to_a_folder_of_recordings_is_told(tmp_path):
    for name in ("low/0", "low/1", "high/2"):
        (path := tmp_path / f"{name}.wav").parent.mkdir(exist_ok=True)
        soundfile.write(path, tone(60, 0.3), RATE)
    task = AudioClassification(AudioClassificationConfig())
    rows = read_rows(tmp_path)
    task.learn(rows)
    assert bars_of(lambda: task.check(rows)) == {"looking at files": "3 files"}
