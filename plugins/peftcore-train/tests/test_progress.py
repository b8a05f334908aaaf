"""What long work says, and tables of any width."""

import io
import re
import subprocess
import sys
import time

import pytest

from peftcore import FormatSpec, installed
from peftcore_train import progress as module
from peftcore_train.data import read_rows
from peftcore_train.progress import Progress, going_over, remaining
from peftcore_train.report import print_results, print_scores
from peftcore_train.testing import bars_of

RESULT = {
    "metric": "accuracy",
    "methods": [{"method": "lora"}],
    "parameters": {"trainable": 1_234_567, "percent_of_total": 0.1234},
    "validation": {"accuracy": 0.8125},
    "test": {"accuracy": 0.7875},
    "time": {"total_seconds": 3600.4},
}


@pytest.mark.parametrize("width", [50, 80, 120])
def test_tables_fit_the_terminal_with_every_number_whole(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    arms = {"lora-rank-16": RESULT, "loreft": RESULT, "lost": {"failed": "a sentence"}}
    print_results(arms)
    print_scores({name: {"accuracy": 0.5, "f1": 0.25} for name in list(arms) * 4}, "test")
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for part in ("1,234,567", "0.1234", "0.8125", "0.7875", "3600", "lora-rank-16", "0.2500"):
        assert part in shown
    assert "…" not in shown


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def hurried(monkeypatch):
    """Let long work be long after some milliseconds."""
    monkeypatch.setattr(module, "_SOON", 0.01)
    monkeypatch.setattr(module, "_EVERY", 0.01)
    monkeypatch.setattr(module, "_SHORT", 0.0)


def until(found) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + 20
    while not (there := found()) and time.monotonic() < end:
        pass
    assert there


def test_work_that_takes_long_says_that_it_goes_on(hurried, capsys, tmp_path):
    progress, said = Progress(log=tmp_path / "log.txt"), io.StringIO()

    def two_reminders() -> bool:
        said.write(capsys.readouterr().err)
        return said.getvalue().count(" s ...") >= 2

    with progress.doing("loading a model"):
        until(two_reminders)
    assert re.fullmatch(
        r"loading a model: \d+\.\d s\n", capsys.readouterr().err.splitlines(True)[-1]
    )
    log = (tmp_path / "log.txt").read_text().splitlines()
    assert [line[20:36] for line in log] == ["loading a model", "loading a model:"]


def test_counted_work_shows_a_bar_on_a_terminal_and_lines_elsewhere(hurried, monkeypatch):
    lines, bar = io.StringIO(), Terminal()
    for stream in (lines, bar):
        monkeypatch.setattr(sys, "stderr", stream)
        began = time.monotonic()
        for i in Progress().counted(range(40), "scoring", 40):
            while i == 20 and time.monotonic() - began < 0.03:
                pass
    assert re.search(r"scoring: 2\d of 40 rows, 0:00 left\n", lines.getvalue())
    assert lines.getvalue().splitlines()[-1].startswith("scoring 40 rows: ")
    assert "\r" not in lines.getvalue() and "\rscoring:" in bar.getvalue()
    assert [remaining(10, 1, n) for n in (1, 8, 400)] == ["0:00", "1:10", "1:06:30"]


def test_readers_say_how_many_are_left_to_whoever_tells_of_them(hurried, capsys):
    def read(most: float) -> str:
        """Go over rows, and return what is said from the first to the last."""
        began, seen = time.monotonic(), 0
        for i in going_over(range(40), "listing"):
            if i == 0:
                capsys.readouterr()
            seen += len([*going_over(range(2), "looking")])
            while i == 20 and time.monotonic() - began < most:
                pass
            said = capsys.readouterr().err if i == 39 else ""
        assert seen == 80
        return said

    assert read(0) == ""
    with Progress().doing("reading"):
        said = read(0.1)
    # while some are counted, that the whole goes on is not said besides
    assert re.search(r"listing: 2\d of 40 rows, 0:00 left\n", said)
    assert "s ..." not in said and "looking" not in said
    assert capsys.readouterr().err.splitlines()[-1].startswith("reading: ")


def test_a_folder_of_files_is_listed_behind_a_bar(tmp_path):
    for i in range(3):
        (tmp_path / "dog").mkdir(exist_ok=True)
        (tmp_path / "dog" / f"{i}.draw").touch()
    with installed().with_plugin(FormatSpec(".draw", "A drawing.", column="drawing")):
        bars = bars_of(lambda: read_rows(tmp_path))
    assert bars == {f"listing {tmp_path.name}": "4 files"}


def test_the_first_line_is_there_before_torch(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: x")
    code = (
        "import sys\n"
        "class Stream:\n"
        "    def write(self, text):\n"
        "        heavy = {'torch', 'transformers', 'accelerate', 'numpy'} & set(sys.modules)\n"
        "        print(repr(text), sorted(heavy)); raise SystemExit(0)\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "sys.stderr = Stream()\n"
        "from peftcore.cli import main\n"
        f"main(['train', {str(recipe)!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n") and "training " in done.stdout, done.stdout
