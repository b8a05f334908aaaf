"""Runs on a Ray cluster."""

from peftcore import ExecutorSpec, hookimpl


@hookimpl
def peftcore_register_executors() -> ExecutorSpec:
    """Return the executor of a Ray cluster."""
    return ExecutorSpec(
        name="ray",
        summary="Workers of a Ray cluster, on this machine or on many.",
        executor="peftcore_ray.executor:RayExecutor",
    )
