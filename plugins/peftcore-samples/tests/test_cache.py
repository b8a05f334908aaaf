import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from peftcore import PeftcoreError
from peftcore_samples.cache import MARKER, cache_dir, cached, is_whole


class Build:
    """Makes an entry of two files and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, target: Path, scratch: Path) -> None:
        self.times += 1
        (scratch / "left over").touch()
        (target / "a.txt").write_text("first")
        (target / "sub").mkdir()
        (target / "sub" / "b.txt").write_text("second")


def hidden(cache: Path) -> list[Path]:
    return list((cache / "samples").glob(".*"))


def test_an_entry_is_made_once(cache: Path) -> None:
    build = Build()
    folder = cached("entry", build)
    assert cached("entry", build) == folder == cache / "samples" / "entry"
    assert build.times == 1
    assert (folder / "sub" / "b.txt").read_text() == "second"
    assert not hidden(cache)


@pytest.mark.parametrize("file", ["a.txt", "sub/b.txt", MARKER])
@pytest.mark.parametrize("damage", ["cut", "removed"])
def test_a_damaged_entry_is_made_anew(file: str, damage: str) -> None:
    build = Build()
    path = cached("entry", build) / file
    if damage == "cut":
        os.truncate(path, 3)
    else:
        path.unlink()
    assert is_whole(cached("entry", build))
    assert path.stat().st_size > 3
    assert build.times == 2


def test_a_failed_build_leaves_nothing(cache: Path) -> None:
    def build(target: Path, scratch: Path) -> None:
        (target / "a.txt").write_text("first")
        raise OSError(28, "No space left on device")

    with pytest.raises(PeftcoreError, match=r"No space left on device.*PEFTCORE_CACHE"):
        cached("entry", build)
    assert not list((cache / "samples").iterdir())


def test_a_damaged_entry_survives_a_failed_repair() -> None:
    folder = cached("entry", Build())
    (folder / "a.txt").unlink()

    def build(target: Path, scratch: Path) -> None:
        raise OSError("full")

    with pytest.raises(PeftcoreError, match="full"):
        cached("entry", build)
    assert (folder / "sub" / "b.txt").exists()


def test_a_cache_that_cannot_be_a_folder_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PEFTCORE_CACHE", str(tmp_path / "file"))
    with pytest.raises(PeftcoreError, match="entry cannot be written to the cache"):
        cached("entry", Build())


def test_the_process_that_is_slower_takes_the_entry_of_the_faster() -> None:
    inner = Build()

    def build(target: Path, scratch: Path) -> None:
        cached("entry", inner)
        (target / "mine.txt").touch()

    folder = cached("entry", build)
    assert (folder / "a.txt").exists()
    assert not (folder / "mine.txt").exists()


def test_a_killed_build_is_never_taken_for_whole(cache: Path, python_path: str) -> None:
    source = """
import time
from peftcore_samples.cache import cached
def build(target, scratch):
    (target / "a.txt").write_text("first")
    time.sleep(60)
cached("entry", build)
"""
    process = subprocess.Popen([sys.executable, "-c", source])
    while not list(cache.glob("samples/.tmp-*/new/a.txt")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in (cache / "samples").glob("*") if path.name[0] != "."] == []
    assert is_whole(cached("entry", Build()))
    left = hidden(cache)
    assert len(left) == 1  # the killed one's; it might have been a running one's
    os.utime(left[0], (0, 0))
    cached("another", Build())
    assert not hidden(cache)


def test_the_environment_decides_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEFTCORE_CACHE")
    monkeypatch.setenv("HOME", "/h")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_dir() == Path("/h/.cache/peftcore")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_dir() == Path("/x/peftcore")
    monkeypatch.setenv("PEFTCORE_CACHE", "~/p")
    assert cache_dir() == Path("/h/p")
