"""The recipes of examples/ on small models and few recordings: trained, scored, read back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
