"""The sets of LLM-Adapters: their answers, and where they lie. Imports no torch.

Hu et al. 2023, https://arxiv.org/abs/2304.01933; LoReFT (Wu et al. 2024) and DoRA (Liu et al. 2024)
train and score on the same files.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from peftcore import DataError, nearest
from peftcore_train.data import Row, read_all

SetName = Literal[
    "boolq", "piqa", "social_i_qa", "hellaswag", "winogrande", "ARC-Easy", "ARC-Challenge",
    "openbookqa", "MultiArith", "gsm8k", "SVAMP", "mawps", "AddSub", "AQuA", "SingleEq",
]  # fmt: skip
Kind = Literal["choice", "letter", "number"]

#: Sets whose items are part of MAWPS, from which the training set math_10k draws.
INSIDE_MAWPS: tuple[SetName, ...] = ("AddSub", "MultiArith", "SingleEq")
#: Training sets that hold items of MAWPS; the authors took them out of math_7k and math_14k.
WITH_MAWPS = ("math_10k",)


@dataclass(frozen=True)
class Answers:
    """What the answers of a set are.

    Attributes:
        kind: one of a few words, a letter from A to E, or a number.
        words: the words, in the order in which LLM-Adapters looks for them.
    """

    kind: Kind
    words: tuple[str, ...] = ()

    @property
    def pattern(self) -> str:
        """The expression that finds a word."""
        return "|".join(self.words)


def _words(name: str, count: int) -> Answers:
    return Answers("choice", tuple(f"{name}{i}" for i in range(1, count + 1)))


_FIVE, _NUMBER = _words("answer", 5), Answers("number")
LETTERS = Answers("letter", ("A", "B", "C", "D", "E"))
SETS: Mapping[str, Answers] = {
    "boolq": Answers("choice", ("true", "false")),
    "piqa": _words("solution", 2),
    "social_i_qa": _FIVE,
    "hellaswag": _words("ending", 4),
    "winogrande": _words("option", 2),
    "ARC-Easy": _FIVE,
    "ARC-Challenge": _FIVE,
    "openbookqa": _FIVE,
    "MultiArith": _NUMBER,
    "gsm8k": _NUMBER,
    "SVAMP": _NUMBER,
    "mawps": _NUMBER,
    "AddSub": _NUMBER,
    "AQuA": LETTERS,
    "SingleEq": _NUMBER,
}
#: Column that says of which set a row is.
SET = "set"


def answers_like(answer: str) -> Answers | None:
    """Return what a set's answers are of which one is known; None where it is none of theirs.

    Training sets are mixtures, and their rows do not say of which set they are.
    """
    if is_number(answer):
        return _NUMBER
    words = (answers for answers in SETS.values() if answer in answers.words)
    return next(words, None)


def is_number(text: str) -> bool:
    """Tell whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def file_of_set(root: Path, name: str, split: Literal["train", "test"]) -> Path:
    """Return the file of a set below the root of LLM-Adapters, or beside others of its kind.

    Raises:
        DataError: there is none.
    """
    places = [f"dataset/{name}/{split}.json", f"{name}/{split}.json"]
    if split == "train":
        places = [f"ft-training_set/{name}.json", f"{name}.json", *places]
    for place in places:
        if (root / place).is_file():
            return root / place
    beside = {path.stem for path in (*root.glob("ft-training_set/*.json"), *root.glob("*.json"))}
    beside |= {path.parent.name for path in root.glob(f"**/{split}.json")}
    raise DataError(
        f"data.source {root} has none of {', '.join(places)}.{nearest(name, sorted(beside))}"
    )


def rows_of_file(file: Path, name: str, problems: list[DataError]) -> list[Row]:
    """Return the rows of a set's file, with the set's name, and note what is no row."""
    rows, bad = read_all(file)
    # fifteen files are named test.json
    place = file.relative_to(file.parent.parent).parent.as_posix()
    problems += [DataError(f"{place}/{error}") for error in bad]
    return [
        replace(row, values={**row.values, SET: name}, where=f"{place}/{row.where}") for row in rows
    ]


def leaked(training: str | None, tests: Sequence[str]) -> list[str]:
    """Return the test sets whose items a training set holds.

    A file that was renamed is known by the profile of the data alone, which compares rows.
    """
    stem = Path(training or "").name.removesuffix(".json")
    return [name for name in tests if stem in WITH_MAWPS and name in INSIDE_MAWPS]


def refusal_of(answer: str, answers: Answers | None, name: str) -> str:
    """Return what is wrong with an answer of a set, or an empty text."""
    if answers is None or answers is _NUMBER:
        wrong = answers is _NUMBER and not is_number(answer) and "####" not in answer
        return f"{answer!r} is no number, as answers of {name} are" if wrong else ""
    if answer in answers.words:
        return ""
    return f"{answer!r} is none of {name}'s: {', '.join(answers.words)}"


#: Where LoReFT's answers begin, and what stands before LLM-Adapters' answers.
TRIGGER, RESPONSE = "the correct answer is ", "### Response:"
NUMBERS = re.compile(r"-?\d+\.?\d*")
