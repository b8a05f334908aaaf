"""What commands of plugins do, as functions of Python."""

from collections.abc import Callable
from typing import Any

from peftcore.errors import PeftcoreError
from peftcore.registry.installed import installed


def function_of(command: str) -> Callable[..., Any]:
    """Return the function that does in Python what a command does in a shell.

    Raises:
        AttributeError: no installed plugin provides it; the sentence names the one that does.
    """
    try:
        spec = installed().find("commands", command)
        if spec.function:
            found: Callable[..., Any] = installed().resolve("commands", command, "function")
            return found
    except PeftcoreError as error:
        raise AttributeError(f"peftcore.{command}: {error}") from error
    raise AttributeError(f"{installed().whose('commands', command)} is for the shell alone.")
