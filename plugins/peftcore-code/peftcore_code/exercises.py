"""What a row asks for, and the answer that it holds."""

from typing import NamedTuple

from peftcore import DataError
from peftcore_code import diffs
from peftcore_code.prompts import INSTRUCTIONS, Action
from peftcore_train.data import Row

#: Columns that each action reads, and the column of its answer.
INPUTS: dict[str, tuple[str, ...]] = {
    "necessity": ("patch",),
    "comment": ("patch",),
    "refinement": ("old", "comment"),
    "instruction": ("instruction", "input"),
}
TUFANO_INPUTS: dict[str, tuple[str, ...]] = {"comment": ("code",), "refinement": ("old",)}
ANSWERS = {"necessity": "y", "comment": "msg", "refinement": "new", "instruction": "output"}
_TAG = "<add>"


class Exercise(NamedTuple):
    """What is asked.

    Attributes:
        instruction: what to do.
        before: what stands in front of the lines, such as a comment.
        lines: lines of code, of which some at the end may be cut; with what joins them in front.
        joint: what stands between two lines.
        answer: what is to be written; empty where it is not known.
    """

    instruction: str
    before: str
    lines: list[str]
    joint: str
    answer: str

    def given(self, kept: int) -> str:
        """Return the input with its first lines of code."""
        code = self.joint.join(self.lines[:kept])
        return "\n".join(part for part in (self.before, code) if part)


class Reading(NamedTuple):
    """How rows are read.

    Attributes:
        action: what is to be done.
        instruction: what to write in place of the default instruction.
        tags: write lines as CodeReviewer does, in one.
        layout: of which release the rows are; lines of CodeReviewer's ``old`` and ``new`` begin
            with a character of a diff, and some of Tufano's rows have no comment.
    """

    action: Action
    instruction: str | None
    tags: bool
    layout: str | None


def exercise(row: Row, reading: Reading, *, labelled: bool) -> Exercise:
    """Return what a row asks for.

    Args:
        row: the row.
        reading: how to read it.
        labelled: the row has its answer.

    Raises:
        DataError: a column is missing or empty, a diff has no hunk, or a label is none.
    """
    action = reading.action
    if action == "instruction":
        said = row.text("output") if labelled else ""
        return Exercise(row.text("instruction"), "", _input(row).split("\n"), "\n", said)
    asked = reading.instruction or INSTRUCTIONS[action]
    if action == "refinement":
        return _refinement(row, asked, reading, labelled=labelled)
    answer = "" if not labelled else _label(row) if action == "necessity" else row.text("msg")
    return Exercise(asked, "", *_change(row, tags=reading.tags), answer)


def _change(row: Row, *, tags: bool) -> tuple[list[str], str]:
    """Return the lines of a diff, or of Tufano's method whose focus is marked."""
    if "patch" not in row.values and "code" in row.values:
        return row.text("code").split("\n"), "\n"
    lines = diffs.lines_of(row.text("patch"), row.where)
    if tags:
        return [diffs.tagged([line]) for line in lines], ""
    return diffs.plain(lines), "\n"


def _refinement(row: Row, asked: str, reading: Reading, *, labelled: bool) -> Exercise:
    marked = reading.layout == "codereviewer"
    old = _code(row, "old", marked)
    new = _code(row, "new", marked) if labelled else []
    there = reading.layout != "tufano" or "comment" in row.values
    comment = f"Comment: {row.text('comment')}" if there else ""
    if not reading.tags:
        return Exercise(asked, comment, old, "\n", "\n".join(new).strip("\n"))
    old, new = ([_TAG + line.strip() for line in lines] for lines in (old, new))
    return Exercise(asked, comment, old, "", "".join(new))


def _input(row: Row) -> str:
    """Return the input of an instruction, which may be empty."""
    value = row.column("input")
    if not isinstance(value, str):
        raise DataError(f"{row.where}: column 'input' holds {value!r}, which is no text.")
    return value


def _code(row: Row, column: str, marked: bool) -> list[str]:
    code = row.text(column)
    return diffs.unmarked(code) if marked else code.split("\n")


def _label(row: Row) -> str:
    value = row.column("y")
    if isinstance(value, bool) or str(value) not in ("0", "1"):
        raise DataError(
            f"{row.where}: column 'y' holds {value!r}; write 1 where a comment is needed, else 0."
        )
    return "yes" if str(value) == "1" else "no"
