"""Functions and the first line of their docstrings, from Python's own standard library."""

import ast
import platform
import re
import sys
import sysconfig
import textwrap
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path

from peftcore import DataError
from peftcore_samples.cache import cached
from peftcore_samples.splits import Row, write_splits

_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
_LONGEST = 4000

_ASKED = "Say in one line what this Python function does, as its docstring would.\n\n"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def python_code() -> Path:
    """Return the folder of the functions of the Python that is running."""
    entry = f"python-code-{sys.implementation.name}-{platform.python_version()}-r1"
    return cached(entry, _build)


def python_chat() -> Path:
    """Return the folder of the same functions, each a question of a user and an answer."""
    entry = f"python-chat-{sys.implementation.name}-{platform.python_version()}-r1"
    return cached(entry, _build_chat)


def _build(target: Path, scratch: Path) -> None:
    write_splits(_all_pairs(), target)


def _build_chat(target: Path, scratch: Path) -> None:
    write_splits(((group, _asked(row)) for group, row in _all_pairs()), target)


def _all_pairs() -> list[tuple[str, Row]]:
    library = Path(sysconfig.get_path("stdlib"))
    rows = list(pairs(library))
    if not rows:
        raise DataError(f"{library} holds no Python sources, so samples/python-code is empty.")
    return rows


def _asked(row: Row) -> Row:
    """Return a pair as a conversation."""
    question = f"{_ASKED}```python\n{row['prompt']}\n```"
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": row["completion"]},
        ]
    }


def pairs(library: Path) -> Iterator[tuple[str, Row]]:
    """Yield top-level module and row for every function that tells what it does in one line."""
    seen = set()
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if _LEFT_OUT.isdisjoint(parts):
            for prompt, completion in _functions(path):
                if prompt not in seen:
                    seen.add(prompt)
                    # A package is one group: its modules copy from one another.
                    yield parts[0].lstrip("_"), {"prompt": prompt, "completion": completion}


def _functions(path: Path) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        # Doubtful escapes in the library are no matter of the user's.
        warnings.simplefilter("ignore")
        try:
            with tokenize.open(path) as stream:
                source = stream.read()
            tree = ast.parse(source)
        except SyntaxError:
            return  # a file of another version of Python
        lines = source.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, Function) and (summary := _summary(node)):
                prompt = _without_docstring(node, lines)
                if len(prompt) <= _LONGEST and _is_rest(prompt, node):
                    yield prompt, summary


def _summary(function: Function) -> str:
    """Return the first line of a docstring if it is a sentence and not all that there is."""
    first, _, rest = (ast.get_docstring(function) or "").partition("\n")
    # A second line that follows at once continues the first one's sentence.
    whole = not rest.split("\n")[0].strip()
    words = re.findall(r"[A-Za-z]+", first)
    good = whole and len(words) >= 3 and first[0].isalpha() and len(function.body) > 1
    return first.strip() if good else ""


def _without_docstring(function: Function, lines: list[str]) -> str:
    start = min([function.lineno, *(node.lineno for node in function.decorator_list)])
    docstring = function.body[0]
    assert docstring.end_lineno is not None and function.end_lineno is not None
    after = docstring.end_lineno
    while not lines[after].strip():
        after += 1
    kept = lines[start - 1 : docstring.lineno - 1] + lines[after : function.end_lineno]
    return textwrap.dedent("\n".join(kept))


def _is_rest(prompt: str, function: Function) -> bool:
    """Tell whether a prompt is the function without its docstring, and that alone.

    It is not where code shares a line with the docstring, or a string is indented by less.
    """
    function.body = function.body[1:]
    try:
        tree = ast.parse(prompt)
    except SyntaxError:
        return False
    return [ast.dump(node) for node in tree.body] == [ast.dump(function)]
