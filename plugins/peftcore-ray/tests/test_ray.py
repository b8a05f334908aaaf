"""The executor on a local cluster of two workers, which takes seconds to begin."""

import json
import posix
import signal
import sys

import pytest

from peftcore import ConfigError, installed
from peftcore.testing import PluginContract, run_in_process
from peftcore_train.errors import Interrupted, TrainingError

pytest.importorskip("ray")

# Ray keeps sockets and logs open until its processes end
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestWarning")


class TestPlugin(PluginContract):
    plugin = "peftcore-ray"


def test_it_is_found_by_name_and_what_a_run_needs_is_a_number(monkeypatch):
    make = installed().resolve("executors", "ray", "executor")
    monkeypatch.setenv("PEFTCORE_RAY_CPUS", "two")
    with pytest.raises(ConfigError, match="PEFTCORE_RAY_CPUS=two: what one run needs is a number"):
        make(2)


@pytest.fixture
def cluster(monkeypatch):
    """Return what makes a cluster whose workers import from where this process does."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    return installed().resolve("executors", "ray", "executor")


@pytest.mark.slow
def test_workers_end_alone_and_stop_when_told(cluster):
    with cluster(2) as executor:
        good, wrong, dead = (
            executor.submit(posix.getpid),
            executor.submit(posix.strerror, "x"),
            executor.submit(posix.abort),
        )
        assert good.result(60) != posix.getpid()
        with pytest.raises(TrainingError, match=r"its worker ended: .*TypeError"):
            wrong.result(60)
        with pytest.raises(TrainingError, match="its worker ended: WorkerCrashedError"):
            dead.result(60)
        one, other = (executor.submit(posix.getpid) for _ in range(2))
        assert one.result(60) != other.result(60), "a process for each"
        waits = executor.submit(signal.pause)
        executor.shutdown(cancel_futures=True)
        with pytest.raises((Interrupted, TrainingError)):
            waits.result(60)


@pytest.mark.slow
def test_a_comparison_on_two_workers_is_that_of_one_process(cluster, recipe):
    found = [
        run_in_process("compare", recipe, "--executor", name, "-j", "2", "-q", "--json")
        for name in ("ray", "in-process")
    ]
    assert [done.exit_code for done in found] == [1, 1], found[0].output
    first, second = (strip(done.stdout) for done in found)
    assert first == second
    assert set(first["failed"]) == {"dead, seed 0", "dead, seed 1"}


def strip(text: str) -> dict:
    """Return a comparison without where it is, how long it took and what memory."""
    found = json.loads(text)
    del found["directory"]
    for arm in found["arms"].values():
        for part in (arm, *arm["runs"]):
            part.pop("seconds", None)
            part.pop("peak_bytes", None)
            part.pop("adapter_bytes", None)  # the recipe in it names its folder
    return found
