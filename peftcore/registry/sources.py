"""Named sources of weights and data, and where they lie."""

from collections.abc import Callable
from typing import Any

from peftcore.errors import ConfigError
from peftcore.registry.installed import installed


def resolve_source(name: str, kind: str) -> Any:
    """Return the local path of a named source, or None when the name is not a source's.

    Args:
        name: ``samples/minilm``, or anything else, such as a path.
        kind: ``"model"`` or ``"data"``.
    """
    spec = installed().sources.get(name)
    if spec is None:
        prefixes = {known.split("/")[0] for known in installed().sources if "/" in known}
        if name.split("/")[0] in prefixes | {"samples"} and "/" in name:
            from pathlib import Path

            if not Path(name).exists():
                installed().find("sources", name)
        return None
    if spec.kind != kind:
        raise ConfigError(f"source {name!r} is {spec.kind}, not {kind}.")
    function: Callable[[], Any] = installed().resolve("sources", name, "resolve")
    return function()
