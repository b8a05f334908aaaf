"""Labelled rows that Python's own parser makes from its standard library, for several tasks."""

import ast
import io
import keyword
import platform
import sys
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peftcore import DataError
from peftcore_samples.cache import cached
from peftcore_samples.python_code import pairs
from peftcore_samples.splits import write_splits

#: Most tokens of a function whose names are labelled, and most functions of a context.
_TOKENS, _FUNCTIONS = 60, 4
_KINDS: dict[str, tuple[type[ast.AST], ...]] = {
    "branch": (ast.If, ast.IfExp, ast.Match),
    "handler": (ast.Try,),
    "loop": (ast.For, ast.AsyncFor, ast.While, ast.comprehension),
    "raise": (ast.Raise,),
    "return": (ast.Return,),
    "with": (ast.With, ast.AsyncWith),
    "yield": (ast.Yield, ast.YieldFrom),
}

Rows = Iterator[tuple[str, dict[str, Any]]]


def python_names() -> Path:
    """Return the folder of short functions whose names are labelled: parameters and calls."""
    return _made("names", names)


def python_questions() -> Path:
    """Return the folder of questions for which of a few functions a sentence describes."""
    return _made("questions", questions)


def python_statements() -> Path:
    """Return the folder of sentences with the kinds of statements that their function has."""
    return _made("statements", statements)


def _made(kind: str, rows: Callable[[Path], Rows]) -> Path:
    def build(target: Path, scratch: Path) -> None:
        library = Path(sysconfig.get_path("stdlib"))
        found = list(rows(library))
        if not found:
            raise DataError(
                f"{library} holds no Python sources, so samples/python-{kind} is empty."
            )
        write_splits(found, target)

    version = f"{sys.implementation.name}-{platform.python_version()}"
    return cached(f"python-{kind}-{version}-r1", build)


def names(library: Path) -> Rows:
    """Yield the words of each short function, with B-parameter, B-call or O for each."""
    for group, row in pairs(library):
        source = str(row["prompt"])
        tree = ast.parse(source)
        words = [
            (token.string, token.start)
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.string.strip() and token.type != tokenize.COMMENT
        ]
        if len(words) <= _TOKENS and all(len(word.split()) == 1 for word, _ in words):
            marked = _marked(tree)
            labels = [marked.get(place, "O") for _, place in words]
            yield group, {"tokens": [word for word, _ in words], "labels": labels}


def _marked(tree: ast.AST) -> dict[tuple[int, int], str]:
    """Return line and column of each parameter and each called name."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            found[node.lineno, node.col_offset] = "B-parameter"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found[node.func.lineno, node.func.col_offset] = "B-call"
    return found


def questions(library: Path) -> Rows:
    """Yield a sentence, a few functions of one group, and the name of the one it describes."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for group, row in pairs(library):
        source, sentence = str(row["prompt"]), str(row["completion"])
        (function,) = ast.parse(source).body
        name = getattr(function, "name", "")
        if len(source) <= 400 and not keyword.iskeyword(name):
            groups.setdefault(group, []).append((name, source, sentence))
    for group, functions in groups.items():
        for i in range(0, len(functions) - _FUNCTIONS + 1, _FUNCTIONS):
            some = functions[i : i + _FUNCTIONS]
            context = "\n\n".join(source for _, source, _ in some)
            # each sentence in turn, so that no place is likelier than another
            name, _, sentence = some[i // _FUNCTIONS % _FUNCTIONS]
            start = context.find(f"def {name}(")
            if start >= 0 and context.count(f"def {name}(") == 1:
                answers = {"text": [name], "answer_start": [start + len("def ")]}
                yield group, {"question": sentence, "context": context, "answers": answers}


def statements(library: Path) -> Rows:
    """Yield a function's sentence, and which kinds of statements the function has."""
    for group, row in pairs(library):
        nodes = list(ast.walk(ast.parse(str(row["prompt"]))))
        kinds = [name for name, types in _KINDS.items() if any(isinstance(n, types) for n in nodes)]
        yield group, {"text": str(row["completion"]), "label": kinds}
