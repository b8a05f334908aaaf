"""An executor on Ray: every piece of work in a process of its own, placed by Ray."""

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import ray

from peftcore import ConfigError, PeftcoreError, resolve
from peftcore_train.errors import Interrupted, TrainingError

#: Environment variables that say what one run needs.
CPUS, GPUS = "PEFTCORE_RAY_CPUS", "PEFTCORE_RAY_GPUS"
#: Seconds in which runs that are told to stop must have saved.
_PATIENCE = 30


class RayExecutor(Executor):
    """Work on a Ray cluster: the one that ``RAY_ADDRESS`` names, or one of this machine alone.

    Raises:
        ConfigError: what one run needs is no number.
        TrainingError: the cluster does not answer.
    """

    def __init__(self, workers: int):
        needs = {"num_cpus": _number(CPUS, 1.0)}
        self._began = not ray.is_initialized()
        if self._began:
            _begin(workers, needs["num_cpus"])
        there = ray.cluster_resources().get("GPU", 0)
        needs["num_gpus"] = _number(GPUS, 1.0 if there else 0.0)
        # a process for one piece of work: its peak of memory is its own, and so is its end
        self._call = ray.remote(max_calls=1, max_retries=0, **needs)(call)
        self._running: list[Any] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a function of a module called with texts; its result must be JSON."""
        assert not kwargs, "texts are given by position"
        reference = self._call.remote(f"{fn.__module__}:{fn.__qualname__}", list(args))
        self._running.append(reference)
        outer: Future[Any] = Future()
        reference.future().add_done_callback(lambda inner: _settle(inner, outer))
        return outer

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End; with ``cancel_futures`` those that run save and stop."""
        if not ray.is_initialized():
            return
        if cancel_futures:
            for reference in self._running:
                ray.cancel(reference)  # which is Ctrl-C for the worker
        if wait and self._running:
            timeout = _PATIENCE if cancel_futures else None
            ray.wait(self._running, num_returns=len(self._running), timeout=timeout)
        self._running.clear()
        if self._began:
            ray.shutdown()


def call(function: str, args: list[str]) -> dict[str, Any]:
    """Call a function in a worker; errors of ours come back as their sentence."""
    try:
        return {"result": resolve(function)(*args)}
    except PeftcoreError as error:
        return {"exit_code": error.exit_code, "error": str(error)}


def _begin(workers: int, cpus: float) -> None:
    address = os.environ.get("RAY_ADDRESS")
    # a cluster that runs has its own numbers
    own = {} if address else {"num_cpus": max(1, round(workers * cpus)), "include_dashboard": False}
    ours = {name: text for name, text in os.environ.items() if name.startswith("PEFTCORE_")}
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            runtime_env={"env_vars": ours} if ours else None,
            **own,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise TrainingError(
            f"the Ray cluster {address or 'here'} does not answer: {error}"
        ) from error


def _settle(inner: Future[Any], outer: Future[Any]) -> None:
    """Give what came back from a worker to whoever waits."""
    error = inner.exception()
    if isinstance(error, ray.exceptions.TaskCancelledError):
        outer.set_exception(Interrupted("it was stopped; its state is saved."))
    elif error is not None:
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        what = f"{type(error).__name__}: {first}".rstrip(".: ")
        outer.set_exception(TrainingError(f"its worker ended: {what}."))
    elif (found := inner.result()).get("exit_code") == Interrupted.exit_code:
        outer.set_exception(Interrupted(found["error"]))
    elif "error" in found:
        outer.set_exception(TrainingError(found["error"]))
    else:
        outer.set_result(found["result"])


def _number(name: str, default: float) -> float:
    text = os.environ.get(name)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = -1.0
    if value < 0:
        raise ConfigError(f"{name}={text}: what one run needs is a number of at least 0.")
    return value
