"""The errors that users meet; each knows its exit code of the command line."""

import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class PeftcoreError(Exception):
    """Any mistake that peftcore can name: what, where, and what to do."""

    exit_code = 1


class ConfigError(PeftcoreError):
    """A recipe, a configuration or an option is wrong.

    Attributes:
        problems: every problem found, one sentence each.
    """

    exit_code = 2

    def __init__(self, problems: str | Sequence[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class TargetError(ConfigError):
    """Targets, layers or module names that the model does not have."""


class UnknownName(ConfigError):
    """A method, backbone, task, source or command that no installed plugin provides."""

    exit_code = 3


class PluginError(PeftcoreError):
    """A plugin is broken, incompatible or in conflict with another."""

    exit_code = 3


class AttachError(PeftcoreError):
    """An adapter cannot be put on, switched on or taken off this model."""


class DeadPieceError(AttachError):
    """A piece was attached but never ran or never got a gradient."""


class MergeError(PeftcoreError):
    """Weights cannot be merged, or cannot be given back."""


class CheckpointError(PeftcoreError):
    """A checkpoint cannot be written, read, or put on this model."""


class DataError(PeftcoreError):
    """A data file is missing, empty, damaged, or does not fit the task."""

    exit_code = 2


#: Packages in whose code an error may show, and is not made.
_MESSENGERS = {*sys.stdlib_module_names, "peftcore", "pluggy", "pydantic", "torch"}


def first_line(error: BaseException) -> str:
    """Return what an error of someone else's code says, on one line, with where it was made."""
    where, trace = "", error.__traceback__
    while trace is not None:
        frame, line = trace.tb_frame, trace.tb_lineno
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _MESSENGERS:
            file = frame.f_code.co_filename.replace("\\", "/").rpartition("/")[2]
            where = f" ({file}:{line})"
        trace = trace.tb_next
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}{': ' if text else ''}{text.rstrip('.')}{where}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean X?`` for the nearest known name, or an empty string."""
    matches = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {matches[0]}?" if matches else ""
