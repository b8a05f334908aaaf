"""What the environment says of plugins, and which distributions this project has."""

import os

#: Environment variables that switch plugins off, and that name modules to use as plugins.
DISABLE, IN_PROCESS = "PEFTCORE_DISABLE_PLUGINS", "PEFTCORE_PLUGINS"
#: Environment variable that names the distributions whose names win over those of others.
PREFER = "PEFTCORE_PREFER"


def disabled_plugins() -> set[str]:
    """Return what the environment variable names: entry points, distributions or ``all``."""
    return set(named_in(DISABLE))


def preferred_plugins() -> set[str]:
    """Return the distributions that the environment variable prefers."""
    return set(named_in(PREFER))


def homes(kind: str) -> dict[str, str]:
    """Return the names of a kind that distributions of this project bring, each with its home.

    What a user typed is never made into the name of a package to install.
    """
    import json
    from importlib.resources import files

    index = json.loads(files("peftcore.registry").joinpath("index.json").read_text("utf-8"))
    found: dict[str, str] = index.get(kind, {})
    return found


def named_in(variable: str) -> list[str]:
    """Return the names that an environment variable lists."""
    return [n for name in os.environ.get(variable, "").split(",") if (n := name.strip())]
