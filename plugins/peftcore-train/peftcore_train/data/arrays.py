"""Rows of ``.json``: one array of objects, read piece by piece."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftcore import DataError
from peftcore_train.data.lines import Found
from peftcore_train.data.rows import Row

#: Characters that are read at a time.
_PIECE = 1 << 16
_BLANKS = re.compile(r"[ \t\r\n]*")


def array(path: Path) -> Found:
    """Read an array of objects; the place of a row is the line where its object begins.

    What stands behind damage in a file is not read: nothing tells where the next object begins.
    """
    text = _Text(path)
    try:
        if text.peek() != "[":
            yield DataError(f"{path.name}:{text.line}: a list of rows is needed: [{{...}}, ...].")
            return
        yield from _objects(text, path)
    except UnicodeDecodeError as error:
        yield DataError(f"{path.name}: not UTF-8, from line {text.line} on: {error.reason}.")
    except (OSError, EOFError, zlib.error) as error:
        yield DataError(f"{path.name}: not readable as gzip: {error}.")
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", str(error)).lower()
        yield DataError(f"{path.name}:{text.line}: not readable as JSON: {reason}.")
    finally:
        text.close()


def _objects(text: "_Text", path: Path) -> Iterator[Row | DataError]:
    text.take("[")
    if text.peek() == "]":
        return
    while True:
        text.peek()
        where = f"{path.name}:{text.line}"
        value = text.value()
        if isinstance(value, dict):
            yield Row(value, where, str(path.parent))
        else:
            yield DataError(f"{where}: a row is a JSON object, not {type(value).__name__}.")
        if text.peek() == "]":
            return
        text.take(",")


class _Text:
    """A file of which no more than a piece beyond the next value is held."""

    def __init__(self, path: Path):
        packed = path.suffix == ".gz"
        self._file = (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig")
        self._decoder = json.JSONDecoder()
        self._held, self._at = "", 0
        self.line = 1

    def close(self) -> None:
        self._file.close()

    def peek(self) -> str:
        """Return the next character that is no blank, or nothing at the end."""
        while True:
            blanks = _BLANKS.match(self._held, self._at)
            self._go_to(blanks.end() if blanks else self._at)
            if self._at < len(self._held) or not self._more():
                return self._held[self._at : self._at + 1]

    def take(self, wanted: str) -> None:
        """Go beyond a character.

        Raises:
            ValueError: another one stands there.
        """
        found = self.peek()
        if found != wanted:
            has = f"{found!r} stands where" if found else "the file ends where"
            raise ValueError(f"{has} {wanted!r} was expected")
        self._go_to(self._at + 1)

    def value(self) -> Any:
        """Return the next value.

        Raises:
            ValueError: there is none.
        """
        size = _PIECE
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._at)
            except json.JSONDecodeError:
                if not self._more(size):
                    raise
                size *= 2  # so that a long value is not tried once for each piece
                continue
            # a number may go on in the next piece
            if end < len(self._held) or not self._more():
                self._go_to(end)
                return value

    def _more(self, size: int = _PIECE) -> bool:
        piece = self._file.read(size)
        self._held, self._at = self._held[self._at :] + piece, 0
        return bool(piece)

    def _go_to(self, end: int) -> None:
        self.line += self._held.count("\n", self._at, end)
        self._at = end
