"""Answers in what models write, against a table that the authors' own functions filled in."""

import json
from pathlib import Path

import pytest

from peftcore_reasoning.extraction import answer_in, is_right
from peftcore_reasoning.prompts import prompt_of
from peftcore_reasoning.sets import SETS, answers_like

#: Made-up outputs; of each paper the answer that its scripts find, and whether they count it right.
OUTPUTS = [
    json.loads(line)
    for line in (Path(__file__).parent / "outputs.jsonl").read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("paper", ["loreft", "llm_adapters"])
def test_answers_are_those_that_the_authors_scripts_find(paper: str) -> None:
    assert len(OUTPUTS) >= 100 and {row["set"] for row in OUTPUTS} == set(SETS)
    for row in OUTPUTS:
        answers = SETS[row["set"]]
        found = answer_in(row["text"], answers, paper)
        assert [found, is_right(found, row["gold"], answers)] == row[paper], row


def test_rows_of_a_mixture_are_told_by_their_answer() -> None:
    known = {"12.0": "number", "-3": "number", "C": "letter", "ending2": "choice"}
    for answer, kind in known.items():
        answers = answers_like(answer)
        assert answers is not None and answers.kind == kind
    assert answers_like("Paris") is None
    assert answer_in(" Paris\n", None, "loreft") == "Paris"


def test_the_gold_of_gsm8k_stands_behind_its_mark() -> None:
    assert is_right("1250", "so he has 2\n#### 1,250", SETS["gsm8k"])


def test_prompts_are_those_of_the_papers() -> None:
    head = "Below is an instruction that describes a task. Write a response that appropriately"
    clean = prompt_of("Add.", "", "clean", training=True)
    assert clean == f"{head} completes the request.\n\n### Instruction:\nAdd.\n\n### Response:\n"
    assert prompt_of("Add.", "", "plain", training=True) == "Add.\n"
    b = " " * 16
    learned = prompt_of("Add.", "1 2", "llm_adapters_verbatim", training=True)
    asked = prompt_of("Add.", "1 2", "llm_adapters_verbatim", training=False)
    assert learned.startswith("Below is an instruction that describes a task, paired with an input")
    assert f"request. \n\n{b}### Instruction:\n{b}Add.\n{b}\n{b}### Input:" in learned
    assert f"request.\n\n{b}### Instruction:\n{b}Add.\n\n{b}### Input:" in asked
    assert learned.endswith(f"\n{b}\n{b}### Response:\n{b}")
