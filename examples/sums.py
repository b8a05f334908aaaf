"""Word problems in the JSON layout of LLM-Adapters, made by rule: ``python examples/sums.py sums``.

They are made up, of twelve templates; names and things of the test split occur in no other. The
answer is a whole number, the output says the sum and ``The answer is N.``, as math_10k's outputs
end. What a model learns here is to write such sums for sentences of this kind, and no more.
"""

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: Rows of each split.
SPLITS = {"train": 600, "validation": 100, "test": 300}
NAMES = {
    "train": ("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry"),
    "test": ("Ines", "Jonas", "Kate", "Liam"),
}
THINGS = {
    "train": ("apples", "books", "cards", "coins", "pencils", "stamps", "shells", "marbles"),
    "test": ("buttons", "stones", "tickets", "eggs"),
}
#: Text, the sum, and the least and the greatest of its numbers; a - b is never below 0.
TEMPLATES = (
    ("{name} has {a} {things} and finds {b} more. How many {things} does {name} have?", "+", 2, 40),
    ("{name} has {a} {things} and gives {b} of them away. How many are left?", "-", 2, 40),
    ("One box holds {a} {things}, another {b}. How many are there in all?", "+", 2, 40),
    ("Of {a} {things} {name} loses {b}. How many {things} does {name} still have?", "-", 2, 40),
    ("{name} fills {a} bags with {b} {things} each. How many {things} are that?", "*", 2, 9),
    ("{name} buys {b} {things} on each of {a} days. How many {things} are that?", "*", 2, 9),
    ("{name} had {a} {things}. Now there are {b}. How many are gone?", "-", 2, 40),
    ("{name} counts {a} {things} today and counted {b} yesterday. How many in all?", "+", 2, 40),
    ("A shelf holds {b} {things}. How many {things} do {a} shelves hold?", "*", 2, 9),
    ("{name} needs {a} {things} and has {b}. How many are missing?", "-", 2, 40),
    ("{name} adds {b} {things} to the {a} in a jar. How many are in the jar?", "+", 2, 40),
    ("Each of {a} friends brings {b} {things}. How many {things} do they bring?", "*", 2, 9),
)  # fmt: skip


def problems(split: str, chance: random.Random) -> Iterator[dict[str, Any]]:
    """Yield problems without an end, in the columns of LLM-Adapters."""
    part = "test" if split == "test" else "train"
    while True:
        text, sign, least, most = chance.choice(TEMPLATES)
        numbers = [chance.randint(least, most) for _ in range(2)]
        a, b = sorted(numbers, reverse=True) if sign == "-" else numbers
        found = {"+": a + b, "-": a - b, "*": a * b}[sign]
        name, things = chance.choice(NAMES[part]), chance.choice(THINGS[part])
        yield {
            "instruction": text.format(name=name, things=things, a=a, b=b),
            "input": "",
            "output": f"{a} {sign} {b} = {found}. The answer is {found}.",
            "answer": f"{found}.0",
        }


def write(folder: Path) -> dict[str, int]:
    """Write the files of the splits; no problem stands there twice."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for split, count in SPLITS.items():
        rows: list[dict[str, Any]] = []
        for row in problems(split, random.Random(split)):
            if row["instruction"] not in seen:
                seen.add(row["instruction"])
                rows.append(row)
            if len(rows) == count:
                break
        (folder / f"{split}.json").write_text(json.dumps(rows, indent=4) + "\n", "utf-8")
    return dict(SPLITS)


if __name__ == "__main__":
    print(write(Path(sys.argv[1] if len(sys.argv) > 1 else "sums")))
