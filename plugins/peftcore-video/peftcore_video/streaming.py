"""Large JSON files, item by item: one item is in memory at a time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftcore import DataError

#: Characters that are read at once, and the most that one item may have.
_CHUNK, _MOST = 1 << 16, 1 << 24


def items(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield the items of a JSON object: its key, a value, and where that stands.

    A value that is a list is yielded element by element, under the same key.

    Args:
        path: a file of one JSON object.

    Raises:
        DataError: it is not there, is no JSON object, or is damaged; the line is named.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Reader(file, path.name).object()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name}: not UTF-8: {error.reason}.") from None


class _Reader:
    """A window of a file that moves on."""

    def __init__(self, file: Any, name: str):
        self.file = file
        self.name = name
        self.text = ""
        self.at = 0
        self.line = 1
        self.ended = False

    def object(self) -> Iterator[tuple[str, Any, str]]:
        """Yield what :func:`items` does."""
        self._take("{")
        while self._next() != "}":
            key = self._value()
            if not isinstance(key, str):
                raise self._wrong("a key is a text in quotes")
            self._take(":")
            if self._next() == "[":
                yield from ((key, value, where) for value, where in self._array())
            else:
                self._next()
                where = f"{self.name}:{self.line}"
                yield key, self._value(), where
            self._comma("}")
        self._take("}")
        if self._next():
            raise self._wrong("there is more behind the end of the object")

    def _array(self) -> Iterator[tuple[Any, str]]:
        self._take("[")
        while self._next() != "]":
            where = f"{self.name}:{self.line}"
            yield self._value(), where
            self._comma("]")
        self._take("]")

    def _comma(self, end: str) -> None:
        if self._next() != end:
            self._take(",")
            if self._next() == end:
                raise self._wrong("a comma stands before the end")

    def _take(self, mark: str) -> None:
        if (found := self._next()) != mark:
            raise self._wrong(f"{mark} is expected, not {found or 'the end of the file'}")
        self.at += 1

    def _next(self) -> str:
        """Return the next character that is no blank; nothing at the end of the file."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.line += self.text[self.at] == "\n"
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        """Return the value that begins here; more is read until it is whole."""
        self._next()
        while True:
            try:
                value, end = json.JSONDecoder().raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as error:
                behind = getattr(error, "pos", self.at) - self.at
                if len(self.text) - self.at > _MOST or not self._more():
                    self.line += self.text.count("\n", self.at, self.at + behind)
                    reason = getattr(error, "msg", str(error)).lower()
                    raise self._wrong(reason) from None
                continue
            # a number goes on in what has not been read
            if end == len(self.text) and self._more():
                continue
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            return value

    def _more(self) -> bool:
        if self.ended:
            return False
        chunk = self.file.read(max(_CHUNK, len(self.text) - self.at))
        self.ended = not chunk
        self.text, self.at = self.text[self.at :] + chunk, 0
        return not self.ended

    def _wrong(self, reason: str) -> DataError:
        return DataError(f"{self.name}:{self.line}: not readable as JSON: {reason}.")
