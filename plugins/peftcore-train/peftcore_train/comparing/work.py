"""What an executor is given to do: train in one directory. Imports no torch before it does."""

from pathlib import Path
from typing import Any

from peftcore_train import experiment, rundir
from peftcore_train.comparing.executors import failure
from peftcore_train.errors import Interrupted
from peftcore_train.progress import Progress


def train(folder: str) -> dict[str, Any]:
    """Train, or go on with, what the recipe in a directory says.

    Returns:
        Nothing, or ``failed`` with a sentence; the results lie in the directory.

    Raises:
        Interrupted: it was told to stop, and has saved.
    """
    place = Path(folder)
    progress = Progress(quiet=True)
    try:
        experiment.resume(place, progress)
    except Interrupted:
        raise
    except Exception as error:
        # whatever it is, the other runs shall go on; what is not ours has its traceback in the log
        import traceback

        sentence = failure(error)
        rundir.append(place / rundir.LOG, f"{traceback.format_exc()}\n")
        return {experiment.FAILED: sentence}
    return {}
