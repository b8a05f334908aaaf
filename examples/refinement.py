"""Write code refinement pairs, made from Python's own standard library by rule.

    python examples/refinement.py refinement

A pair is a function of the library as it is (``new``), the same function with one expression made
worse (``old``), and what a reviewer would say of it (``comment``). The rules, in their order; the
first one that fits a function makes its pair, and all else stays as it was written:

    x is None          ->  x == None               x is not None  ->  x != None
    x not in y         ->  not x in y              isinstance(x, T)  ->  type(x) == T
    if flag:           ->  if flag == True:        if not flag:      ->  if flag == False:
    if x:              ->  if len(x) > 0:          where x is a name in the plural
    a name of an argument that is used at least twice  ->  arg1

The comment says what is wrong and where. These are no reviews that a person wrote: they are
uniform, and each asks for one small change. So copying ``old`` scores a BLEU-4 of .86, though it
matches no text; ``peftcore review-score`` with ``--answer old`` says so.
"""

import ast
import json
import random
import re
import sys
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
SHORTEST, LONGEST = 80, 300
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


class Edit(NamedTuple):
    """A part of a function that becomes another one, and what is said of it."""

    node: ast.AST
    text: str
    comment: str


def edits(function: ast.FunctionDef, source: str) -> Iterator[Edit]:
    """Yield what the rules find in a function, in their order."""
    nodes = list(ast.walk(function))

    def text(node: ast.AST) -> str:
        return ast.get_source_segment(source, node) or ""

    for node in nodes:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            left, right = text(node.left), text(node.comparators[0])
            match node.ops[0]:
                case ast.Is() if right == "None":
                    said = f"Compare {left} with None by identity."
                    yield Edit(node, f"{left} == None", said)
                case ast.IsNot() if right == "None":
                    said = f"Compare {left} with None by identity."
                    yield Edit(node, f"{left} != None", said)
                case ast.NotIn():
                    yield Edit(node, f"not {left} in {right}", f"Use not in for {left}.")
    for node in nodes:
        if isinstance(node, ast.Call) and text(node.func) == "isinstance" and len(node.args) == 2:
            value, kind = map(text, node.args)
            if re.fullmatch(r"[\w.]+", kind):
                said = f"Ask isinstance whether {value} is a {kind}, so that subclasses count."
                yield Edit(node, f"type({value}) == {kind}", said)
    for node in nodes:
        if isinstance(node, ast.If):
            yield from _tests(node.test)
    yield from _names(function)


def _tests(test: ast.expr) -> Iterator[Edit]:
    """Yield comparisons with truth and length for a test of one name."""
    if isinstance(test, ast.Name):
        name = test.id
        if name.endswith("s") and not name.endswith(("ss", "is", "us")):
            yield Edit(test, f"len({name}) > 0", f"Test {name} itself, not its length.")
        else:
            yield Edit(test, f"{name} == True", f"Do not compare {name} with True.")
    elif (
        isinstance(test, ast.UnaryOp)
        and isinstance(test.op, ast.Not)
        and isinstance(test.operand, ast.Name)
    ):
        name = test.operand.id
        yield Edit(test, f"{name} == False", f"Do not compare {name} with False.")


def _names(function: ast.FunctionDef) -> Iterator[Edit]:
    """Yield the first argument, self aside, that a function uses at least twice."""
    names = [node.id for node in ast.walk(function) if isinstance(node, ast.Name)]
    for argument in function.args.args:
        name = argument.arg
        if name not in ("self", "cls") and len(name) > 2 and names.count(name) >= 2:
            yield Edit(argument, "arg1", f"Name the argument {name}, not arg1.")
            return


def worsened(source: str, function: ast.FunctionDef, edit: Edit) -> str:
    """Return the source of a function with an edit; a name changes wherever it stands."""
    if isinstance(edit.node, ast.arg):
        return re.sub(rf"\b{re.escape(edit.node.arg)}\b", edit.text, source)
    lines = source.split("\n")
    node = edit.node
    line = lines[node.lineno - 1].encode()
    changed = line[: node.col_offset] + edit.text.encode() + line[node.end_col_offset :]
    lines[node.lineno - 1] = changed.decode()
    return "\n".join(lines)


def pairs(library: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield module and pair, one for each function that a rule fits; none twice."""
    seen = set()
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if LEFT_OUT.isdisjoint(parts):
            for pair in _of_file(path):
                if pair["new"] not in seen:
                    seen.add(pair["new"])
                    yield parts[0].lstrip("_"), pair


def _of_file(path: Path) -> Iterator[dict[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # doubtful escapes in the library
        try:
            with tokenize.open(path) as stream:
                source = stream.read()
            tree = ast.parse(source)
        except SyntaxError:
            return  # a file of another version of Python
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            lines = source.split("\n")[node.lineno - 1 : node.end_lineno]
            new = textwrap.dedent("\n".join(lines))
            if SHORTEST <= len(new) <= LONGEST and '"""' not in new:
                yield from _of_function(new)


def _of_function(new: str) -> Iterator[dict[str, str]]:
    """Yield the pair of a function, where one of the rules makes another program of it."""
    try:
        (function,) = ast.parse(new).body
        assert isinstance(function, ast.FunctionDef)
        for edit in edits(function, new):
            node = edit.node
            old = worsened(new, function, edit) if node.lineno == node.end_lineno else new
            if old != new and len(old.split("\n")) == len(new.split("\n")):
                ast.parse(old)
                yield {"old": old, "comment": edit.comment, "new": new}
                return
    except (SyntaxError, ValueError):
        return  # a string that is indented by less than its function


def write(library: Path, folder: Path) -> dict[str, int]:
    """Write the pairs as train, validation and test; a module of the library is in one of them."""
    rows: dict[str, list[dict[str, str]]] = {}
    for module, pair in pairs(library):
        rows.setdefault(module, []).append(pair)
    modules = sorted(rows)
    random.Random(0).shuffle(modules)
    total, counts = sum(map(len, rows.values())), {}
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("validation", "test", "train"):
        chosen: list[dict[str, str]] = []
        while modules and (split == "train" or len(chosen) < SHARES[split] * total):
            chosen += rows[modules.pop()]
        random.Random(1).shuffle(chosen)
        for number, row in enumerate(chosen):
            row["id"] = f"{split}-{number}"
        text = "".join(json.dumps(row) + "\n" for row in chosen)
        (folder / f"{split}.jsonl").write_text(text, "utf-8")
        counts[split] = len(chosen)
    return counts


if __name__ == "__main__":
    target = Path(sys.argv[1])
    for split, count in write(Path(sysconfig.get_path("stdlib")), target).items():
        print(f"{split}: {count} pairs")
