"""Which answer a generated text gives, and whether it is right, as each of the two papers says.

Compared with the authors' scripts: LoReFT's ``compute_metrics.py``, and ``evaluate.py`` and
``commonsense_evaluate.py`` of LLM-Adapters.
"""

import math
import re
from typing import Literal

from peftcore_reasoning.sets import LETTERS, NUMBERS, RESPONSE, TRIGGER, Answers, is_number

Paper = Literal["loreft", "llm_adapters"]

#: How far a number may be from the right one.
_MISS = 0.001


def answer_in(text: str, answers: Answers | None, paper: Paper) -> str:
    """Return the answer that a generated text gives, empty where it gives none.

    LoReFT takes for a choice all that follows "the correct answer is ", LLM-Adapters the first of
    the set's words anywhere. Both take the last number, commas aside, and the first letter from A
    to E, whatever word it is part of.

    Args:
        text: what was generated, without the prompt.
        answers: of the set; None where only the whole text can be compared.
        paper: whose rule.
    """
    if paper == "llm_adapters":
        text = text.split(RESPONSE)[0].strip()
    if answers is not None and answers.kind == "number":
        found = NUMBERS.findall(text.replace(",", ""))
        return found[-1] if found else ""
    if answers is not None and (answers is LETTERS or paper == "llm_adapters"):
        first = re.search(answers.pattern, text.strip())
        return first[0] if first else ""
    if answers is None:
        return text.strip()
    _, trigger, behind = text.partition(TRIGGER)
    return behind.strip() if trigger else ""


def is_right(found: str, gold: str, answers: Answers | None) -> bool:
    """Tell whether an answer is the right one: the same text, or a number within 0.001.

    Args:
        found: what :func:`answer_in` returns.
        gold: the set's answer; of one with ``####``, as GSM8K is released, what stands behind.
        answers: of the set.
    """
    gold = gold.rpartition("####")[2].strip()
    if answers is None or answers.kind != "number":
        return found == gold
    wanted = gold.replace(",", "")
    return is_number(wanted) and abs(float(wanted) - float(found or math.inf)) <= _MISS
