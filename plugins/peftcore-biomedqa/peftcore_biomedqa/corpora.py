"""PubMedQA and BioASQ as they are released, read question by question.

Rows have the columns ``id``, ``question``, ``context`` and, where it is known, ``label``. What the
authors of an abstract or of BioASQ concluded (``LONG_ANSWER``, ``ideal_answer``) is the answer in
other words: it is never read into a row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftcore import DataError
from peftcore_biomedqa.items import Item, json_items
from peftcore_train.data import Row

Found = Iterator[Row | DataError]
_ANSWERS = ("yes", "no", "maybe")


def pubmedqa(path: Path) -> Found:
    """Read ``{PMID: {QUESTION, CONTEXTS, final_decision, ...}}`` (Jin et al. 2019)."""
    for item in json_items(path):
        if not isinstance(item, Item):
            yield item
            continue
        try:
            yield _of_pubmed(item)
        except DataError as error:
            yield error


def bioasq(path: Path) -> Found:
    """Read ``{"questions": [{id, type, body, snippets, exact_answer}]}``: those of type yesno."""
    for item in json_items(path, inside="questions"):
        if not isinstance(item, Item):
            yield item
            continue
        try:
            row = _of_bioasq(item)
        except DataError as error:
            yield error
        else:
            if row is not None:
                yield row


def _of_pubmed(item: Item) -> Row:
    entry = _object(item)
    contexts = entry.get("CONTEXTS")
    if not _texts(contexts):
        raise DataError(
            f"{item.where}: PMID {item.name}: CONTEXTS is no list of texts, and there is"
            " nothing to answer from. Leave it out."
        )
    values = {
        "id": item.name,
        "question": _question(entry, "QUESTION", item),
        "context": " ".join(contexts),
    }
    decision = entry.get("final_decision")
    if decision is not None:
        values["label"] = _label(decision, f"{item.where}: PMID {item.name}: final_decision")
    return Row(values, item.where)


def _of_bioasq(item: Item) -> Row | None:
    entry = _object(item)
    if entry.get("type") != "yesno":
        return None
    name = entry.get("id")
    if not isinstance(name, str) or not name:
        raise DataError(f"{item.where}: the question has no id.")
    snippets = entry.get("snippets") or []
    found = [s.get("text") for s in snippets if isinstance(s, dict)]
    if not _texts(found):
        raise DataError(
            f"{item.where}: question {name} has no snippets with a text, and there is nothing"
            " to answer from. Leave it out."
        )
    values = {
        "id": name,
        "question": _question(entry, "body", item),
        # annotators mark the same sentence more than once
        "context": " ".join(dict.fromkeys(found)),
    }
    answer = entry.get("exact_answer")
    if answer is not None:
        first = answer[0] if isinstance(answer, list) and len(answer) == 1 else answer
        values["label"] = _label(first, f"{item.where}: question {name}: exact_answer")
    return Row(values, item.where)


def _object(item: Item) -> dict[str, Any]:
    if not isinstance(item.value, dict):
        raise DataError(
            f"{item.where}: {item.name} is no object with a question, but"
            f" {type(item.value).__name__}; is it another file?"
        )
    return item.value


def _question(entry: dict[str, Any], column: str, item: Item) -> str:
    question = entry.get(column)
    if not isinstance(question, str) or not question.strip():
        raise DataError(f"{item.where}: {item.name} has no {column}.")
    return question.strip()


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v for v in value)


def _label(value: Any, what: str) -> str:
    label = value.strip().lower().rstrip(".") if isinstance(value, str) else value
    if label not in _ANSWERS:
        raise DataError(f"{what} is {value!r}, none of {', '.join(_ANSWERS)}.")
    return str(label)
