"""Running the program, and comparing what it says."""

import math
from pathlib import Path
from typing import Any

from peftcore.testing import run_in_process


def printed(*arguments: str | Path, **options: Any) -> str:
    """Run the program, which must do well, and return what it printed."""
    done = run_in_process(*arguments, **options)
    assert done.exit_code == 0, f"{done.output}{done.exception!r}"
    return done.stdout


def refused(*arguments: str | Path, **options: Any) -> str:
    """Run the program, which must refuse its input, and return its one sentence."""
    done = run_in_process(*arguments, **options)
    assert done.exit_code == 2, f"{done.output}{done.exception!r}"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.endswith(f"{line}\n"), done.stderr
    return line.removeprefix("error: ")


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
