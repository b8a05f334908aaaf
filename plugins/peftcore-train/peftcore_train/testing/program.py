"""Running the program, and comparing what it says."""

import io
import math
import re
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from peftcore.testing import run_in_process
from peftcore_train.progress import Progress


def printed(*arguments: str | Path, **options: Any) -> str:
    """Run the program, which must do well, and return what it printed."""
    done = run_in_process(*arguments, **options)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def refused(*arguments: str | Path, **options: Any) -> str:
    """Run the program, which must refuse its input, and return its one error.

    There may be warnings besides.
    """
    done = run_in_process(*arguments, **options)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line.removeprefix("error: ")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def bars_of(work: Callable[[], Any]) -> dict[str, str]:
    """Return what the bars are called that a terminal shows while some work goes on.

    Returns:
        The name of each to how many there are of what it counts, such as ``12 files``.
    """
    with redirect_stderr(_Terminal()) as shown, Progress().doing("the work"):
        work()
    # such as "listing toy:   0%|          | 0/12 [00:00<?, ? files/s]"
    found = re.findall(r"\r([^\r|]+): +0%\|[^|]*\| 0/(\d+) \[[^]]*\? (\S+)/s", shown.getvalue())
    return {name: f"{count} {unit}" for name, count, unit in found}


def close(left: Any, right: Any) -> bool:
    """Tell whether two answers are the same, numbers to five digits."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(close(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(close, left, right))
    if isinstance(left, float) and isinstance(right, float):
        both_nan = math.isnan(left) and math.isnan(right)
        return both_nan or math.isclose(left, right, rel_tol=1e-5, abs_tol=1e-6)
    return bool(left == right)
