"""References ``package.module:Name`` of specs, imported when they are first used."""

import importlib
from typing import Any

from peftcore.errors import PluginError, first_line, nearest


def resolve(reference: str) -> Any:
    """Import what a reference names.

    Raises:
        PluginError: the module or the name cannot be imported.
    """
    module, _, name = reference.partition(":")
    found: object = None
    try:
        found = importlib.import_module(module)
        return getattr(found, name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        near = nearest(name, vars(found)) if found is not None else ""
        raise PluginError(
            f"{reference} cannot be imported: {first_line(error)}.{near}"
            " peftcore doctor shows the traceback."
        ) from error
