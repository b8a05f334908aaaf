"""References ``package.module:Name`` of specs, imported when they are first used."""

import importlib
from typing import Any

from peftcore.errors import PluginError


def resolve(reference: str) -> Any:
    """Import what a reference names.

    Raises:
        PluginError: the module or the name cannot be imported.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise PluginError(
            f"{reference} cannot be imported: {type(error).__name__}: {error}."
            " peftcore doctor shows the traceback."
        ) from error
