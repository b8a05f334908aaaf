"""The directory of a run: written once, never overwritten, readable by people."""

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peftcore import CheckpointError, ConfigError, installed
from peftcore_train import recipes
from peftcore_train.errors import TrainingError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG, RESULTS, METRICS, LOG = "config.yaml", "results.json", "metrics.jsonl", "log.txt"
ENVIRONMENT, PROFILE, ADAPTER = "environment.json", "data-profile.json", "adapter"
ROWS = "test.safetensors"


def create(output: str | Path, name: str) -> Path:
    """Make a new directory ``NAME-YYYYmmdd-HHMMSS``; a number is added where it is taken.

    Raises:
        CheckpointError: the disk refuses.
    """
    stamp = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        for attempt in range(1, 1000):
            folder = Path(output) / (stamp if attempt == 1 else f"{stamp}-{attempt}")
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise CheckpointError(f"{output} cannot be written: {error.strerror or error}.") from error
    raise CheckpointError(f"{output} holds a thousand runs of this second.")


def whole_run(folder: Path) -> Path:
    """Return the run directory that a folder is, or is an arm of."""
    try:
        arms = recipes.read(folder.parent / CONFIG).data.get("compare")
    except ConfigError:
        return folder  # what is there is no recipe
    return folder.parent if isinstance(arms, dict) and folder.name in arms else folder


def unwritable(path: Path, error: Exception) -> CheckpointError:
    """Return the error for what a disk refused to take of a run."""
    reason = getattr(error, "strerror", None) or error
    remedy = "Make room and start again."
    for folder in (path, path.parent):
        if (folder / CONFIG).is_file():
            command = f"peftcore train --resume {whole_run(folder)}"
            remedy = f"What was saved before is kept. Make room, then: {command}"
    return CheckpointError(f"{path} cannot be written: {reason}. {remedy}")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run directory to this process.

    The system lets go when the process ends, however it ends. Where there are no such locks, as on
    Windows and some network file systems, nobody is kept out.

    Raises:
        TrainingError: another process trains there.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainingError(
                f"{folder} is being trained by another process. Wait for its end, or start a run"
                " of its own."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a file so that a kill leaves the old one or the new one, whole.

    Raises:
        CheckpointError: the disk refuses.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise unwritable(path, error) from error


def append(path: Path, line: str) -> None:
    """Write a line at the end of a file.

    Raises:
        CheckpointError: the disk refuses.
    """
    try:
        with path.open("ab") as file:
            file.write(line.encode())
    except OSError as error:
        raise unwritable(path, error) from error


def write_json(path: Path, data: Any) -> None:
    """Write JSON; what is not a number becomes null."""
    write_text(path, json.dumps(finite(data), indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON that a run wrote.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        command = f"peftcore train --resume {whole_run(path.parent)}"
        anew = f" Take it away: {command} writes it anew." if path.name == RESULTS else ""
        raise CheckpointError(f"{path} cannot be read: {error}.{anew}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error


def finite(data: Any) -> Any:
    """Return data with None for NaN and infinities, which JSON does not have."""
    if isinstance(data, dict):
        return {key: finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def environment(seed: int, device: str) -> dict[str, Any]:
    """Return what a run ran on: versions, device, seed, and the commit of the working folder."""
    import torch

    plugins = {r.distribution: r.version for r in installed().records if r.status == "ok"}
    libraries = ("torch", "transformers", "accelerate", "torchmetrics", "safetensors")
    return {
        "peftcore": version("peftcore"),
        "plugins": dict(sorted(plugins.items())),
        "libraries": {name: version(name) for name in libraries},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": seed,
        "git": _commit(),
    }


def _commit() -> str | None:
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


class Lines:
    """A file of lines that can be cut back to where a saved state was.

    Attributes:
        size: bytes written.
        writes: this process writes; all but the first one do not.
    """

    def __init__(self, path: Path, size: int = 0, *, writes: bool = True):
        self.path = path
        self.size = size
        self.writes = writes
        if writes:
            with path.open("ab") as file:
                file.truncate(size)

    def add(self, record: dict[str, Any]) -> None:
        """Append one record as a line of JSON."""
        if not self.writes:
            return
        line = json.dumps(finite(record)) + "\n"
        append(self.path, line)
        self.size += len(line.encode())


def write_config(folder: Path, data: dict[str, Any]) -> None:
    """Write a recipe that can be run again."""
    write_text(folder / CONFIG, recipes.dump(data))


def compared(folder: Path) -> list[Path]:
    """Return the runs of the comparison that a directory is, each in a folder of its seed."""
    found = [*folder.glob(f"*/seed-*/{CONFIG}"), *folder.glob(f"*/setting-*/seed-*/{CONFIG}")]
    return sorted(file.parent for file in found)


def check_run(folder: Path) -> None:
    """Raise ConfigError where a folder is no run directory."""
    if not (folder / CONFIG).is_file():
        runs = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"*/*/{CONFIG}")]
        if runs:
            raise ConfigError(
                f"{folder} holds runs and is none itself; name one, such as {min(runs).parent}."
            )
        what = "holds no config.yaml" if folder.is_dir() else "does not exist"
        raise ConfigError(f"{folder} {what}; name a directory that peftcore train wrote.")
