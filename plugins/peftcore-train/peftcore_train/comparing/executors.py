"""Where the runs of a comparison are computed, on one machine. Imports no torch.

An executor is a :class:`concurrent.futures.Executor`; plugins bring others, found as `executors`.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from peftcore import PeftcoreError
from peftcore_train.errors import Interrupted, TrainingError

#: What a run leaves of the memory that there is.
_SPARE = 0.9
_CHILD = "peftcore_train.comparing.child"


class InProcess(Executor):
    """Does its work at once, in this process: plugins of this process are there, and debuggers."""

    def __init__(self, workers: int):
        self.workers = workers

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do the work; an interrupt is raised from here, for nothing else would get a turn."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Interrupted:
            raise
        except Exception as error:
            future.set_exception(error)
        return future


class Processes(ThreadPoolExecutor):
    """A process of its own for each piece of work, so many at a time as memory allows.

    Until the first one has ended nobody knows what one takes, so it runs alone. A process that
    dies takes no other with it. One that is told to stop, because its input ends, saves first.
    """

    def __init__(self, workers: int):
        super().__init__(workers, thread_name_prefix="peftcore")
        self.workers = workers
        self._turn = threading.Condition()
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._most = 1
        self._closed = False

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a function of a module called with texts; its result must be JSON."""
        assert not kwargs, "texts are given by position"
        return super().submit(self._work, f"{fn.__module__}:{fn.__qualname__}", *args)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End; with ``cancel_futures`` those that run save and stop."""
        if cancel_futures:
            with self._turn:
                self._closed = True
                for child in self._running.values():
                    assert child.stdin is not None
                    child.stdin.close()
                self._turn.notify_all()
        super().shutdown(wait, cancel_futures=cancel_futures)

    def _work(self, function: str, *args: str) -> Any:
        child = self._begin(function, args)
        said: list[bytes] = []
        try:
            # its input stays open: the child takes its end as an order to stop
            with child:
                assert child.stdout is not None and child.stderr is not None
                errors = threading.Thread(target=lambda: said.append(child.stderr.read()))
                errors.start()
                answer = child.stdout.read()
                errors.join()
                code = child.wait()
        finally:
            with self._turn:
                del self._running[id(child)]
                self._turn.notify_all()
        return self._outcome(code, answer, b"".join(said).decode(errors="replace"))

    def _begin(self, function: str, args: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        """Start a process when there is room for one more."""
        with self._turn:
            self._turn.wait_for(lambda: self._closed or len(self._running) < self._most)
            if self._closed:
                raise Interrupted("interrupted before it began.")
            child = subprocess.Popen(
                [sys.executable, "-m", _CHILD, function, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **_threads(self.workers)},
                # Ctrl-C is for the process that knows of all; it ends the input of each
                start_new_session=True,
            )
            self._running[id(child)] = child
            return child

    def _outcome(self, code: int, answer: bytes, errors: str) -> Any:
        if code == Interrupted.exit_code:
            raise Interrupted("it was stopped; its state is saved.")
        if code:
            last = next((line for line in reversed(errors.splitlines()) if line.strip()), "")
            how = f"signal {-code} ended its process" if code < 0 else f"its process ended: {last}"
            spare = " (memory may have run out)" if code == -9 else ""
            raise TrainingError(f"{how}{spare}.")
        found = json.loads(answer)
        with self._turn:
            self._most = min(self.workers, room_for(found["memory"], self._most))
            self._turn.notify_all()
        return found["result"]


def room_for(memory: dict[str, list[int]], before: int) -> int:
    """Return how many processes fit, from what one of them took.

    Args:
        memory: for each kind of memory the bytes that one took and the bytes that there were.
        before: how many ran at a time; what they took is no longer among what there is.
    """
    fits = [int(_SPARE * there / taken) for taken, there in memory.values() if taken]
    return max(1, min(fits, default=before))


def _threads(workers: int) -> dict[str, str]:
    """Return the settings by which processes share the cores, unless the user has said."""
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}


def failure(error: BaseException) -> str:
    """Return what an error says on one line."""
    if isinstance(error, PeftcoreError):
        return str(error).replace("\n", " ")
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
