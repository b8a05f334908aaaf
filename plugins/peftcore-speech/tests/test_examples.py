"""The recipes of examples/ on small models and few recordings: trained, scored, read back."""

import json
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from peftcore.testing import run_in_process

Smoke = Callable[..., dict[str, Any]]


def rows(folder: Path, tones: list[Path], **columns: Any) -> Path:
    """Write tables of recordings, with a column that goes with the height of each."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        lines = [
            json.dumps({"audio": str(path), **{k: v[i % 2] for k, v in columns.items()}}) + "\n"
            for i, path in enumerate(tones)
        ]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    return folder


def test_clips_of_spoken_digits(
    tmp_path: Path, listener: Path, tones: list[Path], smoke: Smoke
) -> None:
    data = rows(tmp_path / "clips", tones, label=("7", "b"), language=("it", "fr"))
    found = smoke(
        "spoken-clips.yaml", "ser_adapter",
        backbone={"source": str(listener)}, data={"source": str(data)},
        task={"min_seconds": 0.05},
    )  # fmt: skip
    assert found["metric"] == "uar"
    run = next((tmp_path / "runs").iterdir())
    lines = (data / "test.jsonl").read_text().splitlines()
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    together = run_in_process("predict", run, "--input", tmp_path / "in.jsonl", "--probabilities")
    alone = run_in_process("predict", run, "--input", "-", "--probabilities", input=lines[0])
    assert together.exit_code == alone.exit_code == 0, together.output
    first = json.loads(together.stdout.splitlines()[0])["probabilities"]
    assert json.loads(alone.stdout)["probabilities"] == pytest.approx(first, abs=1e-5)


@pytest.mark.parametrize(
    ("recipe", "arm", "metric"),
    [("spoken-codes.yaml", "s2lora", "wer"), ("whisper-s2lora.yaml", "", "cer")],
)
def test_recognition(
    tmp_path: Path,
    listener: Path,
    tones: list[Path],
    smoke: Smoke,
    recipe: str,
    arm: str,
    metric: str,
) -> None:
    data = rows(tmp_path / "codes", tones, text=("7 b", "2"))
    task = {"min_seconds": 0.05, "window_seconds": 1, "max_new_tokens": 4, "language": None}
    found = smoke(
        recipe, arm,
        backbone={"source": str(listener)}, data={"source": str(data)}, task=task,
    )  # fmt: skip
    assert found["metric"] == metric and found["test"]["wer"] >= 0


def test_the_voices_of_asterisk_become_clips_and_codes(tmp_path: Path, monkeypatch: Any) -> None:
    """Every voice says two digits and a letter; one of them has no letters."""
    file = Path(__file__).parents[3] / "examples" / "spoken.py"
    spec = spec_from_file_location("spoken", file)
    assert spec is not None and spec.loader is not None
    spoken = module_from_spec(spec)
    spec.loader.exec_module(spoken)
    monkeypatch.setattr(spoken, "CODES", dict.fromkeys(spoken.SPLITS, 3))
    for voice in spoken.VOICES:
        for name in ("digits/4", "digits/17", *(["letters/b"] * (voice.folder != "es"))):
            path = tmp_path / "sounds" / voice.folder / f"{name}.{voice.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = {"format": "RAW", "subtype": "GSM610"} if voice.suffix == "gsm" else {}
            wave = 0.3 * np.sin(np.arange(3200) / 5) * (np.arange(3200) > 1600)
            soundfile.write(path, wave, 8000, **kind)
    counts = spoken.write(tmp_path / "sounds", tmp_path / "spoken")
    assert counts == {
        "clips/train": 15, "codes/train": 15, "clips/validation": 3, "codes/validation": 3,
        "clips/test": 5, "codes/test": 6,
    }  # fmt: skip
    found: dict[str, list[dict]] = {}
    for split in spoken.SPLITS:
        for kind in ("clips", "codes"):
            lines = (tmp_path / "spoken" / kind / f"{split}.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            assert all((tmp_path / "spoken" / kind / row["audio"]).is_file() for row in rows)
            found[f"{kind}/{split}"] = rows
    heard = {row["speaker"] for row in found["clips/train"]}
    assert not heard & {row["speaker"] for row in found["clips/test"] + found["codes/validation"]}
    assert all(3 <= len(row["text"].split()) <= 5 for row in found["codes/train"])
    # silence at the ends is gone
    assert soundfile.info(tmp_path / "spoken/clips/recordings/en-allison-4.wav").frames < 2000
