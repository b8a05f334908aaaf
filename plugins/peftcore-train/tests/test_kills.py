"""Runs that are killed at file-system events, or on full disks, lose nothing; by hand: -m slow."""

import errno
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import peftcore as core
from peftcore.testing import run_in_process
from peftcore_train import running
from peftcore_train.state import find_state, read_position

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]
#: Events of files being opened, moved, made or taken away, as the interpreter tells of them.
_EVENTS = ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


class Events:
    """Counts file-system events below a folder, and does something at one of them."""

    def __init__(self, root: Path, at: int, act: Callable[[], None]):
        self.root, self.at, self.act, self.count = str(root), at, act, 0
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event in _EVENTS and str(arguments[0]).startswith(self.root):
            self.count += 1
            if self.count == self.at:
                self.act()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def trained(
    child, output: Path, recipe: Path, *, at: int = 0, act: Callable[[], None] = kill
) -> int:
    def work() -> int:
        events = Events(output, at, act)
        done = run_in_process("train", recipe, "-q")
        (output.parent / "events").write_text(str(events.count))
        print(done.output, file=sys.stderr)
        return int(done.exit_code)

    return child(work)


@pytest.fixture
def short(recipe, data, tmp_path):
    """A recipe of six steps that saves after each second one; its children import nothing."""
    assert running.run
    limits = {"train": 24, "validation": 8, "test": 8}
    source = {"source": str(data), "limits": limits}
    return lambda output: recipe(
        f"{output.name}.yaml", data=source, output=str(output), train={"save_steps": 2}
    )


def check_whole(folder: Path) -> None:
    """Check that what a run directory holds can be read; older states may be half gone."""
    if (folder / "adapter").exists() and any((folder / "adapter").glob("adapter.*")):
        core.inspect(folder / "adapter")
    if (newest := find_state(folder)) is not None:
        load_file(newest / "tensors.safetensors")
        read_position(newest)
    if (folder / "config.yaml").exists():
        assert yaml.safe_load((folder / "config.yaml").read_text())["name"] == "toy"


def test_a_kill_at_any_file_system_event_loses_nothing(short, child, tmp_path):
    whole = tmp_path / "whole"
    assert trained(child, whole, short(whole)) == 0
    count = int((tmp_path / "events").read_text())
    (expected,) = whole.iterdir()
    tensors = load_file(expected / "adapter" / "adapter.safetensors")
    for at in sorted(random.Random(0).sample(range(2, count + 1), 20)):
        output = tmp_path / f"at-{at}"
        assert trained(child, output, short(output), at=at) == -signal.SIGKILL
        (folder,) = output.iterdir()
        check_whole(folder)
        if not (folder / "config.yaml").exists():
            continue  # killed before there was anything to go on with
        code = child(lambda folder=folder: run_in_process("train", "--resume", folder).exit_code)
        assert code == 0, f"event {at}"
        found = load_file(folder / "adapter" / "adapter.safetensors")
        assert all(torch.equal(found[name], tensors[name]) for name in tensors), f"event {at}"
        metrics = [(f / "metrics.jsonl").read_text() for f in (folder, expected)]
        assert metrics[0] == metrics[1], f"event {at}"


def test_a_disk_that_is_full_at_any_size_is_one_sentence_and_loses_nothing(short, child, tmp_path):
    """Files of at most so many bytes, as for a disk with so much room; 13 sizes."""
    import resource

    whole = tmp_path / "whole"
    assert trained(child, whole, short(whole)) == 0
    (expected,) = whole.iterdir()
    tensors = load_file(expected / "adapter" / "adapter.safetensors")
    for size in (0, 1, 100, 500, 900, 1500, 3000, 8000, 12_000, 20_000, 40_000, 60_000, 80_000):
        output = tmp_path / f"size-{size}"
        said = tmp_path / "said"

        def work(output: Path = output, size: int = size, said: Path = said) -> int:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            path = short(output)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            done = run_in_process("train", path, "-q")
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            said.write_text(done.stderr)
            return 50 if done.exception and not isinstance(done.exception, SystemExit) else 0

        assert child(work) == 0, f"size {size}"
        lines = said.read_text().strip().splitlines()
        assert len(lines) <= 1 and "Traceback" not in "".join(lines), lines
        if lines:
            assert os.strerror(errno.EFBIG) in lines[0] or "cannot be written" in lines[0], lines
        for folder in output.glob("*"):
            check_whole(folder)
            assert not list(folder.glob(".*")), f"size {size}"
            if (folder / "config.yaml").exists():
                again = child(lambda f=folder: run_in_process("train", "--resume", f).exit_code)
                assert again == 0, f"size {size}"
                found = load_file(folder / "adapter" / "adapter.safetensors")
                assert all(torch.equal(found[name], tensors[name]) for name in tensors)
