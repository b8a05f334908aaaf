"""What long work says while it runs: a bar on a terminal, lines elsewhere; all of it on stderr."""

import os
import sys
import threading
import time
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from peftcore_train.rundir import append

T = TypeVar("T")

#: Seconds until work without a bar says that it has begun, and between its further lines.
_SOON, _EVERY = 1.0, 5.0
#: Seconds below which work is too short to be told on stderr.
_SHORT = 0.1


class Progress:
    """Says how work goes, on stderr and in the log of a run.

    Attributes:
        quiet: say nothing on stderr.
        log: file that every line also goes to, with the time of day.
        silent: say nothing at all, as all processes but the first.
    """

    def __init__(self, *, quiet: bool = False, log: Path | None = None):
        self.quiet = quiet
        self.log = log
        self.silent = int(os.environ.get("RANK", 0)) > 0
        self._bar: Any = None
        self._counting = False

    @property
    def _has_bars(self) -> bool:
        return not self.quiet and not self.silent and (sys.stderr.isatty() or _in_notebook())

    def say(self, line: str) -> None:
        """Say a line."""
        self._note(line)
        self._print(line)

    def line(self, text: str) -> None:
        """Say how a step went; where a bar shows it, in the log alone."""
        self._note(text)
        if self._bar is None:
            self._print(text)

    def _note(self, text: str) -> None:
        if self.log is not None and not self.silent:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            append(self.log, "".join(f"{now} {line}\n" for line in text.split("\n")))

    def _print(self, text: str) -> None:
        if self.quiet or self.silent:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say how long some work took and, while it takes long, that it goes on."""
        began = time.monotonic()
        self._note(what)
        ended = threading.Event()
        thread = threading.Thread(target=self._remind, args=(what, began, ended), daemon=True)
        thread.start()
        before = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(before)
            ended.set()
            thread.join()
        self._ended(what, began)

    def _ended(self, what: str, began: float) -> None:
        took = time.monotonic() - began
        self._note(f"{what}: {took:.1f} s")
        if took >= _SHORT:
            self._print(f"{what}: {took:.1f} s")

    def _remind(self, what: str, began: float, ended: threading.Event) -> None:
        # to stderr alone: a full disk is for the main thread to find
        wait = _SOON
        while not ended.wait(wait):
            if not self._counting:  # what is counted says more
                self._print(f"{what}: {time.monotonic() - began:.0f} s ...")
            wait = _EVERY

    def counted(
        self, items: Iterable[T], what: str, total: int, *, unit: str = "rows", ends: bool = True
    ) -> Iterator[T]:
        """Yield items, with a bar or now and then a line that says how many are left.

        Args:
            items: the items.
            what: what is done to them.
            total: how many there are.
            unit: what they are.
            ends: whether to say in the end how long it took.
        """
        began = said = time.monotonic()
        bars = self._has_bars
        bar = _bar(what, total, 0, f" {unit}") if bars else None
        self._counting = True
        try:
            for count, item in enumerate(items):
                now = time.monotonic()
                if bar is None and now - said > _EVERY and count:
                    left = remaining(now - began, count, total)
                    self.say(f"{what}: {count:,} of {total:,} {unit}, {left} left")
                    said = now
                yield item
                if bar is not None:
                    bar.update()
        finally:
            self._counting = False
            if bar is not None:
                bar.close()
        if ends:
            self._ended(f"{what} {total:,} {unit}", began)

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """Open a bar of optimiser steps, where there are bars."""
        if self._has_bars:
            self._bar = _bar(what, total, done, " steps")

    def step(self, loss: float) -> None:
        """Move the bar on; the loss is the last one that is known."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update()

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


_CURRENT: ContextVar[Progress | None] = ContextVar("current", default=None)


def going_over(items: Collection[T], what: str, *, unit: str = "rows") -> Generator[T, None, None]:
    """Yield items; how many are left is said where the work is told of by :meth:`Progress.doing`.

    It is for readers of data, which do not know who tells of them. Of work inside of such work
    nothing is said.

    Args:
        items: the items.
        what: what is done to them.
        unit: what they are.
    """
    current = _CURRENT.get()
    if current is None or current._counting:
        yield from items
    else:
        yield from current.counted(items, what, len(items), unit=unit, ends=False)


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _bar(what: str, total: int, done: int, unit: str) -> Any:
    kind: Any = tqdm
    if _in_notebook():
        from tqdm.auto import tqdm as kind
    return kind(
        total=total, initial=done, desc=what, unit=unit, file=sys.stderr, leave=False,
        dynamic_ncols=True,
    )  # fmt: skip


def remaining(seconds: float, done: int, total: int) -> str:
    """Return the time that is left, as ``1:05:09`` or ``5:09``, at the pace so far."""
    left = round(seconds / max(1, done) * max(0, total - done))
    minutes, rest = divmod(left, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def shown(scores: dict[str, float]) -> str:
    """Return scores for a line; those of single classes, ``f1.3``, are left to the files."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if "." not in name)
