"""Searches: a run is stopped where its validation score is not worth going on for."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from peftcore_train import rundir
from peftcore_train.signals import Stop


class Pruning(Stop):
    """Asks a run to stop where the user does, or where an epoch's score is judged not good enough.

    Args:
        judge: what is told of each epoch, its score and its number; True ends the run.
        place: the directory of the run.
        metric: the validation metric that is judged.
        outer: what the user asks.

    Attributes:
        pruned: the judge has ended the run.
    """

    def __init__(self, judge: Callable[[float, int], bool], place: Path, metric: str, outer: Stop):
        self.judge, self.outer = judge, outer
        self.metrics, self.metric = place / rundir.METRICS, metric
        self.pruned = False
        self._read = 0

    @property  # type: ignore[override]
    def asked(self) -> bool:
        """Whether the user, or the judge, asks."""
        self._report()
        return self.outer.asked or self.pruned

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal wait, as the outer one does."""
        with self.outer.waiting():
            yield

    def _report(self) -> None:
        """Tell the judge of epochs that have ended since."""
        if not self.metrics.is_file() or self.metrics.stat().st_size <= self._read:
            return
        text = self.metrics.read_bytes()
        new, self._read = text[self._read :], len(text)
        for line in map(json.loads, new.splitlines()):
            score = line.get(f"validation_{self.metric}")
            if score is not None and not self.pruned:
                self.pruned = self.judge(score, line["epoch"])
