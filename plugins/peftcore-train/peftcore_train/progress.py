"""What a run says while it runs: a bar on a terminal, lines elsewhere; all of it on stderr."""

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from peftcore_train.rundir import append


class Progress:
    """Says how a run goes, on stderr and in its log.

    Attributes:
        quiet: say nothing on stderr.
        log: file that every line also goes to.
        silent: say nothing at all, as all processes but the first.
    """

    def __init__(self, *, quiet: bool = False, log: Path | None = None):
        self.quiet = quiet
        self.log = log
        self.silent = False
        self._bar: Any = None

    @property
    def _terminal(self) -> bool:
        return sys.stderr.isatty() and not self.quiet and not self.silent

    def say(self, line: str) -> None:
        """Say a line."""
        if self.silent:
            return
        if self.log is not None:
            append(self.log, line + "\n")
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Open a bar of optimiser steps, on a terminal."""
        if self._terminal:
            self._bar = tqdm(total=total, initial=done, desc=what, file=sys.stderr, leave=False)

    def step(self, loss: float) -> None:
        """Move the bar on."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def line(self, text: str) -> None:
        """Say how a step went, where there is no bar to show it."""
        if self._bar is None:
            self.say(text)

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def shown(scores: dict[str, float]) -> str:
    """Return scores for a line; those of single classes, ``f1.3``, are left to the files."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if "." not in name)
