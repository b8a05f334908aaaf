"""FASTA: a header and a sequence a record."""

from pathlib import Path

from peftcore import DataError
from peftcore_train.data import Found, Row, of_text


def fasta(path: Path) -> Found:
    """Read the records of a file, gzip or not."""
    return of_text(path, records)


def records(text: str, name: str) -> Found:
    """Read records of FASTA: columns ``id``, ``description`` and ``sequence``.

    A record stands where its header does. Lines that begin with ``;`` are remarks.
    """
    head, parts, where = "", [], ""
    for number, line in enumerate((*text.split("\n"), ">"), 1):
        line = line.strip()
        if not line.startswith(">"):
            if line and not line.startswith(";"):
                if not where:
                    yield DataError(f"{name}:{number}: a sequence without a header that begins >.")
                    return
                parts.append(line)
            continue
        if where:
            identity, _, description = head.partition(" ")
            if identity:
                values = {"id": identity, "description": description.strip()}
                yield Row({**values, "sequence": "".join(parts)}, where)
            else:
                yield DataError(f"{where}: the header names no id; write it behind the >.")
        head, parts, where = line[1:].strip(), [], f"{name}:{number}"
