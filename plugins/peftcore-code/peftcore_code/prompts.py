"""Instructions and how a prompt is written around them."""

from typing import Literal

Action = Literal["necessity", "comment", "refinement", "instruction"]

#: What is asked for; the paper's own wording is not known.
INSTRUCTIONS: dict[str, str] = {
    "necessity": "Decide whether this code change needs a review comment. Answer yes or no.",
    "comment": "Write the review comment that this code change needs.",
    "refinement": "Revise the code as the review comment asks. Answer with the code alone.",
}
_BEGIN = "Below is an instruction that describes a task"
_WITH_INPUT = ", paired with an input that provides further context"
_END = "Write a response that appropriately completes the request."


def alpaca(instruction: str, given: str) -> str:
    """Return a prompt in the layout of Stanford Alpaca, with or without an input."""
    middle = f"\n\n### Input:\n{given}" if given else ""
    begin = f"{_BEGIN}{_WITH_INPUT if given else ''}. {_END}"
    return f"{begin}\n\n### Instruction:\n{instruction}{middle}\n\n### Response:\n"


def turn(instruction: str, given: str) -> str:
    """Return an instruction with its input below, as the turn of a user."""
    return "\n\n".join(part for part in (instruction, given) if part)


def plain(instruction: str, given: str) -> str:
    """Return the same with an empty line below, behind which the answer begins."""
    return f"{turn(instruction, given)}\n\n"
