"""Diffs: the lines of their hunks, and CodeReviewer's tags for them."""

from typing import NamedTuple

from peftcore import DataError

#: What CodeReviewer writes in front of a line, by its first character in a diff (Li et al. 2022).
_TAGS = {"+": "<add>", "-": "<del>", " ": "<keep>"}
_NO_NEWLINE = "\\ No newline at end of file"


class Line(NamedTuple):
    """A line of a hunk: ``+``, ``-`` or a blank, and the text behind it."""

    mark: str
    text: str


def lines_of(diff: str, where: str) -> list[Line]:
    """Return the lines of a diff's hunks; headers and lines of blanks are left out.

    Args:
        diff: a unified diff of one file, from its first ``@@`` on or with headers before it.
        where: file and line of the row, for messages.

    Raises:
        DataError: there is no hunk, or nothing in it.
    """
    lines = diff.replace("\r\n", "\n").split("\n")
    begins = next((i for i, line in enumerate(lines) if line.startswith("@@")), None)
    if begins is None:
        raise DataError(
            f"{where}: the diff has no hunk: no line begins with @@. Give the hunk with its @@"
            " line, or leave out rows of binary files and of renames."
        )
    kept = [line for line in lines[begins:] if _is_code(line)]
    if not kept:
        raise DataError(f"{where}: the hunk of the diff has no line. Leave the row out.")
    return [_parted(line) for line in kept]


def tagged(lines: list[Line]) -> str:
    """Return lines as CodeReviewer writes them: a tag in front of each, no blanks at its ends."""
    return "".join(_TAGS[line.mark] + line.text.strip() for line in lines)


def plain(lines: list[Line]) -> list[str]:
    """Return lines as a diff has them."""
    return [line.mark + line.text for line in lines]


def unmarked(code: str) -> list[str]:
    """Return lines of code without the first character that a diff gave each of them."""
    return [line[1:] for line in code.replace("\r\n", "\n").split("\n")]


def untagged(text: str) -> str:
    """Return a text without tags, as it is scored."""
    for tag in _TAGS.values():
        text = text.replace(tag, " ")
    return text


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.startswith("@@") and line != _NO_NEWLINE


def _parted(line: str) -> Line:
    # like CodeReviewer, which takes what begins otherwise for context and drops its first letter
    return Line(line[0] if line[0] in _TAGS else " ", line[1:])
