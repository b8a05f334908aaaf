"""Large JSON files, one item of a list or of an object at a time, in little memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from peftcore import DataError

_BLANKS = " \t\r\n"
_CHUNK = 1 << 16
#: Characters beyond which an item is taken to lack its end.
_LONGEST = 1 << 26


class Item(NamedTuple):
    """One item: its name (its number in a list), its value, and where it begins."""

    name: str
    value: Any
    where: str


def json_items(path: Path, inside: str | None = None) -> Iterator[Item | DataError]:
    """Yield the items of a JSON list or object; a :class:`DataError` ends them where it is damaged.

    Args:
        path: the file, in UTF-8.
        inside: name of the outermost object's member that holds the items.

    Raises:
        DataError: there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        stream = _Stream(file, path.name)
        try:
            yield from stream.items() if inside is None else stream.items_of(inside)
        except UnicodeDecodeError:
            yield DataError(f"{path.name}: not UTF-8 behind line {stream.line}. Save it as UTF-8.")
        except DataError as error:
            yield error


class _Stream:
    """A JSON text of which a part is held."""

    def __init__(self, file: TextIO, name: str):
        self.file, self.name = file, name
        self.text, self.at, self.line = "", 0, 1
        self.ended = False
        self.decoder = json.JSONDecoder()

    def items(self) -> Iterator[Item]:
        """Yield the items of the list or object that comes next."""
        opening = self.next_of("[{")
        closing = "]" if opening == "[" else "}"
        number = 0
        while self.peek() != closing:
            if number:
                self.next_of(",")
            line = self.line_here()
            name = str(number) if opening == "[" else self.key()
            yield Item(name, self.value(), f"{self.name}:{line}")
            number += 1
        self.next_of(closing)

    def items_of(self, member: str) -> Iterator[Item]:
        """Yield the items of one member of the object that comes next."""
        self.next_of("{")
        while self.key() != member:
            self.value()
            if self.peek() == "}":
                raise DataError(f"{self.name}: the object has no {member!r}; is it another file?")
            self.next_of(",")
        yield from self.items()

    def key(self) -> str:
        """Return the name that comes next, with the colon behind it."""
        if self.peek() != '"':
            raise self.damaged("expecting a name in double quotes", self.at)
        name = str(self.value())
        self.next_of(":")
        return name

    def value(self) -> Any:
        """Return the value that comes next."""
        self.peek()
        while True:
            try:
                found, end = self.decoder.raw_decode(self.text, self.at)
            except RecursionError:
                raise self.damaged("lists or objects within one another", self.at) from None
            except json.JSONDecodeError as error:
                if self.ended or not self._cut(error):
                    raise self.damaged(error.msg.lower(), error.pos) from None
            else:
                if end < len(self.text) or self.ended:
                    self.at = end
                    return found
            if len(self.text) - self.at > _LONGEST:
                raise self.damaged("an item without an end", self.at)
            self._more(max(_CHUNK, len(self.text) - self.at))

    def next_of(self, wanted: str) -> str:
        """Take one of some characters."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.damaged(f"expecting {' or '.join(wanted)}", self.at)
        self.at += 1
        return found

    def peek(self) -> str:
        """Return the character that comes next, blanks aside; none at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _BLANKS:
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self._more(_CHUNK)

    def line_here(self) -> int:
        """Return the line of what comes next."""
        self.peek()
        return self._line_of(self.at)

    def damaged(self, reason: str, place: int) -> DataError:
        """Return the sentence for what is no JSON."""
        where = f"{self.name}:{self._line_of(place)}"
        return DataError(f"{where}: not readable as JSON: {reason}. Fetch the file anew.")

    def _cut(self, error: json.JSONDecodeError) -> bool:
        """Tell whether an error may be due to what has not been read yet."""
        return error.msg.startswith("Unterminated") or error.pos >= len(self.text) - 8

    def _line_of(self, place: int) -> int:
        return self.line + self.text.count("\n", 0, place)

    def _more(self, size: int) -> None:
        """Read on, and forget what was taken."""
        self.line += self.text.count("\n", 0, self.at)
        read = self.file.read(size)
        self.text, self.at = self.text[self.at :] + read, 0
        self.ended = not read
