"""How instructions are written, as the authors wrote them, and without what slipped in."""

from typing import Literal

Style = Literal["clean", "llm_adapters_verbatim", "plain"]

_TASK = "Below is an instruction that describes a task"
_PAIRED = ", paired with an input that provides further context"
_WRITE = ". Write a response that appropriately completes the request."
#: What the authors' editor put before every line but the first of a text of several lines.
_BLANKS = " " * 16


def prompt_of(instruction: str, given: str, style: Style, *, training: bool) -> str:
    """Return what an answer follows.

    ``clean`` is Alpaca's template, which LoReFT has for arithmetic and instructions. ``plain`` is
    the instruction and a line break, LoReFT's for commonsense. ``llm_adapters_verbatim`` is what
    LLM-Adapters and DoRA trained and scored with: each line but the first begins with 16 blanks,
    and the blanks behind "request." and in empty lines differ between training and scoring.

    Args:
        instruction: the instruction.
        given: what it is about; may be empty.
        style: which of the three.
        training: for a row that is learned; only ``llm_adapters_verbatim`` tells.
    """
    if style == "plain":
        return f"{instruction}\n{given}\n" if given else f"{instruction}\n"
    if style == "clean":
        parts = [_TASK + (_PAIRED if given else "") + _WRITE, f"### Instruction:\n{instruction}"]
        parts += [f"### Input:\n{given}"] if given else []
        return "\n\n".join([*parts, "### Response:\n"])
    return _verbatim(instruction, given, training=training)


def _verbatim(instruction: str, given: str, *, training: bool) -> str:
    behind = " " * (bool(training) + (not given))
    between = _BLANKS if training else ""
    lines = [_TASK + (_PAIRED if given else "") + _WRITE + behind, ""]
    lines += [f"{_BLANKS}### Instruction:", f"{_BLANKS}{instruction}", between]
    if given:
        lines += [f"{_BLANKS}### Input:", f"{_BLANKS}{given}", between]
    return "\n".join([*lines, f"{_BLANKS}### Response:", _BLANKS])
